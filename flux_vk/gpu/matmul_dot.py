"""Matrix products by packed integer dot products, on activations of eight bits: shapes, calls, when to use them.

quantize_x8 turns 32 activations into int8 quants q, a scale d = max|x| / 127 and the sums of both halves' quants; the
quants of a weight and q are multiplied four at a time in integers, which is exact; only scales are floats. A row of
`x8` is planes of whole 16-byte pieces: quants 0..15 of every block (16 bytes each), quants 16..31 of every block, then
(d as float32, two int16 sums) of every block, so that neighbouring threads read neighbouring pieces.

The error: |x - d q| <= d / 2, as every value is rounded to the nearest of 255 steps and the largest is hit. So

    |y_dot - y| <= sum over blocks b of (d_b / 2) * (sum over k in b of |w_k|)

in exact arithmetic. Float32 adds less than 2^-20 times sum |s_k u_k| |x_k| + sum |m_k| |x_k| for weights s u + m, and
the rounding of 127 / max less than 1e-4 of the bound. A block whose largest value is below 1.5e-36 counts as zeros, and
one with an infinity or NaN makes its row of y NaN. Errors of the values are independent, so that y is usually off by no
more than the root of sum (d_b^2 / 12) * w_k^2; tests/gpu/test_matmul_dot.py measures both.

Because it changes results, it is never used unasked: see `dot_wanted`. Not for: float weights.
"""

from __future__ import annotations

from ..errors import ArgumentError
from ..settings import settings
from . import kernels, matvec
from .buffer import Buffer
from .chain import Chain
from .device import BaseDevice
from .matvec import TOKENS, Tile
from .tuner import tuner_of

MOST_TOKENS = 8
FEATURE, FAST = "integer_dot", "integer_dot_fast"


def dot_able(device: BaseDevice, dtype: str) -> bool:
    """Whether the device can run the kernel for a weight type, fast or not."""
    types = {v.types["w"] for v in kernels.contract("matmul_dot").variants}
    return FEATURE in device.features and dtype in types


def dot_wanted(device: BaseDevice, dtype: str, n: int, k: int, many: bool = False) -> bool:
    """Whether products with a matrix [n, k] should go through quantised activations.

    FLUX_VK_INT_DOT decides: off: never. on: wherever the device is able. auto (the default): where the device reports
    the instruction as accelerated and `python -m flux_vk.bench tune` found it faster for this matrix; without a
    stored measurement no. many: what was found for many tokens instead of one. A row's bits must not depend on how
    many rows there are, so a caller asks once a matrix.
    """
    mode = settings().int_dot
    if mode == "off" or not dot_able(device, dtype):
        return False
    if mode == "on":
        return True
    tuner = tuner_of(device)
    if FAST not in device.features or tuner is None:
        return False
    found = tuner.get(dot_key(dtype, n, k, many))
    return found is not None and found.get("dot") == 1


def dot_key(dtype: str, n: int, k: int, many: bool) -> str:
    """Under which name the tuner keeps a matrix. Its values: dot 1 where it was faster than matmul, rows, tokens."""
    return f"matmul {dtype}.dot {n}x{k} {'many' if many else 'one'}"


def row_words(k: int) -> int:
    """32-bit words of a row of x8."""
    nb = -(-k // 32)
    return 10 * nb + 2 * (nb % 2)


def quantize_x8(
    chain: Chain, *, x: Buffer, k: int | None = None, norm: Buffer | None = None, eps: float = 0.0,
    x8: Buffer | None = None,
) -> Buffer:  # fmt: skip
    """Append the quantisation of x f32 [R, >= k] (k: default all columns), or of rms_norm(x) * norm; returns x8.

    norm: f32 [k]; eps is that of the norm. x8: u32 [R, row_words(k)] to write to; default: scratch of the chain.
    Several products may read it.
    """
    if len(x.shape) != 2 or x.shape[1] < (k or 1):
        raise ArgumentError(f"quantize_x8: x is {x}, expected f32 [R, {k or 'K'}] or wider")
    k = x.shape[1] if k is None else k
    if x8 is None:
        x8 = chain.scratch((x.shape[0], row_words(k)), "u32")
    chain.dispatch("quantize_x8", x=x, norm=norm, x8=x8, K=k, eps=eps, WG=64 if norm is None else 256)
    return x8


def variant_for(device: BaseDevice, dtype: str) -> str:
    """The form this device uses for a weight type: "q4_k.sub" with subgroup sums, else "q4_k.tree"."""
    return kernels.choose(kernels.contract("matmul_dot"), {"w": dtype}, device.features, device.family).name


def shape_for(device: BaseDevice, variant: str, n: int, k: int, tokens: int, rows: int | None = None) -> Tile:
    """The rule's shape: few weight rows, because the quantised activations cost little to read again.

    rows: what a measurement chose instead. Only `wg` decides bits, and it follows from type and row length.
    """
    dtype, reduction = variant.rsplit(".", 1)
    wg = matvec.threads(dtype, k)
    if rows is None:
        rows = 2 if n < 4096 or tokens >= 4 else 4
    room = int(device.limits["max_shared_bytes"]) - 64
    while 4 * rows * tokens * (wg // 4 if reduction == "sub" else wg) > room and rows > 1:
        rows //= 2
    return Tile(wg, rows, tokens)


def matmul_dot(
    chain: Chain,
    *,
    w: Buffer,
    x8: Buffer,
    y: Buffer,
    act: str | None = None,
    bias: Buffer | None = None,
    residual: Buffer | None = None,
    y_stride: int | None = None,
    y_offset: int = 0,
    variant: str | None = None,
    rows: int | None = None,
    tokens: int | None = None,
) -> Chain:
    """Append y[r, y_offset + n] = act(sum_k w[n, k] x8[r, k] + bias[n]) + residual[r, y_offset + n].

    x8: what `quantize_x8` returned for activations of w's row length. act: None, "silu" or "gelu": w holds gate rows
    and then as many up rows, and y[n] = act(gate[n]) * up[n] has half as many columns. The rest as in `matmul`.
    `variant`, `rows` and `tokens` (of a workgroup, the latter at most) force a form; default: what the tuner knows,
    else a rule. Raises ArgumentError naming the argument.
    """
    made = matvec.product("matmul_dot", w, "x8", x8, y, bias, residual, y_stride, y_offset, act)
    n, k = w.shape
    if not dot_able(chain.device, w.dtype):
        raise ArgumentError(f"matmul_dot: w is {w}; this device multiplies no such weights in integers, use matmul")
    for name, value, choices in (("rows", rows, matvec.ROWS), ("tokens", tokens, TOKENS)):
        if value is not None and value not in choices:
            raise ArgumentError(f"matmul_dot: {name} is {value}, expected one of {', '.join(map(str, choices))}")
    form = variant or variant_for(chain.device, w.dtype)
    one, many = (_measured(chain.device, w.dtype, n, k, m) for m in (False, True))
    most = tokens or many.get("tokens") or MOST_TOKENS

    def tile(t: int) -> Tile:
        found = one if t == 1 else many if t == many.get("tokens") else {}
        return shape_for(chain.device, form, n, k, t, rows or found.get("rows"))

    return matvec.append(chain, made, form, most, tile, {})


def _measured(device: BaseDevice, dtype: str, n: int, k: int, many: bool) -> dict[str, int]:
    """A choice of the tuner, unless it is for matmul or names a shape that this version of the kernel does not have."""
    tuner = tuner_of(device)
    found = tuner.get(dot_key(dtype, n, k, many)) if tuner is not None else None
    usable = found and found.get("dot") == 1 and found.get("rows") in matvec.ROWS and found.get("tokens") in TOKENS
    return found if found and usable else {}
