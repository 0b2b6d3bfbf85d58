"""References of the kernels that read and write block-quantised weights; w stands for its values, float [N, K].

Not for: the formats themselves (flux_vk.formats.blocks) or their device layout (flux_vk.formats.layout).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .elementwise import geglu, swiglu

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
    norm: Floats | None = None,
    eps: float = 0.0,
    act: str | None = None,
) -> Array:
    """w [N, K], x [R, >= K], bias [n0 + N], residual [R, >= y_offset + n0 + N], norm [K] -> y [R, N].

    With act ("silu", "gelu"): y [R, N / 2], activated gate rows of w times its up rows.
    """
    n, k = w.shape
    inputs = x[:, :k].astype(np.float64)
    if norm is not None:
        inputs = inputs / np.sqrt((inputs * inputs).mean(axis=1, keepdims=True) + eps) * norm
    y: Array = inputs @ w.astype(np.float64).T
    if bias is not None:
        y = y + bias[n0 : n0 + n]
    if act is not None:
        n //= 2
        gate = y[:, :n]
        tanh = np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))
        y = (gate / (1 + np.exp(-gate)) if act == "silu" else 0.5 * gate * (1 + tanh)) * y[:, n:]
    if residual is not None:
        y = y + residual[:, y_offset + n0 : y_offset + n0 + n]
    return y


def matmul_tile(
    w: Floats,
    x: Floats,
    bias: Floats | None = None,
    residual: Floats | None = None,
    norm: Floats | None = None,
    *,
    y_offset: int = 0,
    n0: int = 0,
    eps: float = 0.0,
    act: int = 0,
) -> Array:
    """As matmul; x is normed where norm [K] is given; act 1: swiglu of the N columns, 2: geglu, before residual."""
    n, k = w.shape
    v: Array = x[:, :k].astype(np.float64)
    if norm is not None:
        v = v / np.sqrt((v * v).mean(axis=1, keepdims=True) + eps) * norm.astype(np.float64)
    y = v @ w.astype(np.float64).T
    if bias is not None:
        y = y + bias[n0 : n0 + n]
    if act:
        y = swiglu(y) if act == 1 else geglu(y)
    if residual is not None:
        y = y + residual[:, y_offset + n0 : y_offset + n0 + y.shape[1]]
    return y


def embed(ids: npt.NDArray[np.uint32], w: Floats, *, scale: float = 1.0) -> npt.NDArray[np.float32]:
    """ids [R] below V, w [V, D] -> [R, D], in float32: a product with `scale` and nothing else."""
    rows: npt.NDArray[np.float32] = w[ids].astype(np.float32) * np.float32(scale)
    return rows


def dequantize(w: Floats) -> npt.NDArray[np.float32]:
    """The values themselves."""
    return w.astype(np.float32)
