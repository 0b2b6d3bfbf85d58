"""Derived barriers: each kind by example, then random chains against a brute-force oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.gpu.hazards import Access, Barrier, Tracker, place_barriers

Steps = list[list[Access]]


def read(start: int, stop: int, memory: int = 1, name: str = "r") -> Access:
    return Access(memory, start, stop, False, True, name)


def write(start: int, stop: int, memory: int = 1, name: str = "w") -> Access:
    return Access(memory, start, stop, True, False, name)


def update(start: int, stop: int, memory: int = 1, name: str = "u") -> Access:
    return Access(memory, start, stop, True, True, name)


def placed(steps: Steps) -> list[Barrier]:
    return place_barriers(steps)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (write(0, 64, name="y"), read(0, 64, name="x"), "RAW"),
        (read(0, 64, name="y"), write(0, 64, name="x"), "WAR"),
        (write(0, 64, name="y"), write(0, 64, name="x"), "WAW"),
        (update(0, 64, name="y"), update(0, 64, name="x"), "RAW"),
        (write(0, 64, name="y"), read(60, 128, name="x"), "RAW"),  # partial overlap
        (write(16, 32, name="y"), read(0, 64, name="x"), "RAW"),  # inside
        (write(0, 64, name="y"), write(63, 64, name="x"), "WAW"),  # one byte
    ],
)
def test_a_conflict_gets_a_barrier_that_says_why(first: Access, second: Access, kind: str) -> None:
    assert placed([[first], [second]]) == [Barrier(1, kind, 0, "y", "x")]
    assert str(placed([[first], [second]])[0]) == f"{kind}: x touches what step 0 had as y"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (read(0, 64), read(0, 64)),
        (write(0, 64), read(64, 128)),  # adjacent
        (write(64, 128), write(0, 64)),
        (write(0, 64), read(0, 64, memory=2)),
    ],
)
def test_no_conflict_no_barrier(first: Access, second: Access) -> None:
    assert placed([[first], [second]]) == []


def test_reads_share_and_one_barrier_serves_many() -> None:
    """n = norm(x); q, k, v from n: the three overlap, one barrier in front of the first serves all."""
    steps = [
        [read(0, 64, name="x"), write(64, 128, name="n")],
        [read(64, 128, name="n"), write(128, 192, name="q")],
        [read(64, 128, name="n"), write(192, 256, name="k")],
        [read(64, 128, name="n"), write(256, 320, name="v")],
        [read(128, 320, name="qkv"), write(0, 64, name="y")],
    ]
    assert [b.before for b in placed(steps)] == [1, 4]


def test_a_step_does_not_wait_for_itself() -> None:
    assert placed([[read(0, 64), write(0, 64)]]) == []


def test_a_tracker_forgets_what_a_barrier_ordered() -> None:
    tracker = Tracker()
    assert tracker.step(0, [write(0, 8)]) is None
    assert tracker.step(1, [read(0, 8)]) is not None
    assert sum(len(v) for v in tracker.touched.values()) == 1


def conflict(a: Access, b: Access) -> bool:
    """The definition, byte by byte."""
    shared = set(range(a.start, a.stop)) & set(range(b.start, b.stop))
    return a.memory == b.memory and bool(shared) and (a.writes or b.writes)


def unordered(steps: Steps, barriers: set[int]) -> bool:
    """Does some pair of conflicting steps run without a barrier between them?"""
    for j in range(len(steps)):
        for i in range(j):
            if any(i < b <= j for b in barriers):
                continue
            if any(conflict(a, b) for a in steps[i] for b in steps[j]):
                return True
    return False


@st.composite
def accesses(draw: st.DrawFn) -> Access:
    start = draw(st.integers(0, 12))
    writes, reads = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    return Access(draw(st.integers(1, 3)), start, start + draw(st.integers(1, 6)), writes, reads, "a")


@given(st.lists(st.lists(accesses(), max_size=4), max_size=12))
def test_barriers_are_enough_and_none_is_idle(steps: Steps) -> None:
    barriers = {b.before for b in placed(steps)}
    assert not unordered(steps, barriers)
    for b in barriers:
        assert unordered(steps, barriers - {b}), f"the barrier before step {b} orders nothing"


@given(st.lists(st.lists(accesses(), max_size=3), max_size=9))
def test_no_placement_has_fewer(steps: Steps) -> None:
    """Waiting as late as possible is optimal: the least number of points that hit every conflicting interval."""
    ends: list[tuple[int, int]] = sorted(
        (j, i)
        for j in range(len(steps))
        for i in range(j)
        if any(conflict(a, b) for a in steps[i] for b in steps[j])
    )
    needed, last = 0, -1
    for j, i in ends:  # interval (i, j]; greedy by right end
        if last <= i:
            needed, last = needed + 1, j
    assert len(placed(steps)) == needed
