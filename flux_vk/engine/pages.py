"""Page tables of the KV cache: which physical page holds which positions of a sequence. Plain bookkeeping, no GPU.

A sequence may drop its oldest pages (context shift): the first `sinks` stay, positions stay absolute.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ContextFull

PAGE_SIZE = 32  # tokens


def pages_for(tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-tokens // PAGE_SIZE)


class PagePool:
    """The free physical pages, handed out lowest first."""

    def __init__(self, n_pages: int) -> None:
        self.n_pages = n_pages
        self._free = list(range(n_pages - 1, -1, -1))
        self._used: set[int] = set()

    @property
    def n_free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """One page. Raises ContextFull when every page is in use."""
        if not self._free:
            raise ContextFull(
                f"all {self.n_pages} KV pages of {PAGE_SIZE} tokens are in use by running sequences; close one, or "
                "load the model with a larger kv_tokens"
            )
        page = self._free.pop()
        self._used.add(page)
        return page

    def give(self, page: int) -> None:
        """Return a page; each exactly once."""
        if page not in self._used:
            raise ValueError(f"page {page} is not in use")
        self._used.remove(page)
        self._free.append(page)


@dataclass
class PageTable:
    """The pages of one sequence, oldest first. Entry e holds logical page e (e < sinks) or e + dropped."""

    pool: PagePool
    max_entries: int
    sinks: int = 0  # pages at the front that are never dropped
    entries: list[int] = field(default_factory=list)
    dropped: int = 0
    version: int = 0  # changes with every edit, so that a copy elsewhere (the device's) can tell whether it is stale

    def entry_of(self, position: int) -> int:
        """Index of the entry that holds an absolute position."""
        logical = position // PAGE_SIZE
        return logical if logical < self.sinks else logical - self.dropped

    def reach(self, position: int, shift: bool = False) -> bool:
        """Make sure that `position` has a page. Returns whether entries moved (a page was dropped).

        Raises ContextFull at the table's limit unless `shift`, which recycles the oldest page after the sinks.
        """
        moved = False
        while self.entry_of(position) >= len(self.entries):
            if len(self.entries) < self.max_entries:
                self.entries.append(self.pool.take())
            elif not shift:
                raise ContextFull(f"position {position} is beyond the context of {self.max_entries * PAGE_SIZE} tokens")
            else:
                self.entries.append(self.entries.pop(self.sinks))
                self.dropped += 1
                moved = True
            self.version += 1
        return moved

    def recycles(self, position: int) -> bool:
        """Whether `reach` would drop a page for this position, of a table that may shift."""
        return self.entry_of(position) >= self.max_entries

    def truncate(self, length: int) -> None:
        """Keep only the pages of the first `length` positions. Not after a shift, when positions have gone."""
        if self.dropped:
            raise ContextFull("a sequence that dropped pages cannot be truncated; start it anew")
        for page in self.entries[pages_for(length) :]:
            self.pool.give(page)
        del self.entries[pages_for(length) :]
        self.version += 1

    def release(self) -> None:
        """Return every page."""
        for page in self.entries:
            self.pool.give(page)
        self.entries.clear()
        self.dropped = 0
        self.version += 1
