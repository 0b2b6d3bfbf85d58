"""References of the norms. Not for fused variants of matmul or rope."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]


def rms_norm(x: Floats, w: Floats, *, eps: float) -> Array:
    """x [R, D], w [D] -> x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich 2019)."""
    v = x.astype(np.float64)
    result: Array = v / np.sqrt(np.mean(v * v, axis=-1, keepdims=True) + eps) * w
    return result


def add_rms_norm(x: Floats, r: Floats, w: Floats, *, eps: float) -> tuple[Array, Array]:
    """x, r [R, D], w [D] -> (s, y): s = x + r and its rms_norm."""
    s: Array = x.astype(np.float64) + r
    return s, rms_norm(s, w, eps=eps)


def layer_norm(x: Floats, w: Floats, b: Floats | None = None, *, eps: float) -> Array:
    """x [R, D], w and b [D] -> (x - mean) / sqrt(variance + eps) * w + b (Ba, Kiros and Hinton 2016)."""
    v = x.astype(np.float64)
    v = v - np.mean(v, axis=-1, keepdims=True)
    result: Array = v / np.sqrt(np.mean(v * v, axis=-1, keepdims=True) + eps) * w
    return result if b is None else result + b
