"""A sequence: the tokens whose keys and values are in the cache, its slot and its page table. No GPU here.

Not for: running steps (runner.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import FluxError
from .pages import PagePool, PageTable


@dataclass
class Sequence:
    """One stream of tokens. `cached` are those whose keys and values are in the cache, in order."""

    slot: int
    table: PageTable
    cached: list[int] = field(default_factory=list)
    synced: int = -1  # version of the page table that the device has

    @property
    def length(self) -> int:
        """Tokens in the cache = the position of the next one."""
        return len(self.cached)

    def keep_prefix(self, ids: list[int]) -> int:
        """Forget what does not begin `ids`; returns how many of `ids` are still cached (never all of them).

        The last token is always run again, because its logits are what the next token is drawn from.
        """
        common = 0
        for a, b in zip(self.cached, ids[:-1], strict=False):
            if a != b:
                break
            common += 1
        if self.table.dropped and common < self.length:
            self.table.release()
            common = 0
        elif common < self.length:
            self.table.truncate(common)
        del self.cached[common:]
        return common


class Slots:
    """The fixed number of sequences that may live at the same time; acquiring waits for a free one."""

    def __init__(self, n: int, pool: PagePool, max_entries: int, sinks: int) -> None:
        self.n = n
        self._pool = pool
        self.max_entries = max_entries
        self._sinks = sinks
        self._free = list(range(n - 1, -1, -1))
        self._changed = threading.Condition()
        self._closed = False
        self.on_open: Callable[[Sequence], None] | None = None
        """Called with every fresh sequence before anybody has it; a benchmark marks positions as cached with it."""

    def acquire(
        self, timeout: float | None = None, cancelled: Callable[[], bool] = lambda: False, wait: bool = True
    ) -> Sequence | None:
        """A fresh sequence. Blocks while all slots are taken; None when `cancelled()` (asked again at every `wake`).

        wait=False: None at once while all slots are taken. FluxError after `timeout` seconds or when closed.
        """
        with self._changed:
            if not wait and not (self._free or self._closed):
                return None
            if not self._changed.wait_for(lambda: self._free or self._closed or cancelled(), timeout):
                raise FluxError(f"all {self.n} sequences are in use; close a session or load with more sequences")
            if self._closed:
                raise FluxError("the model is closed; load it again")
            if cancelled():
                return None
            slot = self._free.pop()
        sequence = Sequence(slot, PageTable(self._pool, self.max_entries, self._sinks))
        if self.on_open is not None:
            self.on_open(sequence)
        return sequence

    def wake(self) -> None:
        """Let those who wait ask whether they are cancelled."""
        with self._changed:
            self._changed.notify_all()

    def release(self, sequence: Sequence) -> None:
        """Give back a sequence's slot and pages; each sequence exactly once."""
        with self._changed:
            if sequence.slot in self._free:
                raise ValueError(f"slot {sequence.slot} is not in use")
            sequence.table.release()
            sequence.cached.clear()
            self._free.append(sequence.slot)
            self._changed.notify_all()

    @property
    def in_use(self) -> int:
        return self.n - len(self._free)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
