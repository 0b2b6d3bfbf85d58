"""Times kernels one by one: checked against the reference first, then replayed over cold memory, next to yardsticks.

Not for: what the kernels are given (bench_cases.py, kernel_cases/), or what the yardsticks are (bench_yardsticks.py).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.cli import bench_cases, bench_report
from flux_vk.cli.bench_cases import Case, Prepared
from flux_vk.cli.bench_yardsticks import Copy, Fma, timed
from flux_vk.cli.tables import Cell
from flux_vk.errors import ArgumentError, ContractError, FluxError, InputError
from flux_vk.formats.blocks import runnable
from flux_vk.gpu import Buffer, Chain, Device, Recorded
from flux_vk.gpu.chain import Planned
from flux_vk.gpu.hazards import Barrier
from flux_vk.gpu.steps import Dispatch

SUBMIT_SECONDS = 0.02
"""A submit holds as many replays as take about this long, so that submitting costs little of it."""
MOST_REPLAYS = 512
HEADER = (
    "kernel", "variant", "case", "time us", "spread %", "device us", "GB/s", "GFLOP/s", "of copy %", "of FMA %",
    "flop/byte", "error", "replays", "copies",
)  # fmt: skip
NOTE = (
    "time: median wall clock of submit and wait, divided by the replays in a submit; spread: (largest - smallest) "
    "/ median; device: the same by timestamps, where the device has them. One dispatch at a time, a barrier after "
    "each. GB/s counts what must be read and written once; of copy: next to {copy:.1f} GB/s read and written by "
    "{copy_how}; of FMA: next to {fma:.1f} GFLOP/s by {fma_how}; both measured in turns with each line. "
    "error: NMSE against the float64 reference{checked}. copies: of the memory, used in turn; {pool}."
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
    fma_rate: float
    error: float | None
    replays: int
    copies: int

    @property
    def intensity(self) -> float:
        """Operations for each byte that must be moved."""
        return self.flops / max(self.bytes, 1)

    def row(self) -> list[Cell]:
        """The line as in HEADER."""
        rate, work = self.bytes / self.seconds, self.flops / self.seconds
        device = None if self.device_seconds is None else self.device_seconds * 1e6
        return [
            self.kernel, self.variant, self.label, self.seconds * 1e6, self.spread * 100, device, rate / 1e9,
            work / 1e9, rate / self.copy_rate * 100, work / self.fma_rate * 100, self.intensity,
            None if self.error is None else f"{self.error:.1e}", self.replays, self.copies,
        ]  # fmt: skip


class WrongResult(FluxError):
    """A kernel does not compute what its reference does; nothing is timed then."""


@dataclass
class Yardsticks:
    """What a device's kernels are held against."""

    copy: Copy
    fma: Fma

    def sample(self) -> None:
        """Time both once; the copy last, so that caches hold nothing of a kernel's memory afterwards."""
        self.fma.sample()
        self.copy.sample()


def main(args: argparse.Namespace) -> int:
    """`bench kernels`."""
    types = [runnable(t.lower()).name for t in args.type or ("q4_k", "q6_k", "q8_0", "q5_0")]
    if args.shape not in bench_cases.SHAPES:
        raise InputError(f"--shape {args.shape}: expected one of {', '.join(bench_cases.SHAPES)}")
    if args.plot:
        bench_report.need_matplotlib()
    device = Device(args.device)
    every = bench_cases.cases(bench_cases.SHAPES[args.shape], args.rows, types, args.context)
    chosen = bench_cases.chosen(every, args.kernel)
    if not chosen:
        raise InputError("no case is left to measure: see --kernel, --type, --rows")
    tell = bench_report.progress(len(chosen))
    yardsticks = Yardsticks(Copy(device), Fma(device))
    results = list(run(
        device, chosen, yardsticks, repeat=args.repeat, warm=args.warm, check=args.check, seed=args.seed, progress=tell
    ))  # fmt: skip
    if not results:
        raise InputError("no case could be measured on this device; the lines above say why")
    facts = {"device": device.name, "driver": device.info["driver"], "shape": args.shape, "warm": args.warm}
    facts |= {"copy_GB_per_s": yardsticks.copy.rate() / 1e9, "fma_GFLOP_per_s": yardsticks.fma.rate() / 1e9}
    facts |= {"pool": yardsticks.copy.pool, "checked": args.check}
    pool = "the same memory every time, which caches may hold (--warm)" if args.warm else (
        f"{2 * yardsticks.copy.nbytes >> 20} MiB are touched between two samples, so that no sample begins with "
        "memory that a cache still holds"
    )  # fmt: skip
    note = NOTE.format(
        copy=yardsticks.copy.rate() / 1e9, copy_how=yardsticks.copy, fma=yardsticks.fma.rate() / 1e9,
        fma_how=yardsticks.fma, pool=pool, checked=", checked before timing" if args.check else ": not looked at",
    )  # fmt: skip
    bench_report.write(args, facts, HEADER, [r.row() for r in results], note)
    if args.plot:
        from flux_vk.cli import bench_plots

        title = f"{device.name}, {args.shape}"
        bench_plots.roofline(args.plot, results, yardsticks.copy.rate(), yardsticks.fma.rate(), title)
    return 0


def run(
    device: Device, cases: Iterable[Case], yardsticks: Yardsticks, *, repeat: int = 7, warm: bool = False,
    check: bool = True, seed: int = 0, progress: Callable[[str], None] = lambda line: None,
) -> Iterator[Result]:  # fmt: skip
    """Check and time each case. Cases that the device or the build cannot run are told to `progress` and left out.

    warm: always the same memory; else copies of it in turn, so that caches do not hold what a model would not find
    there. Raises WrongResult.
    """
    for case in cases:
        progress(f"{case.kernel} {case.label}")
        try:
            prepared = case.make(device, np.random.default_rng(seed))
            once = Chain(device, name=case.kernel)
            prepared.append(once, prepared.buffers)
        except (ArgumentError, ContractError) as error:
            progress(f"{case.kernel} {case.label}: left out ({error})")
            continue
        yield measure(device, case, prepared, once, yardsticks, repeat, warm, check)


def measure(
    device: Device, case: Case, prepared: Prepared, once: Chain, yardsticks: Yardsticks, repeat: int, warm: bool,
    checked: bool,
) -> Result:  # fmt: skip
    """Check one case, then time it, with the yardsticks between any two samples."""
    single = once.record()
    timed(single)
    error = check(case, prepared) if checked else None
    totals = once.totals()
    stamps = float(device.limits["timestamp_period_ns"]) > 0
    calls = max(1, len(once))
    estimate = min(timed(single) for _ in range(2))
    replays = max(1, min(MOST_REPLAYS // calls, math.ceil(SUBMIT_SECONDS / max(estimate, 1e-6))))
    sets = [prepared.buffers] if warm else copies(device, prepared.buffers, replays, yardsticks.copy.pool)
    chain = Chain(device, name=case.kernel)
    for i in range(replays):
        prepared.append(chain, sets[i % len(sets)])
    step = Recorded(chain, fenced(chain), timestamps="ends" if stamps else False)
    timed(step)
    yardsticks.sample()
    walls, ticks = [], []
    before = len(yardsticks.copy.samples), len(yardsticks.fma.samples)
    for _ in range(max(1, repeat)):
        walls.append(timed(step) / replays)
        if stamps:
            found = step.timestamps()
            ticks.append((found[-1] - found[0]) * float(device.limits["timestamp_period_ns"]) / 1e9 / replays)
        yardsticks.sample()
    middle = statistics.median(walls)
    return Result(
        case.kernel, variant_of(once, case.kernel), case.label, middle, (max(walls) - min(walls)) / middle,
        statistics.median(ticks) if ticks else None,
        totals.bytes if prepared.bytes is None else prepared.bytes,
        totals.flops if prepared.flops is None else prepared.flops,
        yardsticks.copy.rate(yardsticks.copy.samples[before[0] :]),
        yardsticks.fma.rate(yardsticks.fma.samples[before[1] :]), error, replays, len(sets),
    )  # fmt: skip


def fenced(chain: Chain) -> Planned:
    """The chain with a barrier between any two steps, so that replays over different memory do not overlap."""
    planned = chain.plan()
    return replace(planned, barriers={i: Barrier(i, "WAW", i - 1, "", "") for i in range(1, len(planned.steps))})


def variant_of(chain: Chain, kernel: str) -> str:
    """The variant of the chain's last dispatch of that kernel."""
    found = [s for s in chain.steps if isinstance(s, Dispatch) and s.contract.name == kernel]
    return found[-1].variant.name if found else ""


def check(case: Case, prepared: Prepared) -> float:
    """The largest NMSE of the outputs against the reference. Raises WrongResult above the contract's tolerance."""
    worst = 0.0
    for name, part, want in prepared.checks() if callable(prepared.checks) else prepared.checks:
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


def copies(device: Device, buffers: Mapping[str, Buffer], wanted: int, pool: int) -> list[dict[str, Buffer]]:
    """The buffers and copies of them: one for each replay, or as many as the pool has room for."""
    one = sum(b.nbytes for b in buffers.values())
    count = max(1, min(wanted, pool // max(one, 1)))
    sets = [dict(buffers)]
    chain = Chain(device, name="copies")
    for _ in range(count - 1):
        made = {}
        for name, b in buffers.items():
            if b.nbytes % 4 == 0 and b.nbytes:
                memory = device.empty((b.nbytes,), "u8")
                chain.copy(src=b, dst=memory)
                made[name] = Buffer(b.device, memory.memory, memory.offset, b.nbytes, b.dtype, b.shape, b.row_bytes)
            else:
                made[name] = b
        sets.append(made)
    if len(chain):
        chain.run()
    return sets
