"""The matrix product for CPU drivers (kernels/matmul.toml): its shapes and its call.

Eight lanes walk along rows of their own, reading weights as texels, which llvmpipe gathers without a branch. Not for:
GPUs (matmul_wide.py), and choosing between kernels (matmul.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ArgumentError
from . import kernels, matvec
from .buffer import Buffer
from .chain import Chain
from .device import BaseDevice
from .matvec import Tile

WG = 8
ROWS = (8, 16, 32)
# Measured on llvmpipe with AVX-512 (32 registers of 8 lanes): 8 tokens are 15 to 19 % faster than 4 with 4 rows a lane.
MOST_TOKENS = 8


def able(device: BaseDevice, dtype: str) -> bool:
    """Whether this device has the kernel for weights of a type, and it was made for its kind."""
    return kernels.made_for(device, "matmul", f"{dtype}.lane")


def shape_for(n: int, tokens: int, gated: bool = False, rows: int | None = None) -> Tile:
    """Eight lanes; as many rows a lane as leave work for a few threads. rows: what a measurement chose instead.

    gated: a lane needs rows of both halves of w. The shape decides no bits.
    """
    if rows is None:
        rows = next((r for r in (32, 16) if n >= 4 * r), 8)
    return Tile(WG, max(rows, 2 * WG) if gated else rows, tokens)


def matmul_lane(
    chain: Chain,
    *,
    w: Buffer,
    x: Buffer,
    y: Buffer,
    norm: Buffer | None = None,
    eps: float = 0.0,
    act: str | None = None,
    bias: Buffer | None = None,
    residual: Buffer | None = None,
    maxima: Buffer | None = None,
    y_stride: int | None = None,
    y_offset: int = 0,
    rows: Mapping[int, int] | None = None,
    most: int = MOST_TOKENS,
) -> Chain:
    """Append the product as `matmul` describes it.

    rows: weight rows of a workgroup by its number of tokens, where a measurement chose them; most: its most tokens.
    """
    made = matvec.product("matmul", w, "x", x, y, bias, residual, y_stride, y_offset, act)
    given = dict(rows or {})
    if not set(given.values()) <= set(ROWS):
        raise ArgumentError(f"matmul: rows is {sorted(given.values())}, expected some of {', '.join(map(str, ROWS))}")

    def tile(tokens: int) -> Tile:
        return shape_for(w.shape[0], tokens, act is not None, given.get(tokens))

    lanes = 8 if chain.device.limits["subgroup_size"] >= 8 else 4
    others = {"norm": norm, "eps": eps, "NORM": int(norm is not None), "LANES": lanes}
    return matvec.append(chain, made, f"{w.dtype}.lane", most, tile, others, maxima)
