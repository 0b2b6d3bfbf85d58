"""The gradient of a matrix product by its input: dx = g W, with W in the blocks that the forward product reads.

CPU drivers unpack the weights in the kernel matmul_backward. GPUs, and rows that are not made of whole groups of four,
take the long way: a window of weight rows is made float32 in scratch memory and multiplied, then the next one. Not for:
gradients of weights, which stay as they are (LoRA's are products of floats: gemm.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ArgumentError
from . import kernels
from .buffer import Buffer
from .chain import Chain
from .gemm import gemm, lanes_of, overlap, texels

ROWS = 1024
"""Weight rows of a dispatch, about: their sub-blocks stay in a CPU's caches while all columns pass (measured)."""
WINDOW = {"cpu": 1 << 20, "gpu": 64 << 20}
"""Bytes of a float32 window: what a core's caches hold; on a GPU large enough for the dispatches not to count."""
UNIT = 16
"""A window begins at a multiple of this many rows, whose bytes then are a multiple of 256: every device binds there."""


@dataclass(frozen=True)
class Product:
    """One checked product: dx [r, k], and g's rows with the n columns that count."""

    w: Buffer
    g: Buffer
    dx: Buffer
    stride: int
    offset: int
    accumulate: bool


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

    w: [N, K] of any weight type, of any size. g: f32, rows of g_stride, by default its last dimension. dx: f32 [R, K].
    accumulate: added to what dx holds. dx may not overlap g. The bits of a row of dx do not depend on R. Raises
    ArgumentError naming the argument, what was wanted and what it is.
    """
    if len(w.shape) != 2 or len(dx.shape) != 2 or (len(g.shape) != 2 and g_stride is None):
        raise ArgumentError(f"matmul_backward: w is {w}, g is {g}, dx is {dx}; expected two dimensions each")
    n, k = w.shape
    r = dx.shape[0]
    stride = g.shape[1] if g_stride is None else g_stride
    if dx.shape != (r, k) or dx.dtype != "f32" or g.dtype != "f32":
        raise ArgumentError(f"matmul_backward: dx is {dx} and g is {g}, expected f32 [R, {k}] and f32 [R, ...]")
    if g_offset < 0 or stride < g_offset + n or g.size < r * stride:
        raise ArgumentError(
            f"matmul_backward: g is {list(g.shape)} with rows of {stride}, expected room for [{r}, {g_offset} + {n}]"
        )
    if dx.memory is g.memory and overlap(dx, g):
        raise ArgumentError(f"matmul_backward: dx {dx} overlaps g {g}; expected memory of its own")
    if r == 0 or k == 0:
        return chain
    made = Product(w, g, dx, stride, g_offset, accumulate)
    given = {"w": w, "g": g, "dx": dx, "g_stride": stride, "g_offset": g_offset, "accumulate": accumulate}
    with chain.call("matmul_backward", given):
        if kernels.made_for(chain.device, "matmul_backward", w.dtype) and not (n | k | stride | g_offset) & 3:
            return _unpacked(chain, made)
        return _windows(chain, made)


def _unpacked(chain: Chain, p: Product) -> Chain:
    n, r = p.w.shape[0], p.dx.shape[0]
    lanes = lanes_of(chain.device)
    each = next((c for c in (1, 2) if r <= c * lanes), 4)
    rows = dispatch_rows(p.w, chain.device.max_range)
    for first in range(0, n, rows):
        add = p.accumulate or first > 0
        chain.dispatch(
            "matmul_backward", variant=p.w.dtype, w=p.w.rows(first, min(first + rows, n)), g=texels(p.g),
            base=p.dx if add else None, dx=p.dx, g_stride=p.stride, g_offset=p.offset + first, LANES=lanes, NC=each,
            BASE=int(add),
        )  # fmt: skip
    return chain


def dispatch_rows(w: Buffer, most: int) -> int:
    """Weight rows of a dispatch that may bind `most` bytes: about ROWS, in equal parts; fewer where rows are long."""
    n = w.shape[0]
    parts = max(round(n / ROWS), 1)
    fit = most // (w.row_bytes or 1) // UNIT * UNIT if w.nbytes > most else n
    return max(1, min(-(-n // parts // UNIT) * UNIT, max(fit, UNIT)))


def _windows(chain: Chain, p: Product) -> Chain:
    (n, k), r = p.w.shape, p.dx.shape[0]
    rows = window_rows(chain.device.family, n, k)
    window = chain.scratch((rows, k))
    for first in range(0, n, rows):
        stop = min(first + rows, n)
        floats = window.rows(0, stop - first)
        chain.dispatch("dequantize", w=p.w.rows(first, stop), y=floats)
        gemm(
            chain, a=p.g, b=floats, c=p.dx, m=r, n=k, k=stop - first, lda=p.stride, a_offset=p.offset + first,
            accumulate=p.accumulate or first > 0,
        )  # fmt: skip
    return chain


def window_rows(family: str, n: int, k: int) -> int:
    """Weight rows of a float32 window."""
    fit = WINDOW[family] // (4 * max(k, 1)) // UNIT * UNIT
    return max(1, min(n, max(fit, UNIT)))
