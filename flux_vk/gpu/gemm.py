"""Products of two float32 matrices on a chain, in all the ways that training needs: C (+)= alpha op(A) op(B).

Which kernel, which side of C the lanes run along and whether k is cut follow from the device and the shapes alone, so a
product has the same bits every time. Not for: quantised weights (matmul.py, matmul_backward.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import ArgumentError
from . import kernels
from .buffer import Buffer
from .chain import Chain
from .device import BaseDevice

COST = {32: 1.0, 16: 1.2, 8: 1.6}
"""Rows of C of a CPU driver's workgroup, and what an element then costs (measured): fewer rows share the loads."""
COLUMNS = 4
"""Columns of C of a lane."""


@dataclass(frozen=True)
class Tile:
    """Rows and columns of C of a GPU's workgroup, and of a thread."""

    bm: int
    bn: int
    tm: int
    tn: int

    @property
    def threads(self) -> int:
        return self.bm // self.tm * (self.bn // self.tn)


TILES = (Tile(128, 128, 8, 8), Tile(64, 64, 4, 4), Tile(32, 32, 4, 4))
ENOUGH = 128
"""Workgroups that keep a large GPU busy: smaller tiles, and cuts of k, where there are fewer."""
PART = 256
"""Fewest terms of a part of k."""
MOST_PARTS = 64


@dataclass(frozen=True)
class Matrix:
    """A matrix as it is stored: `rows` rows of `width` elements, `stride` elements apart, from element `offset` on."""

    name: str
    buffer: Buffer
    rows: int
    width: int
    stride: int
    offset: int

    def check(self) -> None:
        """Raises ArgumentError where the buffer does not hold it."""
        if self.buffer.dtype != "f32":
            raise ArgumentError(f"gemm: {self.name} is {self.buffer.dtype}, expected f32")
        if self.offset < 0 or (self.stride < self.width and self.rows > 1):
            raise ArgumentError(
                f"gemm: {self.name} has rows of {self.width} elements, {self.stride} apart, from element {self.offset} "
                f"on; expected a stride of at least {self.width} and no negative offset"
            )
        need = self.offset + (self.rows - 1) * self.stride + self.width if self.rows and self.width else 0
        if self.buffer.size < need:
            raise ArgumentError(
                f"gemm: {self.name} has {self.buffer.size} elements, expected {need}: {self.rows} rows of "
                f"{self.width}, {self.stride} apart, from element {self.offset} on"
            )

    @property
    def aligned(self) -> bool:
        """Whether every row is made of whole texels."""
        return not (self.width | self.stride | self.offset) & 3


def gemm(
    chain: Chain,
    *,
    a: Buffer,
    b: Buffer,
    c: Buffer,
    m: int,
    n: int,
    k: int,
    ta: bool = False,
    tb: bool = False,
    alpha: float = 1.0,
    accumulate: bool = False,
    lda: int | None = None,
    a_offset: int = 0,
    ldb: int | None = None,
    b_offset: int = 0,
    ldc: int | None = None,
    c_offset: int = 0,
    splits: int | None = None,
) -> Chain:
    """Append C[m, n] (+)= alpha * op(A)[m, k] op(B)[k, n]; all float32, row-major, strides and offsets in elements.

    a: stored [m, k], or [k, m] with ta; b: [k, n], or [n, k] with tb. lda, ldb, ldc: from one stored row to the next,
    by default the row's length. accumulate: added to what C holds. C may not overlap a or b.
    splits: into how many parts k is cut, summed in their order (default: by shapes and device; decides last bits).
    Rows that are multiples of 4 long, apart and offset are fastest. Raises ArgumentError naming the operand.
    """
    if min(m, n, k) < 0:
        raise ArgumentError(f"gemm: m, n, k are {m}, {n}, {k}; expected none below 0")
    a_rows, a_width = (k, m) if ta else (m, k)
    b_rows, b_width = (n, k) if tb else (k, n)
    left = Matrix("a", a, a_rows, a_width, a_width if lda is None else lda, a_offset)
    right = Matrix("b", b, b_rows, b_width, b_width if ldb is None else ldb, b_offset)
    out = Matrix("c", c, m, n, n if ldc is None else ldc, c_offset)
    for matrix in (left, right, out):
        matrix.check()
        if matrix is not out and out.buffer.memory is matrix.buffer.memory and overlap(out.buffer, matrix.buffer):
            raise ArgumentError(f"gemm: c {c} overlaps {matrix.name} {matrix.buffer}; expected memory of its own")
    if m == 0 or n == 0 or (k == 0 and accumulate):
        return chain
    lanes = kernels.made_for(chain.device, "gemm")
    parts = splits if splits is not None else 1 if lanes else parts_of(m, n, k)
    if not 1 <= parts <= 65535:
        raise ArgumentError(f"gemm: splits is {parts}, expected 1 to 65535")
    given: dict[str, Any] = {"a": a, "b": b, "c": c, "m": m, "n": n, "k": k, "ta": ta, "tb": tb}
    with chain.call("gemm", given):
        if parts == 1:
            return _product(chain, left, right, out, (m, n, k), ta, tb, alpha, accumulate)
        scratch = chain.scratch((parts, m, n))
        sums = Matrix("c", scratch, m, n, n, 0)
        _product(chain, left, right, sums, (m, n, k), ta, tb, 1.0, False, parts)
        return chain.dispatch(
            "gemm_sum", parts=scratch, base=c if accumulate else None, c=c, ldc=out.stride, c_offset=c_offset,
            alpha=alpha,
        )  # fmt: skip


def overlap(a: Buffer, b: Buffer) -> bool:
    """Whether two ranges of one memory share a byte."""
    return a.offset < b.end and b.offset < a.end


def lanes_of(device: BaseDevice) -> int:
    """Lanes that work together in the kernels for CPU drivers."""
    return 8 if device.limits["subgroup_size"] >= 8 else 4


def parts_of(m: int, n: int, k: int) -> int:
    """Into how many parts a GPU cuts k: few tiles with long sums would leave it idle."""
    tile = tile_of(m, n)
    tiles = -(-m // tile.bm) * -(-n // tile.bn)
    return max(1, min(-(-ENOUGH // tiles), k // PART, MOST_PARTS))


def tile_of(m: int, n: int) -> Tile:
    """The largest tile that gives a GPU enough workgroups, or else the smallest."""
    return next((t for t in TILES if -(-m // t.bm) * -(-n // t.bn) >= ENOUGH), TILES[-1])


def _product(
    chain: Chain,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    shape: tuple[int, int, int],
    ta: bool,
    tb: bool,
    alpha: float,
    accumulate: bool,
    parts: int = 1,
) -> Chain:
    """The product itself; with several parts C[i] of part p stands at p * m * n."""
    m, n, k = shape
    unit = 4 * -(-k // (4 * parts))  # a part begins at a whole texel
    values: dict[str, Any] = {
        "splits": parts, "k_split": max(unit, 1), "c_split": m * n if parts > 1 else 0, "alpha": alpha,
        "c_offset": c.offset,
    }  # fmt: skip
    if not kernels.made_for(chain.device, "gemm"):
        tile = tile_of(m, n)
        return chain.dispatch(
            "gemm_tile", a=a.buffer, b=b.buffer, base=c.buffer if accumulate else None, c=c.buffer, M=m, N=n, K=k,
            lda=a.stride, ldb=b.stride, a_offset=a.offset, b_offset=b.offset, ldc=c.stride, TA=int(ta), TB=int(tb),
            WG=tile.threads, BM=tile.bm, BN=tile.bn, TM=tile.tm, TN=tile.tn, **values,
        )  # fmt: skip
    lanes = lanes_of(chain.device)
    (plain, plain_rows), (turned, turned_rows) = (shape_of(*side, lanes) for side in ((m, n), (n, m)))
    swap = turned < plain
    rows = turned_rows if swap else plain_rows
    if swap:  # the transposes
        a, b, ta, tb, m, n = b, a, not tb, not ta, n, m
    vector = 0 if not c.aligned else 2 if swap else 1
    return chain.dispatch(
        "gemm", a=texels(a.buffer), b=texels(b.buffer), base=texels(c.buffer) if accumulate else None, c=c.buffer,
        M=m, N=n, K=k, lda=a.stride, ldb=b.stride, a_offset=a.offset, b_offset=b.offset,
        c_row=1 if swap else c.stride, c_col=c.stride if swap else 1,
        TA=int(ta), TB=int(tb), AV=int(a.aligned), BV=int(b.aligned), CV=vector, BASE=int(accumulate), MR=rows,
        LANES=lanes, **values,
    )  # fmt: skip


def shape_of(m: int, n: int, lanes: int) -> tuple[float, int]:
    """What a product of m rows by n columns costs a CPU driver with lanes along the columns, and with how many rows."""
    columns = -(-n // (COLUMNS * lanes)) * COLUMNS * lanes
    return min((cost * columns * rows * -(-m // rows), rows) for rows, cost in COST.items())


def texels(b: Buffer) -> Buffer:
    """The same range in whole texels of 16 bytes; allocations are made of them, so it ends in the same one."""
    end = -(-b.nbytes // 16) * 16
    return b if end == b.nbytes else replace(b, nbytes=end, shape=(end // 4,))
