"""Times a whole model: prompt and generated tokens per second, load time, time to the first token, memory.

Not for: single kernels (bench_kernels.py), or comparing with other programs (bench/compare_llamacpp.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flux_vk.errors import FluxError, InputError

if TYPE_CHECKING:
    from flux_vk.decode import SamplingParams
    from flux_vk.engine.model import Model

HEADER = ("test", "tokens/s", "spread %", "first token s", "seconds", "repeats")
NOTE = (
    "ppN: a prompt of N tokens, first token included; tgN: N tokens generated one by one, behind {depth} prompt "
    "tokens, the first not counted. Wall clock in this process, median; spread: (largest - smallest) / median; "
    "one run beforehand is not counted. Greedy; the end token is banned."
)


@dataclass(frozen=True)
class Measured:
    """One test: samples in tokens per second, times to the first token and of the whole in seconds."""

    name: str
    rates: tuple[float, ...]
    first: tuple[float, ...]
    seconds: tuple[float, ...]

    def row(self) -> list[str | float | int | None]:
        """The line as in HEADER."""
        middle = statistics.median(self.rates)
        spread = (max(self.rates) - min(self.rates)) / middle * 100 if middle else 0.0
        first, whole = statistics.median(self.first), statistics.median(self.seconds)
        return [self.name, middle, spread, first, whole, len(self.rates)]


class Unequal(FluxError):
    """Greedy tokens differed between two runs of the same prompt."""


def run(
    model: Model, prompts: Sequence[int], generate: Sequence[int], *, depth: int = 8, repeat: int = 3, seed: int = 0,
    check: bool = False, progress: Callable[[str], None] = lambda line: None,
) -> list[Measured]:  # fmt: skip
    """Measure prompts of these lengths and generations of these lengths. Raises InputError where the context is short.

    check: generate the first length twice more and raise Unequal unless the tokens agree.
    """
    longest = max([n + 1 for n in prompts] + [depth + n for n in generate], default=0)
    if longest > model.context:
        raise InputError(f"{longest} tokens are needed and the context holds {model.context}; give a larger -c")
    ids = _prompt(model, max([*prompts, depth]), seed)
    params = _greedy(model)
    if check:
        progress("check")
        compare(model, ids[:depth], params, max([*generate, 16]))
    found = []
    for n in prompts:
        progress(f"pp{n}")
        found.append(_measure(model, f"pp{n}", ids[:n], params, 1, repeat))
    for n in generate:
        progress(f"tg{n}")
        found.append(_measure(model, f"tg{n}", ids[:depth], params, n, repeat))
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
    from flux_vk.decode import SamplingParams

    banned = {i: float("-inf") for i in model.tokenizer.eog_ids if i < model.config.vocab_size}
    return SamplingParams(temperature=0.0, logit_bias=banned)


def _measure(model: Model, name: str, ids: list[int], params: SamplingParams, n: int, repeat: int) -> Measured:
    rates, first, seconds = [], [], []
    for i in range(repeat + 1):
        started = time.perf_counter()
        generation = model.start(ids, params, max_tokens=n)
        for _ in generation:
            pass
        whole = time.perf_counter() - started
        if len(generation.tokens) != n:
            raise Unequal(f"{name}: {len(generation.tokens)} tokens came, expected {n} ({generation.finish_reason})")
        if i == 0:
            continue  # makes chains and pipelines
        t = generation.timings
        rates.append(t["prompt_per_second"] if n == 1 else t["generated_per_second"])
        first.append(t["ttft_s"])
        seconds.append(whole)
    return Measured(name, tuple(rates), tuple(first), tuple(seconds))


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
    """This process's resident bytes now (`resident`, with mapped files) and at most (`peak`)."""
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
    size = path.stat().st_size
    used = memory()
    device = model.device.memory()
    return {
        "model": path.name, "architecture": model.config.arch, "file": size, "device": model.device.name,
        "load_s": model.load_seconds, "device_allocated": device["allocated"], **used,
    }  # fmt: skip
