"""Micro-batches: what their arrays say, sizes, packing, the order of epochs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.errors import InputError
from flux_vk.train.batches import IGNORED, Batches, Example, MicroBatch, bucket, buckets, micro_batch, pack


def example(n: int, start: int = 1, ignored: int = 0) -> Example:
    """n rows with ids start, start + 1 ..., of which the first `ignored` teach nothing."""
    tokens = np.arange(start, start + n + 1, dtype=np.uint32)
    labels = tokens[1:].copy()
    labels[:ignored] = IGNORED
    return Example(tokens[:-1], labels)


def test_rows_of_a_micro_batch() -> None:
    b = micro_batch([example(3), example(2, 10, ignored=1)], 8)
    assert b.ids.tolist() == [1, 2, 3, 10, 11, 0, 0, 0]
    assert b.pos.tolist() == [0, 1, 2, 0, 1, 0, 0, 0]
    assert b.first.tolist() == [0, 0, 0, 3, 3, 5, 6, 7]
    assert b.last.tolist() == [3, 3, 3, 5, 5, 6, 7, 8]
    assert b.labels.tolist() == [2, 3, 4, IGNORED, 12, IGNORED, IGNORED, IGNORED]
    assert (b.tokens, b.counted) == (5, 4)
    assert {a.dtype for a in (b.ids, b.pos, b.first, b.last, b.labels)} == {np.dtype(np.uint32)}


def test_a_micro_batch_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="of 5 tokens; expected 1 to 4"):
        micro_batch([example(5)], 4)
    with pytest.raises(ValueError, match="of 0 tokens"):
        micro_batch([])


@given(st.integers(1, 5000), st.data())
def test_sizes_are_few_and_fit(most: int, data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, most))
    size = bucket(tokens, most)
    assert size >= tokens and size % 32 == 0
    assert size - tokens <= most / 8 + 32
    assert size in buckets(most) and len(buckets(most)) <= 8


def test_sizes_of_a_usual_batch() -> None:
    assert buckets(1024) == (128, 256, 384, 512, 640, 768, 896, 1024)
    assert bucket(129, 1024) == 256
    assert buckets(20) == (32,)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=80))
def test_packing_loses_nothing_and_overfills_nothing(lengths: list[int]) -> None:
    rows = pack(lengths, range(len(lengths)), 64)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= 64 for row in rows)
    # First fit: no two rows could have been one.
    fill = [sum(lengths[i] for i in row) for row in rows]
    assert all(a + b > 64 for k, a in enumerate(fill) for b in fill[k + 1 :])


def test_first_fit_in_the_given_order() -> None:
    assert pack([5, 4, 3, 2, 6], [0, 1, 2, 3, 4], 8) == [[0, 2], [1, 3], [4]]
    assert pack([5, 4, 3, 2, 6], [4, 3, 2, 1, 0], 8) == [[4, 3], [2, 1], [0]]


def test_packing_many_examples_looks_at_the_newest_rows_only() -> None:
    lengths = [40] * 400 + [20] * 10
    rows = pack(lengths, range(410), 64)
    assert [400] in [row[1:] for row in rows[140:150]]  # 256 rows back, not the first


@pytest.mark.parametrize("packing", [False, True])
def test_an_epoch_has_every_example_once_in_an_order_of_its_own(packing: bool) -> None:
    examples = [example(1 + i % 7, 100 * i) for i in range(50)]
    batches = Batches(examples, 4, 8, packing, seed=3)
    seen = []
    for epoch in (0, 1):
        plan = batches.plan(epoch)
        assert len(plan) == batches.count(epoch)
        assert sorted(i for chosen in plan for i in chosen) == list(range(50))
        assert all(len(batches.batch(epoch, i).ids) <= 32 for i in range(len(plan)))
        seen.append(plan)
    assert seen[0] != seen[1]
    again = Batches(examples, 4, 8, packing, seed=3)
    assert again.plan(1) == seen[1] and again.plan(0) == seen[0]
    assert Batches(examples, 4, 8, packing, seed=4).plan(0) != seen[0]


def test_packed_rows_hold_whole_examples() -> None:
    examples = [example(n, 100 * n) for n in (8, 5, 3, 2, 6)]
    batches = Batches(examples, 2, 8, packing=True, seed=0)
    got = [batches.batch(0, i) for i in range(batches.count(0))]
    assert sum(b.tokens for b in got) == 24
    for b in got:
        check_block_diagonal(b)
    # Three full rows where batch_size examples would have needed as many micro-batches and held less.
    assert batches.count(0) <= 2


def check_block_diagonal(b: MicroBatch) -> None:
    rows = np.arange(len(b.ids))
    assert np.array_equal(b.pos, rows - b.first)
    assert (b.first <= rows).all() and (rows < b.last).all()
    starts = b.first[b.first == rows]
    assert np.array_equal(np.unique(b.first), starts)


def test_examples_in_order_for_evaluating() -> None:
    batches = Batches([example(2, 10 * i) for i in range(5)], 2, 4)
    got = list(batches.in_order())
    assert [b.tokens for b in got] == [4, 4, 2]
    assert [int(b.ids[0]) for b in got] == [0, 20, 40]


def test_examples_that_cannot_be_used() -> None:
    with pytest.raises(InputError, match="no example"):
        Batches([], 4, 8)
    with pytest.raises(ValueError, match="9 tokens; expected 8"):
        Batches([example(9)], 4, 8)
