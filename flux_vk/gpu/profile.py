"""Timing a chain on the device: a timestamp after every step, a table by kernel, a Chrome trace.

A profiled run has a barrier after every step, so steps that overlap in a replay are timed alone. A replay without
timestamps is timed too: what it takes beyond the sum of its steps is gaps.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import VulkanError
from .record import Recorded

if TYPE_CHECKING:
    from .chain import Chain


@dataclass(frozen=True)
class Timed:
    """One step's time in nanoseconds (median over the repeats) with its cost from the contract."""

    index: int
    scope: str
    name: str
    ns: float
    bytes: float
    flops: float


@dataclass(frozen=True)
class Profile:
    """The timed steps of a chain.

    replay_ns: wall clock of a replay without timestamps, submit and wait included. stamp_ns: what a timestamp and its
    barrier take by themselves; the steps' times are without it.
    """

    chain: str
    steps: tuple[Timed, ...]
    replay_ns: float = 0.0
    stamp_ns: float = 0.0

    @property
    def total_ns(self) -> float:
        return sum(s.ns for s in self.steps)

    @property
    def gap_ns(self) -> float:
        """What a replay takes beyond its steps: submitting, launching, idling. Below zero where steps overlap."""
        return self.replay_ns - self.total_ns

    def gaps(self) -> dict[str, float]:
        """Sum of the steps, a replay and the gap between them, in ms."""
        return {"steps_ms": self.total_ns / 1e6, "replay_ms": self.replay_ns / 1e6, "gap_ms": self.gap_ns / 1e6}

    def by_kernel(self) -> list[dict[str, Any]]:
        """Sums by kernel, slowest first: name, count, ms, share, GB/s, GFLOP/s."""
        groups: dict[str, list[Timed]] = {}
        for s in self.steps:
            groups.setdefault(s.name, []).append(s)
        rows = []
        for name, items in groups.items():
            ns = sum(s.ns for s in items)
            per_ns = 1 / ns if ns > 0 else 0.0  # too short to be told from its timestamp
            rows.append({
                "kernel": name, "count": len(items), "ms": ns / 1e6, "share": ns / max(self.total_ns, 1e-9),
                "GB/s": sum(s.bytes for s in items) * per_ns, "GFLOP/s": sum(s.flops for s in items) * per_ns,
            })  # fmt: skip
        return sorted(rows, key=lambda r: -float(r["ms"]))

    def __str__(self) -> str:
        lines = [f"{'kernel':34} {'count':>6} {'ms':>10} {'share':>7} {'GB/s':>9} {'GFLOP/s':>9}"]
        for r in self.by_kernel():
            lines.append(
                f"{r['kernel']:34} {r['count']:6d} {r['ms']:10.3f} {r['share']:6.1%} "
                f"{r['GB/s']:9.2f} {r['GFLOP/s']:9.2f}"
            )
        lines.append(f"{'total':34} {len(self.steps):6d} {self.total_ns / 1e6:10.3f}")
        if self.replay_ns:
            share = self.gap_ns / self.replay_ns
            lines.append(f"{'a replay, no timestamps':41} {self.replay_ns / 1e6:10.3f}")
            what = "gaps: not in any kernel" if share >= 0 else "overlap: less than the steps alone"
            lines.append(f"{what:41} {self.gap_ns / 1e6:10.3f} {share:6.1%}")
            lines.append(f"(a timestamp itself takes {self.stamp_ns / 1e3:.1f} us here; it is taken off every step)")
        return "\n".join(lines)

    def chrome_trace(self) -> dict[str, Any]:
        """The profile as a Chrome trace (load it in chrome://tracing or Perfetto)."""
        events, at = [], 0.0
        for s in self.steps:
            events.append({
                "name": s.name, "cat": s.scope or self.chain, "ph": "X", "ts": at / 1e3, "dur": s.ns / 1e3,
                "pid": 0, "tid": 0, "args": {"step": s.index, "bytes": s.bytes, "flops": s.flops},
            })  # fmt: skip
            at += s.ns
        return {"traceEvents": events, "displayTimeUnit": "ms"}


def profile(chain: Chain, repeat: int = 1) -> Profile:
    """Run the chain `repeat` times with timestamps, and `repeat` + 1 times without, of which the first does not count.

    Raises VulkanError where the device has no timestamps.
    """
    period = float(chain.device.limits["timestamp_period_ns"])
    if period == 0:
        raise VulkanError("this device has no timestamps on its compute queue; chain.profile() cannot run")
    planned = chain.plan()
    recorded = Recorded(chain, planned, timestamps=True)
    empty = _stamps(chain.device, len(planned.steps) + 1)
    runs, idle = [], [0.0]
    for _ in range(max(1, repeat)):
        recorded.submit()
        recorded.wait()
        runs.append(_differences(recorded.timestamps(), period))
        empty.submit()
        empty.wait(2**64 - 1)
        idle += _differences(empty.timestamps(), period)
    stamp = statistics.median(idle)
    timed = []
    for i, (step, tag) in enumerate(zip(planned.steps, chain.tags, strict=True)):
        ns = max(0.0, sorted(run[i] for run in runs)[len(runs) // 2] - stamp)
        timed.append(Timed(i, tag, step.name, ns, step.bytes, step.flops))
    return Profile(chain.name, tuple(timed), replay(Recorded(chain, planned), max(1, repeat)) * 1e9, stamp)


def _stamps(device: Any, n: int) -> Any:
    """A recording of n timestamps with the barriers that a profiled chain has, and nothing else."""
    native = device.native.recording(0, n)
    native.barrier()
    for i in range(n):
        if i:
            native.barrier()
        native.timestamp(i)
    native.end()
    return native


def _differences(stamps: list[int], period: float) -> list[float]:
    return [(b - a) * period for a, b in zip(stamps, stamps[1:], strict=False)]


def replay(recorded: Recorded, repeat: int) -> float:
    """Seconds from submit to the end of wait, the median of `repeat` replays after one that does not count."""
    taken = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        recorded.submit()
        recorded.wait()
        taken.append(time.perf_counter() - started)
    middle: float = statistics.median(taken[1:])
    return middle
