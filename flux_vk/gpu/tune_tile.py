"""Measures the tiles of a device for given matrices; products of prompts use what was found from then on.

All tiles give the same bits. Not for: which tiles there are (matmul_tile.py), when to measure (`flux_vk.bench tune`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from .buffer import Buffer
from .chain import Chain
from .device import Device
from .matmul_tile import MARKS, Tile, as_values, matmul_tile, tile_for, tile_variant_for, tiles_for, tuning_key
from .tuner import Choice, tuner_of


def tune_tiles(
    device: Device, matrices: Iterable[tuple[str, int, int]], repeat: int = 9
) -> Iterator[tuple[str, Choice]]:
    """Measure every (type, rows, row length) once for each of MARKS token rows; yields (its name, the choice).

    Nothing where the device's prompts take no tiles.
    """
    tuner = tuner_of(device)
    assert tuner is not None
    for dtype, n, k in dict.fromkeys(matrices):
        variant = tile_variant_for(device, dtype)
        if variant is None:
            return
        w = device.weight_room(dtype, (n, k))
        device.upload(w, np.zeros(w.nbytes, np.uint8))  # the time does not depend on the values
        for r in MARKS:
            x, y = device.array(np.ones((r, k), np.float32)), device.empty((r, n))
            key = tuning_key(variant, n, k, r)
            tried = candidates(device, variant, n, r)
            yield key, tuner.measure(device, key, tried, partial(_build, w, x, y, variant), repeat)


def candidates(device: Device, variant: str, n: int, r: int) -> list[dict[str, int]]:
    """Tiles to try, the rule's own first; each also with loads ahead. None that r fills by less than half."""
    arithmetic = variant.rsplit(".", 1)[1]
    rule = tile_for(device, arithmetic, n, r)
    tiles = [rule, *(t for t in tiles_for(device, arithmetic, more=True) if t != rule and t.bn < 2 * r)]
    return [as_values(Tile(t.bm, t.bn, t.tm, t.tn, ahead)) for t in tiles for ahead in (0, 1)]


def _build(w: Buffer, x: Buffer, y: Buffer, variant: str, chain: Chain, values: dict[str, int]) -> None:
    matmul_tile(chain, w=w, x=x, y=y, variant=variant, tuned=Tile(**values))
