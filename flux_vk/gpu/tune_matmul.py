"""Measures the matmul shapes of a device for given matrices; `matmul` uses what was found from then on.

Only shapes that keep the order of sums are tried. Where the device has fast integer dot products they are measured
too, quantisation included, beside the best of those; `dot_wanted` looks at the result. Not for: when to measure
(`python -m flux_vk.bench tune`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from . import matmul_dot, matmul_lane, matmul_wide
from .buffer import Buffer
from .chain import Chain
from .device import BaseDevice, Device
from .matmul import Tuned, matmul, rows_of, tuning_key, variant_for
from .matvec import ROWS as DOT_ROWS
from .matvec import TOKENS, Tile
from .tuner import Choice, tuner_of

MANY = 32  # token rows that stand for a prompt
COLD_BYTES = 256 << 20
"""On a GPU a product is measured with so many copies of the weights in turn (MOST_COPIES at most): in a step they come
from memory and not from a cache, and one product alone takes less time than its submit."""
MOST_COPIES = 16


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
        ws = [device.weight_room(dtype, (n, k))]
        if device.family == "gpu":
            copies = min(MOST_COPIES, max(1, COLD_BYTES // ws[0].nbytes))
            ws += [device.weight_room(dtype, (n, k)) for _ in range(copies - 1)]
        for w in ws:
            device.upload(w, np.zeros(w.nbytes, np.uint8))  # the time does not depend on the values
        for many in (False, True):
            r = MANY if many else 1
            x, y = device.array(np.ones((r, k), np.float32)), device.empty((r, n))
            key = tuning_key(variant, n, k, many)
            shapes = candidates(device, variant, n, k, many)
            yield key, tuner.measure(device, key, shapes, partial(_build, ws, x, y), repeat, len(ws))
            if matmul_dot.FAST in device.features and matmul_dot.dot_able(device, dtype):
                key = matmul_dot.dot_key(dtype, n, k, many)
                shapes = dot_candidates(device, dtype, n, k, many)
                yield key, tuner.measure(device, key, shapes, partial(_build_dot, ws, x, y), repeat, len(ws))


def rule(device: BaseDevice, variant: str, n: int, k: int, many: bool) -> Tile:
    """The shape that is used without a measurement."""
    if variant.endswith(".lane"):
        return matmul_lane.shape_for(n, matmul_lane.MOST_TOKENS if many else 1)
    return matmul_wide.shape_for(device, variant, n, k, matmul_wide.MOST_TOKENS if many else 1)


def candidates(device: BaseDevice, variant: str, n: int, k: int, many: bool) -> list[dict[str, int]]:
    """Shapes to try, the rule's own first."""
    widths = [t for t in TOKENS if t > 1] if many else [1]
    own = rule(device, variant, n, k, many)
    found = [{"rows": own.rows, "tokens": own.tokens}]
    for tokens in widths:
        for rows in rows_of(variant):
            values = {"rows": rows, "tokens": tokens}
            if values not in found and rows <= max(n, 1):
                found.append(values)
    return found


def _build(ws: list[Buffer], x: Buffer, y: Buffer, chain: Chain, values: dict[str, int]) -> None:
    for w in ws:
        matmul(chain, w=w, x=x, y=y, tuned=Tuned(**values))


def dot_candidates(device: Device, dtype: str, n: int, k: int, many: bool) -> list[dict[str, int]]:
    """The product without quantised activations, as it would be done otherwise (dot 0), then shapes of matmul_dot."""
    own = rule(device, variant_for(device, dtype), n, k, many)
    found = [{"dot": 0, "rows": own.rows, "tokens": own.tokens}]
    for tokens in [t for t in TOKENS if t > 1] if many else [1]:
        found += [{"dot": 1, "rows": rows, "tokens": tokens} for rows in DOT_ROWS if rows <= max(n, 1)]
    return found


def _build_dot(ws: list[Buffer], x: Buffer, y: Buffer, chain: Chain, values: dict[str, int]) -> None:
    for w in ws:
        if values["dot"]:
            x8 = matmul_dot.quantize_x8(chain, x=x)
            matmul_dot.matmul_dot(chain, w=w, x8=x8, y=y, rows=values["rows"], tokens=values["tokens"])
        else:
            matmul(chain, w=w, x=x, y=y)
