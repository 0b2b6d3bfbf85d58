"""Reference of the rotary position embedding kernel.

Not for frequency scaling, which models fold into `turns`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def rope(
    x: npt.NDArray[np.floating],
    pos: npt.NDArray[np.uint32],
    turns: npt.NDArray[np.uint32],
    *,
    stride: int,
    heads: int,
    head_dim: int,
    n_rot: int,
    offset: int = 0,
    mscale: float = 1.0,
    neox: int = 0,
) -> npt.NDArray[np.float64]:
    """x of any shape with rows of `stride` floats, pos [R], turns [n_rot / 2] -> x rotated, same shape.

    Pair i of each head turns by pos * turns[i] / 2^32 of a full turn (Su et al. 2021): elements
    (i, i + n_rot / 2) where neox is 1, (2i, 2i + 1) where it is 0.
    """
    result = x.astype(np.float64).copy()
    rows = result.reshape(-1)[: len(pos) * stride].reshape(len(pos), stride)
    view = rows[:, offset : offset + heads * head_dim].reshape(len(pos), heads, head_dim)
    half = n_rot // 2
    fraction = (pos[:, None].astype(np.uint64) * turns[None, :]) & 0xFFFFFFFF
    angle = fraction.astype(np.float64)[:, None, :] * (2 * np.pi / 2**32)
    first = slice(0, half) if neox else slice(0, n_rot, 2)
    second = slice(half, n_rot) if neox else slice(1, n_rot, 2)
    a, b = view[..., first].copy(), view[..., second].copy()
    rotated = np.empty_like(view)
    rotated[:] = view
    rotated[..., first] = (a * np.cos(angle) - b * np.sin(angle)) * mscale
    rotated[..., second] = (a * np.sin(angle) + b * np.cos(angle)) * mscale
    rows[:, offset : offset + heads * head_dim] = rotated.reshape(len(pos), -1)
    return result
