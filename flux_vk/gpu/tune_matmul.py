"""Measures the matmul shapes of a device for given matrices; `matmul` uses what was found from then on.

Only shapes that keep the order of sums are tried. Not for: when to measure (`python -m flux_vk.bench tune`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from .buffer import Buffer
from .chain import Chain
from .device import Device
from .matmul import MOST_TOKENS, TOKENS, Tuned, matmul, shape_for, tuning_key, variant_for
from .tuner import Choice, tuner_of

MANY = 32  # token rows that stand for a prompt
ROWS = {"lane": (8, 16, 32), "wave": (1, 2, 4, 8)}


def tune(
    device: Device, matrices: Iterable[tuple[str, int, int]], repeat: int = 9
) -> Iterator[tuple[str, Choice]]:
    """Measure every (type, rows, row length) once, for one token row and for many; yields (its name, the choice).

    The device uses the choices at once; `tuner_of(device).save()` keeps them for later runs.
    """
    tuner = tuner_of(device)
    assert tuner is not None
    for dtype, n, k in dict.fromkeys(matrices):
        variant = variant_for(device, dtype)
        family = variant.rsplit(".", 1)[1]
        w = device.weight_room(dtype, (n, k))
        device.upload(w, np.zeros(w.nbytes, np.uint8))  # the time does not depend on the values
        for many in (False, True):
            r = MANY if many else 1
            x, y = device.array(np.ones((r, k), np.float32)), device.empty((r, n))
            key = tuning_key(variant, n, k, many)
            yield key, tuner.measure(device, key, candidates(n, k, family, many), partial(_build, w, x, y), repeat)


def candidates(n: int, k: int, family: str, many: bool) -> list[dict[str, int]]:
    """Shapes to try, the rule's own first."""
    widths = [t for t in TOKENS if t > 1] if many else [1]
    rule = shape_for(n, k, MOST_TOKENS[family] if many else 1, family)
    found = [{"rows": rule.rows, "tokens": rule.tokens}]
    for tokens in widths:
        for rows in ROWS[family]:
            values = {"rows": rows, "tokens": tokens}
            if values not in found and rows <= max(n, 1):
                found.append(values)
    return found


def _build(w: Buffer, x: Buffer, y: Buffer, chain: Chain, values: dict[str, int]) -> None:
    matmul(chain, w=w, x=x, y=y, tuned=Tuned(**values))
