"""Times kernels one by one: checked against the reference first, then replayed, next to a copy on the same device.

Not for: what the kernels are given (bench_cases.py).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.cli.bench_cases import Case, Prepared
from flux_vk.errors import ArgumentError, ContractError, FluxError
from flux_vk.gpu import Buffer, Chain, Device, Recorded
from flux_vk.gpu.steps import Dispatch

COPY_BYTES = {"cpu": 64 << 20}
COPY_BYTES_GPU = 512 << 20
SUBMIT_SECONDS = 0.02
"""A submit holds as many replays as take about this long, so that submitting costs little of it."""
MOST_REPLAYS = 512
HEADER = (
    "kernel", "variant", "case", "time us", "spread %", "device us", "GB/s", "GFLOP/s", "of copy %", "error", "replays",
)  # fmt: skip
NOTE = (
    "time: median wall clock of submit and wait, divided by the replays in a submit; spread: (largest - smallest) "
    "/ median; device: the same by timestamps, where the device has them. One dispatch at a time, a barrier after "
    "each. GB/s counts what must be read and written once; of copy: next to {copy:.1f} GB/s read and written by "
    "{how}, measured in turns; error: NMSE against the float64 reference, checked before timing."
)


@dataclass(frozen=True)
class Result:
    """One line of the table; times in seconds per call."""

    kernel: str
    variant: str
    label: str
    seconds: float
    spread: float
    device_seconds: float | None
    bytes: float
    flops: float
    copy_rate: float
    copy_how: str
    error: float
    replays: int

    def row(self) -> list[str | float | int | None]:
        """The line as in HEADER."""
        rate = self.bytes / self.seconds
        device = None if self.device_seconds is None else self.device_seconds * 1e6
        return [
            self.kernel, self.variant, self.label, self.seconds * 1e6, self.spread * 100, device, rate / 1e9,
            self.flops / self.seconds / 1e9, rate / self.copy_rate * 100, f"{self.error:.1e}", self.replays,
        ]  # fmt: skip


class WrongResult(FluxError):
    """A kernel does not compute what its reference does; nothing is timed then."""


class Copy:
    """The yardstick: a copy of a large buffer, by the faster of the transfer command and the copy kernel."""

    def __init__(self, device: Device) -> None:
        nbytes = COPY_BYTES.get(device.kind, COPY_BYTES_GPU)
        nbytes = min(nbytes, device.max_range, device.memory()["free"] // 8) // 4096 * 4096
        source, target = device.zeros((nbytes // 4,), "u32"), device.empty((nbytes // 4,), "u32")
        self.nbytes = nbytes
        by_command = Chain(device, name="copy").copy(src=source, dst=target)
        by_kernel = Chain(device, name="copy kernel")
        columns = 1024
        rows = nbytes // 4 // columns
        zero = {"x_offset": 0, "y_offset": 0}
        flat = {"x": source.cast("f32", (rows, columns)), "y": target.cast("f32", (rows, columns))}
        by_kernel.copy_strided(**flat, rows=rows, cols=columns, x_stride=columns, y_stride=columns, **zero)
        ways = {"chain.copy": by_command.record(), "the copy kernel": by_kernel.record()}
        first = {how: min(_timed(step) for _ in range(4)) for how, step in ways.items()}
        self.how = min(first, key=lambda how: first[how])
        self._step = ways[self.how]
        self.samples: list[float] = []

    def sample(self) -> None:
        """Time it once."""
        self.samples.append(_timed(self._step))

    def rate(self, samples: list[float] | None = None) -> float:
        """Bytes per second, read and written, of the median of these samples (default: all so far)."""
        middle: float = statistics.median(samples or self.samples)
        return 2 * self.nbytes / middle


def _timed(step: Recorded) -> float:
    started = time.perf_counter()
    step.submit()
    step.wait()
    return time.perf_counter() - started


def run(
    device: Device, cases: Iterable[Case], *, repeat: int = 7, warm: bool = False, seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Iterator[Result]:  # fmt: skip
    """Check and time each case. Cases that the device or the build cannot run are told to `progress` and left out.

    warm: always the same memory; else copies of it in turn, so that caches do not hold what a model would not find
    there. Raises WrongResult.
    """
    copy = Copy(device)
    for case in cases:
        progress(f"{case.kernel} {case.label}")
        try:
            prepared = case.make(device, np.random.default_rng(seed))
        except (ArgumentError, ContractError) as error:
            progress(f"{case.kernel} {case.label}: left out ({error})")
            continue
        yield measure(device, case, prepared, copy, repeat, warm)


def measure(device: Device, case: Case, prepared: Prepared, copy: Copy, repeat: int, warm: bool) -> Result:
    """Check one case, then time it, with a copy between any two samples."""
    once = Chain(device, name=case.kernel)
    prepared.append(once, prepared.buffers)
    once.run()
    error = check(case, prepared)
    totals = once.totals()
    sets = [prepared.buffers] if warm else _sets(device, prepared.buffers)
    stamps = float(device.limits["timestamp_period_ns"]) > 0
    single = once.record()
    calls = max(1, len(once))
    estimate = min(_timed(single) for _ in range(2))
    replays = max(1, min(MOST_REPLAYS // calls, math.ceil(SUBMIT_SECONDS / max(estimate, 1e-6))))
    chain = Chain(device, name=case.kernel)
    for i in range(replays):
        prepared.append(chain, sets[i % len(sets)])
    step = Recorded(chain, chain.plan(), timestamps=stamps)
    _timed(step)
    walls, ticks = [], []
    before = len(copy.samples)
    for _ in range(max(1, repeat)):
        walls.append(_timed(step) / replays)
        if stamps:
            found = step.timestamps()
            ticks.append((found[-1] - found[0]) * float(device.limits["timestamp_period_ns"]) / 1e9 / replays)
        copy.sample()
    middle = statistics.median(walls)
    return Result(
        case.kernel, variant_of(once), case.label, middle, (max(walls) - min(walls)) / middle,
        statistics.median(ticks) if ticks else None,
        totals.bytes if prepared.bytes is None else prepared.bytes,
        totals.flops if prepared.flops is None else prepared.flops,
        copy.rate(copy.samples[before:]), f"{copy.how} of {copy.nbytes >> 20} MiB", error, replays,
    )  # fmt: skip


def variant_of(chain: Chain) -> str:
    """The variant of the chain's last dispatch."""
    found = [s for s in chain.steps if isinstance(s, Dispatch)]
    return found[-1].variant.name if found else ""


def check(case: Case, prepared: Prepared) -> float:
    """The largest NMSE of the outputs against the reference. Raises WrongResult above the contract's tolerance."""
    worst = 0.0
    for name, part, want in prepared.checks:
        got = part(prepared.buffers[name].numpy())
        error = nmse(got, want)
        if not error <= prepared.nmse:
            raise WrongResult(
                f"{case.kernel} {case.label}: {name} differs from the reference by an NMSE of {error:.3g}; "
                f"expected at most {prepared.nmse:.3g}: not timed"
            )
        worst = max(worst, error)
    return worst


def nmse(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> float:
    """Normalised mean squared error; 0 for integers that are equal, infinite for others."""
    if got.dtype.kind in "ui":
        return 0.0 if np.array_equal(got, want.astype(got.dtype)) else math.inf
    a, b = got.astype(np.float64).reshape(-1), np.asarray(want, np.float64).reshape(-1)
    scale = float((b * b).sum())
    return float(((a - b) ** 2).sum()) / (scale or 1.0)


def _sets(device: Device, buffers: Mapping[str, Buffer]) -> list[dict[str, Buffer]]:
    """The buffers and copies of them, together as large as what the copy moves: more than caches hold."""
    one = sum(b.nbytes for b in buffers.values())
    room = min(COPY_BYTES.get(device.kind, COPY_BYTES_GPU), device.memory()["free"] // 8)
    count = max(1, min(32, room // max(one, 1)))
    sets = [dict(buffers)]
    chain = Chain(device, name="copies")
    for _ in range(count - 1):
        made = {}
        for name, b in buffers.items():
            whole = b.nbytes // 4 * 4
            memory = device.empty((max(b.nbytes, 1),), "u8")
            if b.nbytes == whole and whole:
                chain.copy(src=b, dst=memory)
                made[name] = _like(b, memory)
            else:
                made[name] = b
        sets.append(made)
    if len(chain):
        chain.run()
    return sets


def _like(b: Buffer, memory: Buffer) -> Buffer:
    return Buffer(b.device, memory.memory, memory.offset, b.nbytes, b.dtype, b.shape, b.row_bytes)


def note(results: list[Result]) -> str:
    """What the columns mean."""
    copy = statistics.median(r.copy_rate for r in results)
    return NOTE.format(copy=copy / 1e9, how=results[0].copy_how)
