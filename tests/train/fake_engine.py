"""An engine without a device: a table of next-token logits with a low-rank change, learned by AdamW in NumPy.

Not for: what a real engine computes; it keeps to the protocol and its state is exact, as a real one's.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.formats.adapter import Adapter, LoraPair
from flux_vk.train.batches import IGNORED, Example, MicroBatch
from flux_vk.train.options import TrainOptions
from flux_vk.train.protocol import State, StepResult, Update
from flux_vk.train.trainer import Trainer

V, RANK = 16, 4
WEIGHT = "blk.0.attn_v.weight"


class FakeEngine:
    """`submits` are (tokens, update or None) of every forward_backward. poison: the update after which all is NaN."""

    def __init__(self, seed: int = 0, poison: int | None = None) -> None:
        a = np.random.default_rng(seed).standard_normal((RANK, V)).astype(np.float32) / 4
        self.params = np.concatenate([a.ravel(), np.zeros(V * RANK, np.float32)])
        self.m, self.v, self.grads = np.zeros_like(self.params), np.zeros_like(self.params), np.zeros_like(self.params)
        self.micro = 0
        self.poison = poison
        self.submits: list[tuple[int, Update | None]] = []
        self.evaluated = 0
        self.on_submit: Any = lambda: None

    def _pair(self, flat: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        return flat[: RANK * V].reshape(RANK, V), flat[RANK * V :].reshape(V, RANK)

    def _loss(self, batch: MicroBatch, learn: bool) -> float:
        a, b = self._pair(self.params)
        rows = batch.labels != IGNORED
        x, y = batch.ids[rows], batch.labels[rows]
        logits = a[:, x].T @ b.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        loss = float(-np.log(p[np.arange(len(y)), y]).sum())
        if learn:
            p[np.arange(len(y)), y] -= 1
            ga, gb = self._pair(self.grads)
            gb += p.T @ a[:, x].T
            np.add.at(ga.T, x, p @ b)
        return loss

    def forward_backward(self, batch: MicroBatch, update: Update | None = None) -> StepResult:
        self.on_submit()
        self.submits.append((batch.tokens, update))
        self.micro += 1
        loss = self._loss(batch, True)
        if update is None:
            return StepResult(loss, None, np.isfinite(loss).item())
        g = self.grads / np.float32(update.counted)
        norm = float(np.sqrt((g.astype(np.float64) ** 2).sum()))
        if not np.isfinite(norm):
            return StepResult(loss, norm, False)
        self.m = (0.9 * self.m + 0.1 * g).astype(np.float32)
        self.v = (0.99 * self.v + 0.01 * g * g).astype(np.float32)
        hat_m, hat_v = self.m / (1 - 0.9**update.step), self.v / (1 - 0.99**update.step)
        self.params = (self.params - update.lr * hat_m / (np.sqrt(hat_v) + 1e-8)).astype(np.float32)
        if update.step == self.poison:
            self.params[:] = np.nan
        self.grads = np.zeros_like(self.params)
        return StepResult(loss, norm, True)

    def evaluate(self, batch: MicroBatch) -> float:
        self.evaluated += batch.counted
        return self._loss(batch, False)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        return {"params": self.params.copy(), "m": self.m.copy(), "v": self.v.copy(), "micro": np.array(self.micro)}

    def load_state(self, state: State) -> None:
        self.params, self.m, self.v = (state[name].copy() for name in ("params", "m", "v"))
        self.micro = int(state["micro"])

    def adapter(self) -> Adapter:
        a, b = self._pair(self.params)
        return Adapter("qwen2", 8.0, {WEIGHT: LoraPair(a.copy(), b.copy())})

    def memory(self) -> dict[str, int]:
        return {"adapter": self.params.nbytes, "weights": 1000}


def examples(n: int, seed: int = 0, longest: int = 8) -> list[Example]:
    """Sequences that count up (mod V), so that there is something to learn."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        tokens = (rng.integers(V) + np.arange(rng.integers(2, longest + 2))) % V
        found.append(Example(tokens[:-1].astype(np.uint32), tokens[1:].astype(np.uint32)))
    return found


def trainer(
    out: Path, engine: FakeEngine | None = None, n: int = 10, n_valid: int = 0, events: list[Any] | None = None,
    **options: Any,
) -> Trainer:  # fmt: skip
    """A small training: 10 examples, 2 a micro-batch."""
    known = {"lr": 0.05, "warmup": 0.0, "batch_size": 2, "valid": Path("v") if n_valid else None} | options
    callback = None if events is None else events.append
    return Trainer(
        engine or FakeEngine(), examples(n), examples(n_valid, 1), TrainOptions(**known), max_length=8, out=out,
        about={"model": "tiny"}, callback=callback,
    )  # fmt: skip


def killable(out: str) -> None:
    """For a process that is killed: save after every step, and say so. The state has a checksum of its own."""

    class Slow(FakeEngine):
        def state(self) -> dict[str, npt.NDArray[Any]]:
            state = super().state()
            padding = np.random.default_rng(self.micro).standard_normal(200_000)
            return {**state, "padding": padding, "sum": padding.sum()[None]}

    def tell(event: object) -> None:
        print(type(event).__name__, flush=True)
        time.sleep(0.002)

    options = TrainOptions(lr=0.01, batch_size=2, steps=10_000, save_every=1, keep=2)
    Trainer(Slow(), examples(10), [], options, max_length=8, out=Path(out), callback=tell).run()


if __name__ == "__main__":
    arguments: Sequence[str] = sys.argv[1:]
    os.nice(5)
    killable(arguments[0])
