"""What the matrix products (matmul_lane, matmul_wide, matmul_dot) have in common: checks, tiles, the dispatches.

Not for: choosing between them (matmul.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from .buffer import Buffer
from .chain import Chain

FLOATS = ("f32", "f16", "bf16")
TOKENS = (1, 2, 4, 8)
ROWS = (1, 2, 4, 8)
ACTS = {None: 0, "silu": 1, "gelu": 2}
UNIT = {"f32": 4, "f16": 8, "bf16": 8, "q8_0": 16}
"""Weights of a thread at a time, by type; 32 for the others."""


@dataclass(frozen=True)
class Tile:
    """Threads, weight rows and tokens of a workgroup, and how many tokens are staged at a time (matmul_wide only)."""

    wg: int
    rows: int
    tokens: int
    stage: int = 1


@dataclass(frozen=True)
class Product:
    """One checked product: what the dispatches of a kernel share.

    columns: those of y, N, or half of them where rows of a gate come first.
    """

    kernel: str
    w: Buffer
    x_name: str
    x: Buffer
    y: Buffer
    bias: Buffer | None
    residual: Buffer | None
    y_stride: int
    y_offset: int
    act: int

    @property
    def columns(self) -> int:
        return self.w.shape[0] // 2 if self.act else self.w.shape[0]


def product(
    kernel: str, w: Buffer, x_name: str, x: Buffer, y: Buffer, bias: Buffer | None, residual: Buffer | None,
    y_stride: int | None, y_offset: int, act: str | None,
) -> Product:  # fmt: skip
    """Checks what the contracts cannot. Raises ArgumentError naming the argument, what was wanted and what it is."""
    if len(w.shape) != 2 or len(x.shape) != 2:
        raise ArgumentError(f"{kernel}: w is {w}, {x_name} is {x}; expected two dimensions each")
    if act not in ACTS:
        raise ArgumentError(f"{kernel}: act is {act!r}, expected one of {', '.join(map(str, ACTS))}")
    stride = y.shape[-1] if y_stride is None else y_stride
    made = Product(kernel, w, x_name, x, y, bias, residual, stride, y_offset, ACTS[act])
    r = x.shape[0]
    if made.act and (w.shape[0] % 2 or w.nbytes > w.device.max_range):
        raise ArgumentError(
            f"{kernel}: w is {w} with act={act!r}; expected as many gate rows as up rows, and at most "
            f"{w.device.max_range} bytes, which is what this device binds at once: multiply and activate in two steps"
        )
    for name, b in (("y", y), ("residual", residual)):
        if b is not None and (b.size < r * stride or stride < y_offset + made.columns):
            raise ArgumentError(
                f"{kernel}: {name} is {list(b.shape)} with rows of {stride}, expected room for [{r}, {y_offset} + "
                f"{made.columns}]"
            )
    return made


def append(
    chain: Chain,
    made: Product,
    variant: str,
    most: int,
    tile: Callable[[int], Tile],
    others: Mapping[str, Any],
    maxima: Buffer | None = None,
) -> Chain:
    """Append the dispatches: full tiles of `most` tokens, and a narrower one for the rest.

    tile: the shape for a number of tokens. others: further arguments of the kernel. maxima: of the rows of y, for
    kernels that find them. The cut changes no bits.
    """
    r = made.x.shape[0]
    unit = chain.device.alignment // 4
    width = made.x.shape[1]
    pieces = list(cuts(r, most))
    first = pieces[0][1] if pieces else 0
    if len(pieces) > 1 and (first * made.y_stride % unit or first * width % unit or maxima is not None):
        pieces = [(0, r, most)]  # rows of y or x that cannot be bound on their own
    for start, stop, tokens in pieces:
        shape = tile(tokens)
        values: dict[str, Any] = {
            "w": made.w, made.x_name: made.x.rows(start, stop), "bias": made.bias,
            "y": _rows(made, made.y, start, stop),
            "residual": None if made.residual is None else _rows(made, made.residual, start, stop),
            "y_stride": made.y_stride, "y_offset": made.y_offset, "ACT": made.act,
            "WG": shape.wg, "NR": max(shape.rows, 2) if made.act else shape.rows, "NT": shape.tokens, **others,
        }  # fmt: skip
        if made.kernel == "matmul_wide":
            values["STAGE"] = shape.stage
        if maxima is not None:
            values |= {"maxima": maxima, "max_stride": maxima.shape[1], "STAT": 1}
        chain.dispatch(made.kernel, variant=variant, **values)
    return chain


def cuts(r: int, most: int) -> Iterator[tuple[int, int, int]]:
    """(first, end, tokens of a workgroup) of full tiles and of one narrower tile for the rest."""
    full = r // most * most
    if full:
        yield 0, full, most
    if r > full:
        yield full, r, next(t for t in TOKENS if t >= r - full)


def _rows(made: Product, b: Buffer, start: int, stop: int) -> Buffer:
    """Rows start..stop of y or residual, which may be shaped otherwise than [R, stride]."""
    if (start, stop) == (0, made.x.shape[0]):
        return b
    stride = made.y_stride
    whole = b if b.shape[-1] == stride and len(b.shape) == 2 else b.reshape(b.size // stride, stride)
    return whole.rows(start, stop)


def threads(dtype: str, k: int) -> int:
    """Threads of a workgroup. They decide the order of the sums, so they follow from the matrix alone."""
    return 64 if k >= 64 * UNIT.get(dtype, 32) else 32


def checked(kernel: str, w: Buffer, x: Buffer) -> tuple[int, int]:
    """N and K of a product. Raises ArgumentError where w and x do not fit together."""
    if len(w.shape) != 2 or len(x.shape) != 2 or x.dtype != "f32" or x.shape[1] < w.shape[1]:
        raise ArgumentError(f"{kernel}: w is {w}, x is {x}; expected w [N, K] and x f32 [R, K] (or wider)")
    n, k = w.shape
    if w.dtype not in FLOATS and (k % 32 or x.shape[1] % 8):
        raise ArgumentError(
            f"{kernel}: w is {w.dtype} [{n}, {k}], x rows have {x.shape[1]} elements; expected K to be a multiple of "
            "32, and x's rows to be one of 8"
        )
    return n, k
