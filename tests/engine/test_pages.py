"""Page pool, page tables and slots: plain bookkeeping, without Vulkan."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flux_vk.engine.pages import PAGE_SIZE, PagePool, PageTable, pages_for
from flux_vk.engine.sequence import Sequence, Slots
from flux_vk.errors import ContextFull, FluxError

TABLES = 4


class Tables(RuleBasedStateMachine):
    """Any interleaving of growing, shifting, truncating and releasing tables that share a pool."""

    @initialize(pages=st.integers(1, 24), entries=st.integers(3, 8), sinks=st.integers(0, 2))
    def begin(self, pages: int, entries: int, sinks: int) -> None:
        self.pool = PagePool(pages)
        self.tables = [PageTable(self.pool, entries, sinks) for _ in range(TABLES)]
        self.lengths = [0] * TABLES

    @rule(t=st.integers(0, TABLES - 1), step=st.integers(1, 3 * PAGE_SIZE), shift=st.booleans())
    def grow(self, t: int, step: int, shift: bool) -> None:
        table, target = self.tables[t], self.lengths[t] + step
        version, before = table.version, (list(table.entries), table.dropped)
        try:
            moved = table.reach(target - 1, shift)
        except ContextFull:
            # The pool is empty, or the table is full and may not shift; what it has stays usable.
            full = len(table.entries) == table.max_entries
            assert self.pool.n_free == 0 or (full and not shift)
        else:
            assert table.entry_of(target - 1) < len(table.entries) <= table.max_entries
            assert moved == (table.dropped > before[1])
            self.lengths[t] = target
        assert (table.version == version) == ((table.entries, table.dropped) == before)

    @rule(t=st.integers(0, TABLES - 1), part=st.floats(0, 1))
    def truncate(self, t: int, part: float) -> None:
        table, length = self.tables[t], int(self.lengths[t] * part)
        if table.dropped:
            with pytest.raises(ContextFull, match="dropped pages"):
                table.truncate(length)
            return
        kept = table.entries[: pages_for(length)]
        table.truncate(length)
        assert table.entries == kept
        self.lengths[t] = length

    @rule(t=st.integers(0, TABLES - 1))
    def release(self, t: int) -> None:
        self.tables[t].release()
        self.lengths[t] = 0
        assert not self.tables[t].entries

    @precondition(lambda self: self.lengths)
    @rule(t=st.integers(0, TABLES - 1))
    def places_are_distinct(self, t: int) -> None:
        """Every position that is kept has a place of its own; sinks and the newest positions are kept."""
        table, length = self.tables[t], self.lengths[t]
        logical = [e if e < table.sinks else e + table.dropped for e in range(len(table.entries))]
        assert [table.entry_of(page * PAGE_SIZE) for page in logical] == list(range(len(table.entries)))
        if length:
            assert (length - 1) // PAGE_SIZE in logical
            assert set(range(min(table.sinks, pages_for(length)))) <= set(logical)

    @invariant()
    def pages_are_owned_once(self) -> None:
        if not hasattr(self, "pool"):
            return
        owned = [page for table in self.tables for page in table.entries]
        assert len(owned) == len(set(owned))
        assert all(0 <= page < self.pool.n_pages for page in owned)
        assert self.pool.n_free == self.pool.n_pages - len(owned)

    def teardown(self) -> None:
        for table in getattr(self, "tables", []):
            table.release()
        if hasattr(self, "pool"):
            assert self.pool.n_free == self.pool.n_pages


TestTables = Tables.TestCase


def test_pool_hands_out_the_lowest_and_takes_each_back_once() -> None:
    pool = PagePool(3)
    assert [pool.take() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ContextFull, match=r"all 3 KV pages of 32 tokens are in use.*kv_tokens"):
        pool.take()
    pool.give(1)
    with pytest.raises(ValueError, match="page 1 is not in use"):
        pool.give(1)
    assert pool.take() == 1


def test_a_shift_recycles_the_oldest_page_behind_the_sinks() -> None:
    table = PageTable(PagePool(4), max_entries=4, sinks=1)
    assert not table.reach(4 * PAGE_SIZE - 1, shift=True)
    assert table.entries == [0, 1, 2, 3]
    with pytest.raises(ContextFull, match="position 128 is beyond the context of 128 tokens"):
        table.reach(4 * PAGE_SIZE)
    assert table.reach(4 * PAGE_SIZE, shift=True)
    assert (table.entries, table.dropped) == ([0, 2, 3, 1], 1)
    assert [table.entry_of(p) for p in (0, 31, 64, 127, 128)] == [0, 0, 1, 2, 3]
    table.reach(6 * PAGE_SIZE, shift=True)
    assert (table.entries, table.dropped) == ([0, 1, 2, 3], 3)


def sequence(pages: int = 8, entries: int = 4, sinks: int = 0) -> Sequence:
    return Sequence(0, PageTable(PagePool(pages), entries, sinks))


def cache(s: Sequence, ids: list[int], shift: bool = False) -> None:
    s.table.reach(len(ids) - 1, shift)
    s.cached[:] = ids


def test_keep_prefix_keeps_what_is_common_but_never_the_last_token() -> None:
    s = sequence()
    ids = list(range(100))
    assert s.keep_prefix(ids) == 0
    cache(s, ids)
    assert s.keep_prefix([*ids, 7]) == 100
    assert s.keep_prefix(ids) == 99
    assert s.length == 99
    assert s.keep_prefix([*range(40), 7, 7]) == 40
    assert len(s.table.entries) == 2
    assert s.keep_prefix([9, 9]) == 0
    assert s.cached == [] and s.table.entries == []


def test_keep_prefix_after_a_shift_keeps_all_or_nothing() -> None:
    s = sequence(sinks=1)
    ids = list(range(5 * PAGE_SIZE))
    cache(s, ids, shift=True)
    assert s.table.dropped == 1
    assert s.keep_prefix([*ids, 1]) == len(ids)
    assert s.keep_prefix([*ids[:-5], 1]) == 0
    assert (s.table.entries, s.table.dropped, s.cached) == ([], 0, [])


def test_a_table_that_got_other_pages_differs_from_the_one_before() -> None:
    """As many entries as before, but other pages: a copy that goes by their number would be stale."""
    pool = PagePool(8)
    a, b = PageTable(pool, 4), PageTable(pool, 4)
    a.reach(3 * PAGE_SIZE - 1)
    seen = a.version
    a.truncate(PAGE_SIZE)
    b.reach(2 * PAGE_SIZE - 1)
    a.reach(3 * PAGE_SIZE - 1)
    assert a.entries == [0, 3, 4]
    assert a.version != seen


def test_slots_wait_wake_and_close() -> None:
    pool = PagePool(4)
    slots = Slots(1, pool, 4, 0)
    first = slots.acquire()
    assert first is not None and slots.in_use == 1
    with pytest.raises(FluxError, match="all 1 sequences are in use"):
        slots.acquire(timeout=0.01)
    got: list[Sequence | None] = []
    waiter = threading.Thread(target=lambda: got.append(slots.acquire(10)))
    waiter.start()
    first.table.reach(PAGE_SIZE)
    time.sleep(0.02)
    assert not got
    slots.release(first)
    waiter.join(10)
    second = got.pop()
    assert second is not None and second.slot == 0 and pool.n_free == 4
    stop = threading.Event()
    waiter = threading.Thread(target=lambda: got.append(slots.acquire(10, stop.is_set)))
    waiter.start()
    stop.set()
    slots.wake()
    waiter.join(10)
    assert got == [None]
    slots.release(second)
    with pytest.raises(ValueError, match="slot 0 is not in use"):
        slots.release(second)
    slots.close()
    with pytest.raises(FluxError, match="the model is closed"):
        slots.acquire()
