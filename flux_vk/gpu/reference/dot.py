"""References of the matrix-vector kernels for GPUs: wide reads, and integer dot products on quantised activations.

Not for: block formats (flux_vk.formats.blocks); w stands for its values, float [N, K].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .elementwise import geglu, swiglu
from .quant import matmul

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Words = npt.NDArray[np.uint32]

BLOCK = 32
LEAST = np.float32(1.5e-36)  # blocks whose largest value is smaller count as zeros


def matmul_wide(
    w: Floats,
    x: Floats,
    norm: Floats | None = None,
    bias: Floats | None = None,
    residual: Floats | None = None,
    *,
    y_offset: int = 0,
    n0: int = 0,
    eps: float = 0.0,
    act: int = 0,
) -> Array:
    """w [N, K], x [R, >= K], norm [K] -> y [R, N], or [R, N / 2] where `act` is 1 (silu) or 2 (gelu)."""
    a = x[:, : w.shape[1]].astype(np.float64)
    if norm is not None:
        a = a * norm / np.sqrt((a * a).mean(axis=1, keepdims=True) + eps)
    return _epilogue(matmul(w, a, bias, n0=n0), residual, y_offset + n0, act)


def _epilogue(y: Array, residual: Floats | None, first: int, act: int) -> Array:
    if act:
        y = swiglu(y) if act == 1 else geglu(y)
    return y if residual is None else y + residual[:, first : first + y.shape[1]]


def quantize_x8(x: Floats, norm: Floats | None = None, *, eps: float = 0.0, k: int = 0) -> Words:
    """x [R, >= K] -> words of matmul_dot's layout, [R, words of a row]; k defaults to all of x's columns."""
    k = k or x.shape[1]
    a = x[:, :k].astype(np.float64)
    if norm is not None:
        a = a * norm / np.sqrt((a * a).mean(axis=1, keepdims=True) + eps)
    nb = -(-k // BLOCK)
    blocks = np.zeros((len(x), nb, BLOCK), np.float32)
    blocks.reshape(len(x), -1)[:, :k] = a
    top = np.abs(blocks).max(axis=2)
    d = np.where(top < LEAST, np.float32(0), top / np.float32(127))
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=(top >= LEAST) & np.isfinite(top))
    scaled = np.where(np.isfinite(blocks), blocks, 0) * inverse[:, :, None]
    q = np.clip(np.rint(scaled), -127, 127).astype(np.int8)
    return pack_x8(np.where(np.isfinite(top), d, np.float32(np.nan)), q)


def pack_x8(d: npt.NDArray[np.float32], q: npt.NDArray[np.int8]) -> Words:
    """Scales [R, blocks] and quants [R, blocks, 32] as a row's words: low halves, high halves, scales with sums."""
    r, nb = d.shape
    sums = q.reshape(r, nb, 2, 16).sum(axis=3, dtype=np.int16)
    out = np.zeros((r, 10 * nb + 2 * (nb % 2)), np.uint32)
    halves = np.ascontiguousarray(q.reshape(r, nb, 2, 16).transpose(0, 2, 1, 3)).reshape(r, -1)
    out[:, : 8 * nb] = halves.view(np.uint32)
    out[:, 8 * nb : 10 * nb : 2] = d.view(np.uint32)
    out[:, 8 * nb + 1 : 10 * nb : 2] = np.ascontiguousarray(sums).reshape(r, -1).view(np.uint32)
    return out


def unpack_x8(
    words: Words, k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8], npt.NDArray[np.int16]]:
    """The inverse: scales [R, blocks], quants [R, blocks, 32], sums of sixteen quants [R, blocks, 2]."""
    r, nb = len(words), -(-k // BLOCK)
    halves = np.ascontiguousarray(words[:, : 8 * nb]).view(np.int8).reshape(r, 2, nb, 16)
    q = np.ascontiguousarray(halves.transpose(0, 2, 1, 3)).reshape(r, nb, BLOCK)
    scales = np.ascontiguousarray(words[:, 8 * nb : 10 * nb]).reshape(r, nb, 2)
    d = np.ascontiguousarray(scales[:, :, 0]).view(np.float32)
    return d, q, np.ascontiguousarray(scales[:, :, 1]).view(np.int16).reshape(r, nb, 2)


def values_x8(words: Words, k: int) -> Array:
    """The activations that the words stand for, [R, K]."""
    d, q, _ = unpack_x8(words, k)
    values: Array = (d[:, :, None].astype(np.float64) * q).reshape(len(words), -1)[:, :k]
    return values


def matmul_dot(
    w: Floats,
    x8: Words,
    bias: Floats | None = None,
    residual: Floats | None = None,
    *,
    y_offset: int = 0,
    n0: int = 0,
    act: int = 0,
) -> Array:
    """w [N, K] times the values that x8 stands for."""
    return _epilogue(matmul(w, values_x8(x8, w.shape[1]), bias, n0=n0), residual, y_offset + n0, act)


def dot_error_bound(w: Floats, x: Floats) -> Array:
    """How far w times quantised x may be from w x, [R, N]: half a step a value, and a margin for the division."""
    n, k = w.shape
    size = np.abs(w.astype(np.float64))
    blocks = np.zeros((len(x), -(-k // BLOCK), BLOCK))
    blocks.reshape(len(x), -1)[:, :k] = np.abs(x[:, :k])
    half_step = np.repeat(blocks.max(axis=2) / 254, BLOCK, axis=1)[:, :k]
    bound: Array = (half_step * 1.0002 + LEAST) @ size.T
    return bound
