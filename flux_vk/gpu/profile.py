"""Timing a chain on the device: a timestamp after every step, a table by kernel, a Chrome trace.

A profiled run has a barrier after every step, so steps that overlap in a replay are timed alone.
"""

from __future__ import annotations

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
    """The timed steps of a chain."""

    chain: str
    steps: tuple[Timed, ...]

    @property
    def total_ns(self) -> float:
        return sum(s.ns for s in self.steps)

    def by_kernel(self) -> list[dict[str, Any]]:
        """Sums by kernel, slowest first: name, count, ms, share, GB/s, GFLOP/s."""
        groups: dict[str, list[Timed]] = {}
        for s in self.steps:
            groups.setdefault(s.name, []).append(s)
        rows = []
        for name, items in groups.items():
            ns = max(sum(s.ns for s in items), 1e-9)
            rows.append({
                "kernel": name, "count": len(items), "ms": ns / 1e6, "share": ns / max(self.total_ns, 1e-9),
                "GB/s": sum(s.bytes for s in items) / ns, "GFLOP/s": sum(s.flops for s in items) / ns,
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
    """Run the chain `repeat` times with timestamps. Raises VulkanError where the device has none."""
    period = float(chain.device.limits["timestamp_period_ns"])
    if period == 0:
        raise VulkanError("this device has no timestamps on its compute queue; chain.profile() cannot run")
    planned = chain.plan()
    recorded = Recorded(chain, planned, timestamps=True)
    runs = []
    for _ in range(max(1, repeat)):
        recorded.submit()
        recorded.wait()
        stamps = recorded.timestamps()
        runs.append([(b - a) * period for a, b in zip(stamps, stamps[1:], strict=False)])
    timed = []
    for i, (step, tag) in enumerate(zip(planned.steps, chain.tags, strict=True)):
        ns = sorted(run[i] for run in runs)[len(runs) // 2]
        timed.append(Timed(i, tag, step.name, ns, step.bytes, step.flops))
    return Profile(chain.name, tuple(timed))
