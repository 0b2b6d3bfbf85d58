"""References of the kernels that read and write block-quantised weights; w stands for its values, float [N, K].

Not for: the formats themselves (flux_vk.formats.blocks) or their device layout (flux_vk.formats.layout).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]


def matmul(
    w: Floats,
    x: Floats,
    bias: Floats | None = None,
    residual: Floats | None = None,
    *,
    y_offset: int = 0,
    n0: int = 0,
) -> Array:
    """w [N, K], x [R, >= K], bias [n0 + N], residual [R, >= y_offset + n0 + N] -> y [R, N]."""
    n, k = w.shape
    y: Array = x[:, :k].astype(np.float64) @ w.astype(np.float64).T
    if bias is not None:
        y = y + bias[n0 : n0 + n]
    if residual is not None:
        y = y + residual[:, y_offset + n0 : y_offset + n0 + n]
    return y


def embed(ids: npt.NDArray[np.uint32], w: Floats, *, scale: float = 1.0) -> npt.NDArray[np.float32]:
    """ids [R] below V, w [V, D] -> [R, D], in float32: a product with `scale` and nothing else."""
    rows: npt.NDArray[np.float32] = w[ids].astype(np.float32) * np.float32(scale)
    return rows


def dequantize(w: Floats) -> npt.NDArray[np.float32]:
    """The values themselves."""
    return w.astype(np.float32)
