"""Times training steps of a model beside its prompts: tokens/s, device memory by part, time by kernel.

Not for: whether what is learnt is right; tests say that.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from flux_vk.cli import bench_report
from flux_vk.cli.options import demo_model
from flux_vk.cli.tables import Cell
from flux_vk.cli.terminal import Terminal
from flux_vk.engine.model import Model, load
from flux_vk.errors import InputError
from flux_vk.gpu import Device, Profile
from flux_vk.train.base import Base, device_like, load_base
from flux_vk.train.batches import Example, MicroBatch, micro_batch
from flux_vk.train.engine import Engine, Rules
from flux_vk.train.lora import LoRA
from flux_vk.train.protocol import Update

HEADER = ("test", "tokens", "tokens/s", "±", "spread %", "ms per step", "repeats", "note")
NOTE = (
    "train BxL: optimiser steps on B sequences of L random tokens, forward, backward and update in one submit; ppL: a "
    "prompt of L tokens of the same model, in turns with them. Median, ±: standard deviation, spread: "
    "(largest - smallest) / median; one step beforehand is not counted. "
    "Device bytes by part: activations hold what a step keeps and needs."
)


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    batch: int
    length: int
    lora: LoRA
    rules: Rules
    recompute: bool
    repeat: int
    seed: int
    prompts: bool
    profile: bool

    @property
    def tokens(self) -> int:
        """Rows of a step."""
        return self.batch * self.length


def main(args: argparse.Namespace) -> int:
    """`bench train`."""
    path = args.model or demo_model()
    setup = Setup(
        args.batch_size, args.length, LoRA(args.rank, 2.0 * args.rank, args.dropout, tuple(args.target.split(","))),
        Rules(optim=args.optim), args.recompute, args.repeat, args.seed, args.prompts, args.profile,
    )  # fmt: skip
    device = Device(args.device)
    with Terminal().progress(f"Loading {path.name}", "bytes") as progress:
        base = load_base(path, device, setup.length, progress)
    if setup.length > base.config.context_length:
        raise InputError(f"--length {setup.length}: the model's context is {base.config.context_length}")
    facts, rows, profile = run(path, base, setup, bench_report.progress())
    note = NOTE
    if profile is not None:
        facts |= {"kernels": profile.by_kernel()} if args.format == "json" else {}
        note = f"{NOTE}\n\n{profile}"
    bench_report.write(args, facts, HEADER, rows, note)
    return 0


def run(
    path: Path, base: Base, setup: Setup, progress: Callable[[str], None]
) -> tuple[dict[str, Any], list[list[Cell]], Profile | None]:
    """Facts, lines of the table, and the profile of a step where it was asked for."""
    progress("what it will take")
    predicted = memory_needed(base, path, setup)
    engine = _engine(base, setup)
    engine.prepare()
    batch = random_batch(base, setup)
    progress("first step")
    started = time.perf_counter()
    _step(engine, batch, 1)
    first = time.perf_counter() - started
    facts = _facts(path, base, engine, predicted, first)
    steps, prompts = [], []
    with Prompting(path, base, setup) as ask:
        for i in range(setup.repeat):
            progress(f"step {i + 1} of {setup.repeat}")
            started = time.perf_counter()
            _step(engine, batch, i + 2)
            steps.append(setup.tokens / (time.perf_counter() - started))
            if ask is not None:
                prompts.append(ask())
    rows = [_row(f"train {setup.batch}x{setup.length}", setup.tokens, steps, "recompute" if setup.recompute else "")]
    if prompts:
        rows.append(_row(f"pp{setup.length}", setup.length, prompts, ""))
        ratios = [a / b for a, b in zip(steps, prompts, strict=True)]
        rows.append(["train / prompt", None, statistics.median(ratios), _deviation(ratios), None, None, None, "ratio"])
    profile = None
    if setup.profile:
        progress("profile")
        profile = engine.chain(setup.tokens, "update").profile(max(1, setup.repeat // 2))
    return facts, rows, profile


def memory_needed(base: Base, path: Path, setup: Setup) -> dict[str, int]:
    """Bytes by part as they are worked out without the device: what `train --dry-run` says."""
    planned = load_base(path, device_like(base.device), setup.length, fill=False)
    engine = _engine(planned, setup)
    engine.prepare()
    return engine.memory()


def random_batch(base: Base, setup: Setup) -> MicroBatch:
    """Sequences of random tokens, every one of which is to be predicted."""
    ids = np.random.default_rng(setup.seed).integers(0, base.config.vocab_size, (setup.batch, setup.length + 1))
    words = ids.astype(np.uint32)
    return micro_batch([Example(row[:-1], row[1:]) for row in words])


def _engine(base: Base, setup: Setup) -> Engine:
    return Engine(base, setup.lora, setup.tokens, rules=setup.rules, recompute=setup.recompute, seed=setup.seed)


def _step(engine: Engine, batch: MicroBatch, number: int) -> None:
    engine.forward_backward(batch, Update(1e-4, number, batch.counted))


class Prompting:
    """The model once more, for prompts; None where none are wanted."""

    def __init__(self, path: Path, base: Base, setup: Setup) -> None:
        self.path, self.base, self.setup = path, base, setup
        self.model: Model | None = None

    def __enter__(self) -> Callable[[], float] | None:
        if not self.setup.prompts:
            return None
        context = min(self.setup.length + 1, self.base.config.context_length)
        self.model = load(self.path, cast("Device", self.base.device), context, sequences=1)
        self._ask()
        return self._ask

    def __exit__(self, *_: object) -> None:
        if self.model is not None:
            self.model.close()

    def _ask(self) -> float:
        assert self.model is not None
        ids = list(range(3, min(self.setup.length, self.model.context - 1) + 3))
        generation = self.model.start([i % self.base.config.vocab_size for i in ids], max_tokens=1)
        for _ in generation:
            pass
        return float(generation.timings["prompt_per_second"])


def _row(name: str, tokens: int, rates: list[float], note: str) -> list[Cell]:
    rate = statistics.median(rates)
    spread = (max(rates) - min(rates)) / rate * 100
    return [name, tokens, rate, _deviation(rates), spread, 1e3 * tokens / rate, len(rates), note]


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _facts(path: Path, base: Base, engine: Engine, predicted: dict[str, int], first: float) -> dict[str, Any]:
    """What stands above the table, taken behind the first step: nothing else is on the device then."""
    parts, device = engine.memory(), cast("Device", base.device)
    return {
        "model": path.name, "device": device.name, "parameters": f"{engine.layout.parameters:,}", "first_step_s": first,
        **parts, "in_all": sum(parts.values()), "predicted": sum(predicted.values()),
        "allocated": device.memory()["allocated"],
    }  # fmt: skip
