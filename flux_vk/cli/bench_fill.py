"""A KV cache as full as wanted without running a prompt: random keys and values, and positions marked as cached.

For timing only: what is generated behind it means nothing. Not for: prompts that count (`--fill prompt`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from flux_vk.engine.model import Model
    from flux_vk.engine.sequence import Sequence as Stream

NOTE = "cache filled with random keys"
_PAGES = 64


def random_cache(model: Model, seed: int) -> None:
    """Write random keys and values into every page of the cache: the same 64 pages over and over."""
    buffers, rng = model.runner.buffers, np.random.default_rng(seed)
    kind = np.float16 if model.runner.limits.kv_type == "f16" else np.float32
    for cache in (*buffers.kcache, *buffers.vcache):
        pages = cache.shape[0]
        tile = rng.standard_normal((min(pages, _PAGES), *cache.shape[1:]), dtype=np.float32).astype(kind)
        for first in range(0, pages, _PAGES):
            last = min(first + _PAGES, pages)
            cache.rows(first, last).write(tile[: last - first])


@contextmanager
def marked(model: Model, ids: Sequence[int]) -> Iterator[None]:
    """Inside, every sequence that is opened believes that these tokens are cached; a prompt that begins with them runs
    only what is behind them."""
    slots = model.runner.slots

    def mark(sequence: Stream) -> None:
        if ids:
            sequence.table.reach(len(ids) - 1)
            sequence.cached.extend(ids)

    slots.on_open = mark
    try:
        yield
    finally:
        slots.on_open = None
