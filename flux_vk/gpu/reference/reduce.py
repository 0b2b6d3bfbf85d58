"""References of kernels that reduce or select along rows, and of the prefix sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .sort import order_key

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Uints = npt.NDArray[np.uint32]
BLOCK = 64


def softmax(x: Floats, *, scale: float = 1.0) -> Array:
    """x [R, D] -> softmax of scale * x along rows; a row of -Inf alone gives zeros, NaN or +Inf in it NaN."""
    result = np.zeros(x.shape)
    if x.shape[-1] == 0:
        return result
    v = x.astype(np.float64) * scale
    top = v.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        e = np.exp(v - top)
        result = e / e.sum(axis=-1, keepdims=True)
    return np.where(top == -np.inf, 0.0, result)


def argmax(x: Floats) -> Uints:
    """x [R, D] -> lowest index of the largest element of each row; NaN never wins (0 where all are NaN)."""
    if x.shape[-1] == 0:
        return np.zeros(len(x), np.uint32)
    best: Uints = np.argmax(order_key(x.astype(np.float32), 0), axis=-1).astype(np.uint32)
    return best


def reduce(x: Floats, *, op: int = 0) -> Array:
    """x [R, D] -> sum (op 0), maximum (1) or minimum (2) of each row; NaN propagates."""
    v = x.astype(np.float64)
    if op == 0:
        total: Array = v.sum(axis=-1)
        return total
    extreme: Array = v.max(axis=-1, initial=-np.inf) if op == 1 else v.min(axis=-1, initial=np.inf)
    return extreme


def prefix_scan(
    x: npt.NDArray[Any], before: npt.NDArray[Any] | None = None, *, block: int = 0
) -> npt.NDArray[Any]:
    """x [N] -> inclusive sums (uint32 wraps, floats in float64).

    The kernel alone scans blocks of `block` elements, each on top of before[its index - 1]; 0: one block.
    """
    wide = np.uint64 if x.dtype == np.uint32 else np.float64
    size = block or max(len(x), 1)
    parts = [np.cumsum(x[i : i + size].astype(wide)) for i in range(0, len(x), size)]
    if before is not None:
        parts = [part + (before[i - 1].astype(wide) if i else 0) for i, part in enumerate(parts)]
    result = np.concatenate(parts) if parts else np.zeros(0, wide)
    return result.astype(np.uint32) if x.dtype == np.uint32 else result


def prefix_scan_totals(x: npt.NDArray[Any], *, block: int) -> npt.NDArray[Any]:
    """x [N] -> the sum of each block of `block` elements."""
    wide = np.uint64 if x.dtype == np.uint32 else np.float64
    totals = np.array([x[i : i + block].astype(wide).sum() for i in range(0, len(x), block)], wide)
    return totals.astype(np.uint32) if x.dtype == np.uint32 else totals


def top_k_blocks(x: Floats) -> Uints:
    """x [R, D] -> the largest order key (NaN lowest) of each block of 64 elements [R, ceil(D / 64)]."""
    keys = order_key(x.astype(np.float32), 0)
    short = -keys.shape[1] % BLOCK
    maxima: Uints = np.pad(keys, ((0, 0), (0, short))).reshape(len(x), -1, BLOCK).max(axis=-1)
    return maxima


def top_k(x: Floats, *, k: int) -> tuple[Floats, Uints]:
    """x [R, D] -> (values, indices) [R, k]: falling, ties by rising index, NaN last.

    Entries past D are (-Inf, 2^32 - 1).
    """
    rows, d = x.shape
    keys = order_key(x.astype(np.float32), 0)
    order = np.argsort(~keys, axis=-1, kind="stable")[:, : min(k, d)]
    indices = np.full((rows, k), 0xFFFFFFFF, np.uint32)
    values = np.full((rows, k), -np.inf, x.dtype)
    indices[:, : order.shape[1]] = order
    values[:, : order.shape[1]] = np.take_along_axis(x, order, axis=-1)
    return values, indices
