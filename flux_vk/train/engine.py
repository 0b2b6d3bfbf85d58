"""One adapter being trained on a device: its numbers, its recorded chains, one submit per micro-batch.

Not for: which batches and rates come next (loop.py), or what a chain holds (step.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..gpu import Chain
from ..gpu.optimizer import KNOBS, STATS, adamw, gradient_stats, pack_knobs, sgd
from .adapted import Pair
from .base import Base
from .batches import MicroBatch
from .build import build_train_step
from .lora import F32Array, Layout, LoRA, Site, initial, make_layout, to_adapter
from .options import OPTIMIZERS
from .protocol import State, StepResult, Update
from .step import HEAD_ROWS, Rows

if TYPE_CHECKING:
    from ..formats.adapter import Adapter
    from ..gpu import Buffer
    from ..gpu.record import Recorded

INPUTS = ("ids", "pos", "first", "last", "labels")


@dataclass(frozen=True)
class Rules:
    """What the optimiser is told once: clip 0 means no clipping."""

    optim: str = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.01
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.optim not in OPTIMIZERS:
            raise InputError(f"optim is {self.optim!r}; expected {' or '.join(OPTIMIZERS)}")


class Engine:
    """An adapter over a frozen model, and its optimiser.

    max_rows: rows of the largest micro-batch, padding included. recompute: keep less, compute it again. Chains are
    recorded when their number of rows is first met. Not for several threads.
    Raises InputError (targets, sizes), OutOfDeviceMemory.
    """

    def __init__(
        self,
        base: Base,
        lora: LoRA,
        max_rows: int,
        *,
        rules: Rules | None = None,
        recompute: bool = False,
        seed: int = 0,
        start: F32Array | None = None,
    ) -> None:
        self.base, self.device = base, base.device
        self.lora, self.rules, self.recompute, self.seed = lora, rules or Rules(), recompute, seed
        self.layout: Layout = make_layout(base.config, lora)
        self.max_rows = -(-max_rows // HEAD_ROWS) * HEAD_ROWS
        self._check_rows()
        self.micro = 0
        dev, size = self.device, self.layout.size
        self.inputs = {name: dev.host((self.max_rows,), "u32") for name in INPUTS}
        self.counter, self.knobs = dev.host((4,), "u32"), dev.host((KNOBS,), "f32")
        self.stats, self.total = dev.host((STATS,), "f32"), dev.host((1,), "f32")
        self.loss = dev.empty((self.max_rows,))
        self.params, self.grads, self.m = dev.zeros((size,)), dev.zeros((size,)), dev.zeros((size,))
        self.v = dev.zeros((size,)) if self.rules.optim == "adamw" else None
        self.params.write(initial(self.layout, seed) if start is None else start)
        self.pairs = {name: self._pair(site) for name, site in self.layout.sites.items()}
        self._recorded: dict[tuple[int, str], Recorded] = {}

    # -- steps --------------------------------------------------------------------------------------------------------

    def forward_backward(self, batch: MicroBatch, update: Update | None = None) -> StepResult:
        """Adds the batch's gradients to those that are there; with an update the optimiser goes on from them.

        One submit. Where the gradient is not finite the update changes no parameter.
        """
        if update is not None:
            self._write_update(update)
        self._run(batch, "update" if update is not None else "gradient")
        self.micro += 1
        loss, stats = float(self.total.view()[0]), self.stats.view()
        norm = float(stats[0]) if update is not None else None
        return StepResult(loss, norm, math.isfinite(loss) and (update is None or bool(stats[2])))

    def prepare(self) -> None:
        """Take the memory that the largest step needs now, so that nothing has to grow later."""
        self.chain(self.max_rows, "update").plan()

    def evaluate(self, batch: MicroBatch) -> float:
        """The batch's loss, summed over its counted labels. Nothing is learnt."""
        self._run(batch, "loss")
        return float(self.total.view()[0])

    def clear_gradients(self) -> None:
        """Forget what earlier micro-batches added."""
        self.grads.write(np.zeros(self.layout.size, np.float32))

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Exact copies of what training has changed: params, m, v f32[P], and the number of micro-batches so far."""
        state: dict[str, npt.NDArray[Any]] = {"params": self.params.numpy(), "m": self.m.numpy()}
        if self.v is not None:
            state["v"] = self.v.numpy()
        state["micro"] = np.array([self.micro], np.uint64)
        return state

    def load_state(self, state: State) -> None:
        """Go on from `state()`. Raises InputError where it is of another adapter or optimiser."""
        wanted = {"params": self.params, "m": self.m} | ({"v": self.v} if self.v is not None else {})
        for name in (*wanted, "micro"):
            if name not in state:
                raise InputError(f"the state has no {name!r}; it is of another optimiser than {self.rules.optim}")
        for name, buffer in wanted.items():
            if state[name].shape != (self.layout.size,):
                raise InputError(
                    f"the state's {name!r} has {state[name].size} numbers; this adapter has {self.layout.size}: rank "
                    f"or targets differ"
                )
            buffer.write(state[name].astype(np.float32, copy=False))
        self.micro = int(state["micro"][0])
        self.clear_gradients()

    def adapter(self, name: str = "") -> Adapter:
        """What was learnt so far, to be written to a file."""
        return to_adapter(self.layout, self.params.numpy(), self.base.config.arch, name, self.base.path)

    def gradients(self) -> dict[str, tuple[F32Array, F32Array]]:
        """The gradients added up so far (of the summed loss): for each weight those of A [r, in] and B [out, r]."""
        flat = self.grads.numpy()
        return {
            s.weight: (flat[a].reshape(s.rank, s.n_in), flat[b].reshape(s.n_out, s.rank))
            for s, a, b in self.layout.matrices()
        }

    def memory(self) -> dict[str, int]:
        """Device bytes by part: the base's weights, the adapter, its gradients, the optimiser, inputs, activations."""
        inputs = [*self.inputs.values(), self.counter, self.knobs, self.stats, self.total, self.loss]
        return {
            "weights": self.base.nbytes,
            "adapter": self.params.nbytes,
            "gradients": self.grads.nbytes,
            "optimizer": self.m.nbytes + (self.v.nbytes if self.v is not None else 0),
            "inputs": sum(b.nbytes for b in inputs),
            "activations": self.base.arena.nbytes,
        }

    # -- chains -------------------------------------------------------------------------------------------------------

    def chain(self, rows: int, kind: str) -> Chain:
        """The chain over so many rows; kind: "loss", "gradient" (added to those that are there) or "update" (and the
        optimiser behind it)."""
        chain = Chain(self.device, self.base.arena, name=f"training step of {rows} rows ({kind})")
        views = {name: buffer.rows(0, rows) for name, buffer in self.inputs.items()}
        loss = self.loss.rows(0, rows)
        build_train_step(
            chain, self.base.config, self.base.weights, Rows(**views, counter=self.counter), self.pairs, loss,
            backward=kind != "loss", recompute=self.recompute, dropout=0.0 if kind == "loss" else self.lora.dropout,
        )  # fmt: skip
        chain.scope("loss")
        chain.reduce(x=loss.reshape(1, rows), y=self.total, OP=0)
        if kind == "update":
            chain.scope("optimizer")
            self._add_update(chain)
        return chain

    def _add_update(self, chain: Chain) -> None:
        state = {"params": self.params, "grads": self.grads, "m": self.m, "knobs": self.knobs, "stats": self.stats}
        gradient_stats(chain, grads=self.grads, knobs=self.knobs, stats=self.stats)
        if self.v is not None:
            adamw(chain, v=self.v, **state)
        else:
            sgd(chain, **state)

    def _run(self, batch: MicroBatch, kind: str) -> None:
        rows = len(batch.ids)
        if not 0 < rows <= self.max_rows:
            raise InputError(f"a micro-batch of {rows} rows; expected 1 to {self.max_rows}")
        for name, buffer in self.inputs.items():
            buffer.view()[:rows] = getattr(batch, name)
        self.counter.view()[:] = (self.seed & 0xFFFFFFFF, self.seed >> 32 & 0xFFFFFFFF, self.micro & 0xFFFFFFFF, 0)
        recorded = self._recorded.get((rows, kind))
        if recorded is None:
            recorded = self._recorded[rows, kind] = self.chain(rows, kind).record()
        recorded.submit()
        recorded.wait()

    def _check_rows(self) -> None:
        """InputError where a binding cannot hold a buffer of all rows."""
        cfg = self.base.config
        width = max(cfg.qkv_width, 2 * cfg.ffn_dim, cfg.dim)
        most = self.device.max_range // (4 * width) // HEAD_ROWS * HEAD_ROWS
        if self.max_rows > most:
            raise InputError(
                f"micro-batches of {self.max_rows} rows; at most {most} rows of {width} numbers fit into one binding "
                f"of this device: take a smaller batch-size or max-length, with more grad-accum"
            )

    def _pair(self, site: Site) -> Pair:
        def view(flat: Buffer, at: int, rows: int, columns: int) -> Buffer:
            return flat.rows(at, at + rows * columns).reshape(rows, columns)

        r, n_in, n_out = site.rank, site.n_in, site.n_out
        return Pair(
            view(self.params, site.a_at, r, n_in), view(self.params, site.b_at, n_out, r),
            view(self.grads, site.a_at, r, n_in), view(self.grads, site.b_at, n_out, r),
            self.lora.scale, site.number,
        )  # fmt: skip

    def _write_update(self, u: Update) -> None:
        r = self.rules
        self.knobs.view()[:] = pack_knobs(
            lr=u.lr, step=u.step, inverse_count=1.0 / max(u.counted, 1), weight_decay=r.weight_decay, max_norm=r.clip,
            betas=(r.beta1, r.beta2), eps=r.eps, momentum=r.momentum,
        )  # fmt: skip
