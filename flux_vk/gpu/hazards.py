"""Derived barriers: which dispatch must wait for which, from the byte ranges they read and write.

Not for: placing memory, or synchronising with the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Access:
    """One range of one memory, read or written by a step of a chain."""

    memory: int
    start: int
    stop: int
    writes: bool
    reads: bool
    name: str


@dataclass(frozen=True)
class Barrier:
    """A barrier in front of step `before`, and why."""

    before: int
    kind: str  # RAW, WAR, WAW
    earlier: int
    earlier_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name} touches what step {self.earlier} had as {self.earlier_name}"


@dataclass
class Tracker:
    """Walks the steps in order; remembers what was touched since the last barrier.

    One barrier orders everything before it, so after one nothing before matters. Steps of the same `group` (disjoint
    parts of one buffer, known to the caller) do not wait for each other.
    """

    touched: dict[int, list[tuple[int, int | None, Access]]] = field(default_factory=dict)

    def step(self, index: int, accesses: Iterable[Access], group: int | None = None) -> Barrier | None:
        """The barrier this step needs in front of it, or None; the step is then remembered."""
        accesses = list(accesses)
        barrier = self._conflict(index, accesses, group)
        if barrier:
            self.touched.clear()
        for a in accesses:
            self.touched.setdefault(a.memory, []).append((index, group, a))
        return barrier

    def _conflict(self, index: int, accesses: list[Access], group: int | None) -> Barrier | None:
        for a in accesses:
            for earlier, earlier_group, b in self.touched.get(a.memory, ()):
                if a.start >= b.stop or b.start >= a.stop or not (a.writes or b.writes):
                    continue
                if group is not None and earlier_group == group:
                    continue
                kind = "RAW" if a.reads and b.writes else "WAW" if b.writes else "WAR"
                return Barrier(index, kind, earlier, b.name, a.name)
        return None


def place_barriers(steps: Iterable[tuple[list[Access], int | None]]) -> list[Barrier]:
    """Barriers for a whole chain: steps as (accesses, group)."""
    tracker = Tracker()
    found = (tracker.step(i, accesses, group) for i, (accesses, group) in enumerate(steps))
    return [b for b in found if b]
