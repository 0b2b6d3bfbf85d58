"""The gradient of a matrix product by its input: dx = g W, with W in the blocks that the forward product reads.

A window of weight rows is made float32 in scratch memory and multiplied, then the next one. Not for: gradients of
weights, which stay as they are (LoRA's are products of floats: gemm.py).
"""

from __future__ import annotations

from typing import Any

from ..errors import ArgumentError
from .buffer import Buffer
from .chain import Chain
from .gemm import gemm, overlap

WINDOW = {"cpu": 1 << 20, "gpu": 64 << 20}
"""Bytes of a window: what a core's caches hold on a CPU driver; on a GPU large enough for the dispatch not to count."""
UNIT = 16
"""A window begins at a multiple of this many rows, whose bytes then are a multiple of 256: every device binds there."""


def matmul_backward(
    chain: Chain,
    *,
    w: Buffer,
    g: Buffer,
    dx: Buffer,
    g_stride: int | None = None,
    g_offset: int = 0,
    accumulate: bool = False,
) -> Chain:
    """Append dx[r, k] (+)= sum_n g[r, g_offset + n] w[n, k].

    w: [N, K] of any weight type, of any size. g: f32 [R, g_stride], g_stride by default its last dimension. dx: f32
    [R, K]. accumulate: added to what dx holds. dx may not overlap g. Raises ArgumentError naming the argument.
    """
    if len(w.shape) != 2 or len(g.shape) != 2 or len(dx.shape) != 2:
        raise ArgumentError(f"matmul_backward: w is {w}, g is {g}, dx is {dx}; expected two dimensions each")
    n, k = w.shape
    r = g.shape[0]
    stride = g.shape[1] if g_stride is None else g_stride
    if dx.shape != (r, k) or dx.dtype != "f32" or g.dtype != "f32":
        raise ArgumentError(f"matmul_backward: dx is {dx} and g is {g}, expected f32 [{r}, {k}] and f32 [{r}, ...]")
    if g_offset < 0 or stride < g_offset + n or g.size < r * stride:
        raise ArgumentError(
            f"matmul_backward: g is {list(g.shape)} with rows of {stride}, expected room for [{r}, {g_offset} + {n}]"
        )
    if dx.memory is g.memory and overlap(dx, g):
        raise ArgumentError(f"matmul_backward: dx {dx} overlaps g {g}; expected memory of its own")
    given: dict[str, Any] = {"w": w, "g": g, "dx": dx, "g_stride": stride, "g_offset": g_offset}
    rows = window_rows(chain.device.family, n, k)
    with chain.call("matmul_backward", given):
        window = chain.scratch((rows, k))
        for first in range(0, n, rows):
            stop = min(first + rows, n)
            floats = window.rows(0, stop - first)
            chain.dispatch("dequantize", w=w.rows(first, stop), y=floats)
            gemm(
                chain, a=g, b=floats, c=dx, m=r, n=k, k=stop - first, lda=stride, a_offset=g_offset + first,
                accumulate=accumulate or first > 0,
            )  # fmt: skip
    return chain


def window_rows(family: str, n: int, k: int) -> int:
    """Weight rows of a window."""
    fit = WINDOW[family] // (4 * max(k, 1)) // UNIT * UNIT
    return max(1, min(n, max(fit, UNIT)))
