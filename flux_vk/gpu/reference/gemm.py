"""References of the products of training; operands as the kernels store them.

Not for: the products of inference (quant.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .quant import matmul

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]


def gemm(
    a: Floats, b: Floats, base: Floats | None = None, *, ta: int = 0, tb: int = 0, alpha: float = 1.0
) -> Array:
    """a [m, k] ([k, m] with ta), b [k, n] ([n, k] with tb), base [m, n] -> base + alpha op(a) op(b), [m, n]."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    product: Array = alpha * ((left.T if ta else left) @ (right.T if tb else right))
    return product if base is None else base + product


def gemm_tile(
    a: Floats, b: Floats, base: Floats | None = None, *, ta: int = 0, tb: int = 0, alpha: float = 1.0
) -> Array:
    """As gemm."""
    return gemm(a, b, base, ta=ta, tb=tb, alpha=alpha)


def gemm_sum(parts: Floats, base: Floats | None = None, *, alpha: float = 1.0) -> Array:
    """parts [S, m, n], base [m, n] -> base + alpha * their sum, [m, n]."""
    total: Array = alpha * parts.astype(np.float64).sum(axis=0)
    return total if base is None else base + total


def matmul_train(
    w: Floats, x: Floats, bias: Floats | None = None, residual: Floats | None = None, *, y_offset: int = 0, n0: int = 0
) -> Array:
    """As matmul (quant.py) without norm and activation: w [N, K], x [R, >= K] -> y [R, N]."""
    return matmul(w, x, bias, residual, y_offset=y_offset, n0=n0)


def matmul_backward(w: Floats, g: Floats, base: Floats | None = None, *, g_offset: int = 0) -> Array:
    """w [N, K], g [R, >= g_offset + N], base [R, K] -> base + g w, [R, K]: the gradient of x in y = x w^T."""
    product: Array = g[:, g_offset : g_offset + len(w)].astype(np.float64) @ w.astype(np.float64)
    return product if base is None else base + product
