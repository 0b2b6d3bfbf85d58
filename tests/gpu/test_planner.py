"""Arena planning: buffers that live at the same time never share a byte; the arena is no smaller than it must be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.gpu.planner import Lifetime, plan


def aligned(n: int, alignment: int) -> int:
    return -(-max(n, 1) // alignment) * alignment


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Lifetime]:
    made = []
    for i in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, 15))
        made.append(Lifetime(i, draw(st.integers(0, 5000)), first, first + draw(st.integers(0, 6))))
    return made


@given(lifetimes(), st.sampled_from([1, 16, 64, 256]))
def test_what_lives_together_lies_apart(lives: list[Lifetime], alignment: int) -> None:
    offsets, total = plan(lives, alignment)
    assert set(offsets) == {s.id for s in lives}
    for s in lives:
        assert offsets[s.id] % alignment == 0
        assert 0 <= offsets[s.id] <= total - max(s.nbytes, 1)
    for a in lives:
        for b in lives:
            if a.id < b.id and a.first <= b.last and b.first <= a.last:
                apart = offsets[a.id] + a.nbytes <= offsets[b.id] or offsets[b.id] + b.nbytes <= offsets[a.id]
                assert apart, (a, offsets[a.id], b, offsets[b.id])


@given(lifetimes())
def test_size_is_between_the_peak_and_the_sum(lives: list[Lifetime]) -> None:
    offsets, total = plan(lives, 16)
    alive = [[s for s in lives if s.first <= t <= s.last] for t in range(32)]
    peak = max((sum(aligned(s.nbytes, 16) for s in now) for now in alive), default=0)
    assert peak <= total <= sum(aligned(s.nbytes, 16) for s in lives)


@given(lifetimes(), st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(lives: list[Lifetime], random: object) -> None:
    shuffled = list(lives)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(shuffled, 16) == plan(lives, 16)


def test_a_pipeline_of_equal_buffers_needs_two() -> None:
    """a -> b -> c -> d: each lives until the next is written, so two places are enough."""
    assert plan([Lifetime(i, 1000, i, i + 1) for i in range(10)], 16)[1] == 2 * 1008


@pytest.mark.parametrize("alignment", [16, 256])
def test_nothing_and_nearly_nothing(alignment: int) -> None:
    assert plan([], alignment) == ({}, 0)
    assert plan([Lifetime(1, 0, 0, 0)], alignment) == ({1: 0}, alignment)
