"""The matrix product of GPUs for few tokens (kernels/matmul_wide.toml): its shapes and its call.

Each thread reads 16 bytes of a weight row at a time; activations pass through shared memory once a workgroup. A norm in
front, a gate, bias and residual behind are part of it. Not for: CPU drivers, and prompts of many rows (matmul.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ArgumentError
from . import kernels, matvec
from .buffer import Buffer
from .chain import Chain
from .device import BaseDevice
from .matvec import TOKENS, UNIT, Tile

MOST_TOKENS = 8


def variant_for(device: BaseDevice, dtype: str) -> str:
    """The form this device uses for a weight type: "q4_k.sub" with subgroup sums, else "q4_k.tree"."""
    return kernels.choose(kernels.contract("matmul_wide"), {"w": dtype}, device.features, device.family).name


def shape_for(device: BaseDevice, variant: str, n: int, k: int, tokens: int, rows: int | None = None) -> Tile:
    """The rule's shape: as many weight rows as leave a few hundred workgroups, within the device's shared memory.

    rows: what a measurement chose instead. Only `wg` decides bits, and it follows from type and row length.
    """
    dtype, reduction = variant.rsplit(".", 1)
    wg = matvec.threads(dtype, k)
    if rows is None:
        rows = 2 if n < 2048 else 4 if n < 16384 or tokens >= 4 else 8
    stage = min(tokens, 4)
    room = int(device.limits["max_shared_bytes"])
    while shared_bytes(dtype, reduction, Tile(wg, rows, tokens, stage)) > room and stage > 1:
        stage //= 2
    while shared_bytes(dtype, reduction, Tile(wg, rows, tokens, stage)) > room and rows > 1:
        rows //= 2
    return Tile(wg, rows, tokens, stage)


def shared_bytes(dtype: str, reduction: str, tile: Tile) -> int:
    """What the kernel takes of a workgroup's shared memory."""
    staged = 4 * tile.stage * tile.wg * UNIT.get(dtype, 32)
    values = tile.rows * tile.tokens + tile.tokens
    return staged + 4 * values * (tile.wg // 4 if reduction == "sub" else tile.wg) + 64


def matmul_wide(
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
    y_stride: int | None = None,
    y_offset: int = 0,
    maxima: Buffer | None = None,
    variant: str | None = None,
    rows: int | Mapping[int, int] | None = None,
    most: int = MOST_TOKENS,
) -> Chain:
    """Append y[r, y_offset + n] = act(sum_k w[n, k] a[r, k] + bias[n]) + residual[r, y_offset + n].

    a is x, or with `norm` (f32 [K]) a = x / sqrt(mean(x^2) + eps) * norm. act: None, "silu" or "gelu": w holds gate
    rows and then as many up rows, and y[n] = act(gate[n]) * up[n] has half as many columns. w: [N, K] of any weight
    type; x: f32 [R, K] or wider; y: f32 [R, y_stride]; y_stride defaults to y's last dimension; residual like y, or y
    itself.
    maxima: u32 [R, blocks], zeros before; takes the largest key of each block of y's rows.
    `variant`, `rows` (weight rows of a workgroup, perhaps by its number of tokens) and `most` (its most tokens) force a
    form. Raises ArgumentError naming the argument.
    """
    made = matvec.product("matmul_wide", w, "x", x, y, bias, residual, y_stride, y_offset, act)
    n, k = matvec.checked("matmul_wide", w, x)
    given = rows if isinstance(rows, Mapping) else {} if rows is None else dict.fromkeys(TOKENS, rows)
    if not set(given.values()) <= set(matvec.ROWS):
        raise ArgumentError(f"matmul_wide: rows is {rows}, expected one of {', '.join(map(str, matvec.ROWS))}")
    form = variant or variant_for(chain.device, w.dtype)
    tile = {t: shape_for(chain.device, form, n, k, t, given.get(t)) for t in TOKENS}
    others = {"norm": norm, "eps": eps, "NORM": int(norm is not None)}
    return matvec.append(chain, made, form, most, tile.__getitem__, others, maxima)
