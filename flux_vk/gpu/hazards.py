"""Derived barriers: which dispatch must wait for which, from the byte ranges they read and write.

Not for: placing memory, or synchronising with the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Access(NamedTuple):
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

    One barrier orders everything before it, so after one nothing before matters.
    """

    touched: dict[int, list[tuple[int, Access]]] = field(default_factory=dict)

    def step(self, index: int, accesses: Iterable[Access]) -> Barrier | None:
        """The barrier this step needs in front of it, or None; the step is then remembered."""
        accesses = list(accesses)
        barrier = self._conflict(index, accesses)
        if barrier:
            self.touched.clear()
        for a in accesses:
            self.touched.setdefault(a.memory, []).append((index, a))
        return barrier

    def _conflict(self, index: int, accesses: list[Access]) -> Barrier | None:
        for a in accesses:
            for earlier, b in self.touched.get(a.memory, ()):
                if a.start >= b.stop or b.start >= a.stop or not (a.writes or b.writes):
                    continue
                kind = "RAW" if a.reads and b.writes else "WAW" if b.writes else "WAR"
                return Barrier(index, kind, earlier, b.name, a.name)
        return None


def place_barriers(steps: Iterable[Iterable[Access]]) -> list[Barrier]:
    """Barriers for a whole chain: for every step what it touches."""
    tracker = Tracker()
    found = (tracker.step(i, accesses) for i, accesses in enumerate(steps))
    return [b for b in found if b]
