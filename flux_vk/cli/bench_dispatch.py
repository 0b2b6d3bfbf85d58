"""`bench dispatch`: what a dispatch, a barrier and a submit cost when the kernel itself does next to nothing.

Chains of several lengths are timed in turn; the costs are slopes of straight lines through the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field, replace

import numpy as np

from flux_vk.cli import bench_report
from flux_vk.cli.bench_kernels import fenced
from flux_vk.cli.bench_yardsticks import timed
from flux_vk.cli.tables import Cell
from flux_vk.gpu import Chain, Device, Recorded

WIDTH = 64
"""Elements of one dispatch: a single small workgroup."""
HEADER = ("what", "us", "spread %", "dispatches", "barriers", "how")
NOTE = (
    "us: medians of {repeat} samples, wall clock; spread: (largest - smallest) / median of the samples behind the "
    "figure. Each dispatch adds {width} numbers. Chains of {lengths} dispatches are timed in turn; 'each' is the "
    "slope of a straight line (least squares) through their medians, 'a barrier' a difference of two slopes, which "
    "may be below zero where barriers cost less than the noise."
)


@dataclass
class Timings:
    """The chains of one kind: seconds by number of dispatches, a list of samples each."""

    name: str
    steps: dict[int, Recorded]
    samples: dict[int, list[float]] = field(default_factory=dict)

    def sample(self) -> None:
        """Time each length once."""
        for n, step in self.steps.items():
            self.samples.setdefault(n, []).append(timed(step))

    def median(self, n: int) -> float:
        """Seconds of a submit of n dispatches."""
        return statistics.median(self.samples[n])

    def spread(self, n: int) -> float:
        """Of the samples of one length, in percent."""
        return (max(self.samples[n]) - min(self.samples[n])) / self.median(n) * 100

    def slope(self) -> float:
        """Seconds that each further dispatch costs."""
        lengths = sorted(self.steps)
        return float(np.polyfit(lengths, [self.median(n) for n in lengths], 1)[0])


def main(args: argparse.Namespace) -> int:
    """`bench dispatch`."""
    device = Device(args.device)
    rows = run(device, args.count, args.repeat, bench_report.progress(), args.seed)
    facts = {"device": device.name, "driver": device.info["driver"]}
    lengths = ", ".join(str(n) for n in lengths_of(args.count))
    note = NOTE.format(repeat=args.repeat, width=WIDTH, lengths=lengths)
    bench_report.write(args, facts, HEADER, rows, note)
    return 0


def lengths_of(count: int) -> list[int]:
    """Lengths of the chains that a slope is drawn through."""
    return sorted({max(1, count * part // 10) for part in (1, 4, 7, 10)})


def run(
    device: Device, count: int, repeat: int, progress: bench_report.Tell, seed: int = 0
) -> list[list[Cell]]:
    """The table's rows for chains of up to `count` dispatches. The order within a round is random."""
    progress("recording")
    lengths = lengths_of(count)
    dependent = Timings("dependent", {n: _dependent(device, n).record() for n in lengths})
    free = {n: _independent(device, n) for n in lengths}
    independent = Timings("independent", {n: chain.record() for n, chain in free.items()})
    held = Timings("held apart", {n: _fenced(chain) for n, chain in free.items()})
    empty = Timings("empty", {0: Chain(device, name="empty").record()})
    every = (dependent, independent, held, empty)
    for kind in every:
        for step in kind.steps.values():
            timed(step)
    rng = np.random.default_rng(seed)
    apart: list[float] = []
    recording: list[float] = []
    for i in range(repeat):
        progress(f"sample {i + 1} of {repeat}")
        for kind in rng.permutation(len(every)):
            every[kind].sample()
        apart.append(_call(empty.steps[0]))
        started = time.perf_counter()
        again = _dependent(device, count).record()
        recording.append((time.perf_counter() - started) / count)
        timed(again)
    n = max(lengths)
    return [
        _line("empty submit and wait", empty.median(0), empty.spread(0), 0, 0, "a submit without a dispatch"),
        _line("submit alone", statistics.median(apart), _spread(apart), 0, 0, "the call, without waiting"),
        _whole(f"chain of {n}, dependent", dependent, n),
        _line("each dependent dispatch", dependent.slope(), dependent.spread(n), n, n - 1, "slope; barrier included"),
        _whole(f"chain of {n}, independent", independent, n),
        _line("each independent dispatch", independent.slope(), independent.spread(n), n, 0, "slope; no barrier"),
        _whole(f"chain of {n}, independent, barriers all the same", held, n),
        _line("a barrier", held.slope() - independent.slope(), held.spread(n), n, n - 1, "difference of slopes"),
        _line("recording, each dispatch", statistics.median(recording), _spread(recording), n, n - 1,
              "building, planning and recording a chain in Python, once for many replays"),
    ]  # fmt: skip


def _line(what: str, seconds: float, spread: float, dispatches: int, barriers: int, how: str) -> list[Cell]:
    return [what, seconds * 1e6, spread, dispatches, barriers, how]


def _whole(what: str, kind: Timings, n: int) -> list[Cell]:
    barriers = len(kind.steps[n].planned.barriers)
    return _line(what, kind.median(n), kind.spread(n), n, barriers, "one submit and wait")


def _spread(samples: list[float]) -> float:
    return (max(samples) - min(samples)) / statistics.median(samples) * 100


def _call(step: Recorded) -> float:
    """Seconds of the submit call; what it starts is waited for outside."""
    started = time.perf_counter()
    step.submit()
    taken = time.perf_counter() - started
    step.wait()
    return taken


def _dependent(device: Device, n: int) -> Chain:
    """Each dispatch reads what the one before wrote."""
    return _adds(Chain(device, name=f"{n} dependent"), n, 1)


def _independent(device: Device, n: int) -> Chain:
    """Each dispatch writes memory of its own; they all read the same."""
    return _adds(Chain(device, name=f"{n} independent"), n, 0)


def _adds(chain: Chain, n: int, ahead: int) -> Chain:
    """n additions into rows 1 to n of one buffer: row i from row i - 1 (ahead 1) or from row 0 (ahead 0)."""
    device = chain.device
    width = max(WIDTH, device.alignment // 4)
    flat = device.zeros((n + 1, width))
    rows = [replace(flat.rows(i, i + 1), nbytes=4 * WIDTH, shape=(1, WIDTH)) for i in range(n + 1)]
    one = device.zeros((1, WIDTH))
    for i in range(n):
        chain.add(a=rows[i * ahead], b=one, y=rows[i + 1])
    return chain


def _fenced(chain: Chain) -> Recorded:
    """The same chain with a barrier in front of every dispatch but the first."""
    return Recorded(chain, fenced(chain))
