"""The mask of a grammar over a model's vocabulary, half of the rows with one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.cli.bench_cases import MAX_ELEMENTS, Array, Case, Prepared, Sizes, dispatch
from flux_vk.decode.masks import words_for
from flux_vk.gpu import kernels
from flux_vk.gpu.reference import reference

if TYPE_CHECKING:
    from flux_vk.gpu import Device

MOST_ROWS = 8


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """For as many rows as streams are decoded together, at most 8."""
    for r in dict.fromkeys(min(r, MOST_ROWS) for r in rows):
        if r * sizes.vocab <= MAX_ELEMENTS:
            yield Case("sample_mask", f"{r} x {sizes.vocab}", partial(_make, r, sizes.vocab))


def _make(r: int, vocab: int, device: Device, rng: np.random.Generator) -> Prepared:
    given: dict[str, Array] = {
        "logits": (3 * rng.standard_normal((r, vocab))).astype(np.float32),
        "row_slot": np.arange(r, dtype=np.uint32),
        "masked": (np.arange(r) % 2 == 0).astype(np.uint32),
        "masks": rng.integers(0, 2**32, (r, words_for(vocab)), np.uint32),
    }
    buffers = {name: device.array(a) for name, a in given.items()}
    buffers["y"] = device.filled((r, vocab), "f32", 0xFF)
    run = partial(dispatch, "sample_mask", {})
    limit = kernels.contract("sample_mask").nmse
    return Prepared(buffers, run, lambda: [("y", _finite, _finite(reference("sample_mask")(**given)))], limit)


def _finite(y: Array) -> Array:
    """With a number below all logits for minus infinity, which no error can be taken of."""
    return np.where(np.isneginf(y), np.float32(-1000), y)
