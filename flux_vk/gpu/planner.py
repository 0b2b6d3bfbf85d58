"""Arena planning: scratch buffers of a chain share memory when their lifetimes do not meet.

Not for: buffers that outlive a chain.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lifetime:
    """A scratch buffer: its bytes, and the first and last step that touches it."""

    id: int
    nbytes: int
    first: int
    last: int


def plan(lifetimes: Sequence[Lifetime], alignment: int) -> tuple[dict[int, int], int]:
    """Offsets by id and the arena's size in bytes.

    Largest first, each at the lowest place that is free for its whole life.
    """
    placed: list[tuple[int, int, int, Lifetime]] = []  # by where they start
    offsets: dict[int, int] = {}
    for item in sorted(lifetimes, key=lambda s: (-s.nbytes, s.first, s.id)):
        need = -(-max(item.nbytes, 1) // alignment) * alignment
        at = 0
        first, last = item.first, item.last
        for start, stop, _, other in placed:
            if other.last < first or last < other.first:
                continue
            if at + need <= start:
                break
            at = max(at, stop)
        offsets[item.id] = at
        bisect.insort(placed, (at, at + need, len(placed), item))  # the number orders what would tie
    return offsets, max((stop for _, stop, _, _ in placed), default=0)
