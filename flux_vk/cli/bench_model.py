"""Times a whole model: prompts, tokens generated at several depths and for several streams at once, load time, memory.

Not for: single kernels (bench_kernels.py), growth (bench_scale.py) or other programs (bench_peers.py).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flux_vk.cli import bench_bytes, bench_fill, bench_report
from flux_vk.cli.options import demo_model
from flux_vk.cli.tables import Cell
from flux_vk.cli.terminal import Terminal
from flux_vk.decode import SamplingParams
from flux_vk.engine.model import Model, load
from flux_vk.engine.pages import PAGE_SIZE, pages_for
from flux_vk.errors import FluxError, InputError
from flux_vk.gpu.record import Counts

HEADER = (
    "test", "batch", "depth", "tokens/s", "±", "spread %", "ms per step", "first token s", "repeats", "dispatches",
    "barriers", "submits", "recorded", "note",
)  # fmt: skip
NOTE = (
    "ppN: a prompt of N tokens, first token included. tgN: N tokens generated one by one by each of `batch` streams, "
    "behind `depth` tokens in the cache and one prompt token; the first is not counted; tokens/s of all streams "
    "together. Wall clock in this process: median, ±: standard deviation, spread: (largest - smallest) / median; one "
    "run beforehand is not counted. dispatches, barriers, submits: of one decode step, counted while it ran; recorded: "
    "how often a chain was recorded while timing. Greedy; the end token is banned."
)


@dataclass(frozen=True)
class Setup:
    """What is measured. depths and batches are for generating; fill: "random" or "prompt"."""

    prompts: Sequence[int]
    generate: Sequence[int]
    depths: Sequence[int] = (0,)
    batches: Sequence[int] = (1,)
    repeat: int = 3
    seed: int = 0
    check: bool = False
    fill: str = "random"

    @property
    def context(self) -> int:
        """Tokens the longest test needs."""
        deepest = max(self.depths, default=0)
        return max([n + 1 for n in self.prompts] + [deepest + 1 + n for n in self.generate], default=1)

    @property
    def streams(self) -> int:
        """Sequences that live at the same time."""
        return max(self.batches, default=1)


@dataclass(frozen=True)
class Measured:
    """One test: samples in tokens per second, times to the first token in seconds, and what a decode step took."""

    name: str
    batch: int
    depth: int | None
    rates: tuple[float, ...]
    first: tuple[float, ...]
    step: Counts | None = None
    recorded: int = 0
    bytes: int = 0
    note: str = ""

    @property
    def rate(self) -> float:
        """Median tokens per second."""
        return statistics.median(self.rates)

    @property
    def deviation(self) -> float:
        """Standard deviation of the samples; 0 of a single one."""
        return statistics.stdev(self.rates) if len(self.rates) > 1 else 0.0

    def row(self) -> list[Cell]:
        """The line as in HEADER."""
        spread = (max(self.rates) - min(self.rates)) / self.rate * 100 if self.rate else 0.0
        line: list[Cell] = [self.name, self.batch, self.depth, self.rate, self.deviation, spread]
        step = self.step
        line += [None if step is None else 1e3 * self.batch / self.rate, statistics.median(self.first), len(self.rates)]
        line += [None, None, None] if step is None else [step.dispatches, step.barriers, step.submits]
        return [*line, str(self.recorded) if self.recorded else "never", self.note]


class Unequal(FluxError):
    """Greedy tokens differed between two runs of the same prompt."""


def main(args: argparse.Namespace) -> int:
    """`bench model`."""
    setup = Setup(args.pp, args.tg, args.depth, args.batch, args.repeat, args.seed, args.check, args.fill)
    if args.plot:
        bench_report.need_matplotlib()
    path = args.model or demo_model()
    with opened(path, args.device, setup, args.context, args.kv_type, args.lora) as model:
        found = run(model, setup, bench_report.progress())
        told = facts(model, path)
    if args.check:
        told["check"] = "greedy tokens agree in two runs"
    bench_report.write(args, told, HEADER, [m.row() for m in found], NOTE)
    if args.plot:
        from flux_vk.cli import bench_scale

        bench_scale.plot(args.plot, [(path.name, found)], f"{path.name}, {model.device.name}")
    return 0


def opened(
    path: Path, device: str | None, setup: Setup, context: int | None, kv_type: str, lora: list[str] | None = None
) -> Model:
    """The model, with room for what will be measured."""
    kv_tokens = None
    if setup.streams > 1:
        # A page more for each than it will fill: the engine begins a stream only where those that run can still grow.
        room = (pages_for(setup.context) + 1) * PAGE_SIZE * setup.streams
        kv_tokens = max(room, context or 0)
        context = context or min(setup.context, kv_tokens)
    elif setup.context > 4096:
        context = context or setup.context
    with Terminal().progress(f"Loading {path.name}", "bytes") as progress:
        return load(
            path, device, context, kv_type, sequences=setup.streams, kv_tokens=kv_tokens, lora=lora, progress=progress
        )


def run(model: Model, setup: Setup, progress: Callable[[str], None] = lambda line: None) -> list[Measured]:
    """Measure all prompts, then all generations. Raises InputError where the context is too short, Unequal."""
    if setup.context > model.context:
        raise InputError(f"{setup.context} tokens are needed and the context holds {model.context}; give a larger -c")
    ids = _prompt(model, setup.context, setup.seed)
    params = _greedy(model)
    if setup.check:
        progress("check")
        compare(model, ids[:8], params, 16)
    found = []
    for n in setup.prompts:
        progress(f"pp{n}")
        found.append(_measure_prompt(model, ids[:n], params, setup.repeat))
    random_fill = setup.fill == "random" and max(setup.depths, default=0) > 0 and setup.generate
    if random_fill:
        progress("filling the cache")
        bench_fill.random_cache(model, setup.seed)
    for depth in setup.depths:
        filled = bool(random_fill) and depth > 0
        with bench_fill.marked(model, ids[:depth]) if filled else nullcontext():
            for batch in setup.batches:
                for n in setup.generate:
                    name = f"tg{n}" + (f" @ d{depth}" if depth else "") + (f" x{batch}" if batch > 1 else "")
                    progress(name)
                    note = bench_fill.NOTE if filled else ""
                    found.append(_measure(model, name, ids[: depth + 1], params, n, batch, setup.repeat, note))
    return found


def _prompt(model: Model, n: int, seed: int) -> list[int]:
    """Random tokens that are no control tokens."""
    rng = np.random.default_rng(seed)
    vocab = min(model.config.vocab_size, model.tokenizer.vocab_size)
    ids: list[int] = []
    while len(ids) < n:
        token = int(rng.integers(0, vocab))
        if token not in model.tokenizer.eog_ids and not model.tokenizer.is_special(token):
            ids.append(token)
    return ids


def _greedy(model: Model) -> SamplingParams:
    banned = {i: float("-inf") for i in model.tokenizer.eog_ids if i < model.config.vocab_size}
    return SamplingParams(temperature=0.0, logit_bias=banned)


def _measure_prompt(model: Model, ids: list[int], params: SamplingParams, repeat: int) -> Measured:
    rates, first = [], []
    for i in range(repeat + 1):
        if i == 1:  # the run beforehand made chains and pipelines
            before = model.device.counts.recordings
        generation = model.start(ids, params, max_tokens=1)
        for _ in generation:
            pass
        if i:
            rates.append(generation.timings["prompt_per_second"])
            first.append(generation.timings["ttft_s"])
    recorded = model.device.counts.recordings - before
    return Measured(f"pp{len(ids)}", 1, None, tuple(rates), tuple(first), recorded=recorded)


def _measure(
    model: Model, name: str, ids: list[int], params: SamplingParams, n: int, batch: int, repeat: int, note: str
) -> Measured:
    counts = model.device.counts
    _generate(model, ids, params, n, batch, name)  # makes chains and pipelines
    start = replace(counts)
    _generate(model, ids, params, 1, batch, name)  # what a generation takes besides its decode steps
    beside = counts - start
    rates, first = [], []
    start = replace(counts)
    for _ in range(repeat):
        rate, waited = _generate(model, ids, params, n, batch, name)
        rates.append(rate)
        first.append(waited)
    taken, steps = counts - start, max(1, repeat * (n - 1))
    each = [
        round((getattr(taken, f) - repeat * getattr(beside, f)) / steps) for f in ("submits", "dispatches", "barriers")
    ]
    depth = len(ids) - 1
    moved = bench_bytes.step_bytes(model, depth, batch)
    return Measured(
        name, batch, depth, tuple(rates), tuple(first), Counts(0, *each), taken.recordings, moved, note
    )  # fmt: skip


def _generate(
    model: Model, ids: list[int], params: SamplingParams, n: int, batch: int, name: str
) -> tuple[float, float]:
    """(tokens per second behind the first token of the last stream to begin, seconds until then)."""
    started = time.perf_counter()
    counted, first, last = 0, 0.0, started
    lengths = [0] * batch
    stream: Iterable[tuple[int, Any]]
    if batch == 1:
        stream = ((0, token) for token in model.start(ids, params, max_tokens=n))
    else:
        stream = model.start_many([ids] * batch, params, max_tokens=n)
    waiting = batch
    for index, _ in stream:
        last = time.perf_counter()
        waiting -= lengths[index] == 0
        lengths[index] += 1
        if waiting:
            if lengths[index] == n > 1:
                raise Unequal(f"{name}: a stream ended before all {batch} had begun; they were not decoded together")
            continue
        if first:
            counted += 1
        else:
            first = last
    if lengths != [n] * batch:
        raise Unequal(f"{name}: {lengths} tokens came, expected {n} of each of {batch} streams")
    return (counted / (last - first) if counted else 0.0), first - started


def compare(model: Model, ids: list[int], params: SamplingParams, n: int) -> list[int]:
    """Greedy tokens, generated twice; Unequal where they differ."""
    n = min(n, model.context - len(ids))
    runs = []
    for _ in range(2):
        generation = model.start(ids, params, max_tokens=n)
        for _ in generation:
            pass
        runs.append(list(generation.tokens))
    if runs[0] != runs[1]:
        at = next((i for i, (a, b) in enumerate(zip(*runs, strict=False)) if a != b), min(map(len, runs)))
        parts = f"{runs[0][at : at + 4]} and {runs[1][at : at + 4]}"
        raise Unequal(f"greedy tokens of two runs differ from token {at} on: {parts}")
    return runs[0]


def memory() -> dict[str, int]:
    """Bytes of this process: now in memory, of it mapped files, and the most so far. Empty where it cannot be told."""
    names = {"VmRSS": "resident", "RssFile": "of it mapped files", "VmHWM": "peak"}
    found = {}
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in names:
                found[names[key]] = int(value.split()[0]) * 1024
    except OSError:
        pass  # not Linux: nothing to tell
    return found


def facts(model: Model, path: Path) -> dict[str, Any]:
    """What stands above the table."""
    used = memory()
    device = model.device.memory()
    return {
        "model": path.name, "architecture": model.config.arch, "file": path.stat().st_size,
        "device": model.device.name, "driver": model.device.info["driver"], "load_s": model.load_seconds,
        "weights_per_token": bench_bytes.weight_bytes(model), "kv_per_token": bench_bytes.kv_bytes(model, 1),
        "device_allocated": device["allocated"], **used,
    }  # fmt: skip
