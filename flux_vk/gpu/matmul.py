"""Matrix products on a chain: picks the shape of the matmul kernel for the device and the number of rows.

Not for: what the kernel computes (kernels/matmul.toml), or which weights a model multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ArgumentError
from . import kernels
from .buffer import Buffer
from .chain import Chain
from .device import BaseDevice
from .tuner import tuner_of

FLOATS = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Shape:
    """Specialization of one dispatch: threads, weight rows and tokens of a workgroup."""

    wg: int
    rows: int
    tokens: int


@dataclass(frozen=True)
class Piece:
    """Token rows start..stop of a product, done by one dispatch of that shape."""

    start: int
    stop: int
    shape: Shape


@dataclass(frozen=True)
class Tuned:
    """What a measurement chose: weight rows and most tokens of a workgroup. It changes speed only, never bits."""

    rows: int
    tokens: int


TOKENS = (1, 2, 4, 8)
ROWS = (1, 2, 4, 8, 16, 32)
# Most tokens of a workgroup. Measured on llvmpipe (AVX2): with 4 weight rows a lane, 4 tokens are where the
# accumulators still fit the registers and the unrolled loop the instruction cache; 8 are slower.
MOST_TOKENS = {"lane": 8, "wave": 8}


LANE_WG = 8


def lane_shape(n: int, tokens: int) -> Shape:
    """For llvmpipe: eight lanes; as many rows a lane as leave work for a few threads."""
    for rows in (32, 16):
        if n >= 4 * rows:
            return Shape(LANE_WG, rows, tokens)
    return Shape(LANE_WG, 8, tokens)


def wave_shape(n: int, k: int, tokens: int) -> Shape:
    """For GPUs: one or two subgroups that share few weight rows; long rows get more threads.

    The threads follow from k alone, because they decide the order of the sums.
    """
    return Shape(64 if k >= 2048 else 32, 2 if n < 1024 or tokens == 1 else 4, tokens)


def shape_for(n: int, k: int, tokens: int, family: str, tuned: Tuned | None = None) -> Shape:
    """The rule's shape for that many tokens, with the rows of a measurement that was made for as many."""
    rule = lane_shape(n, tokens) if family == "lane" else wave_shape(n, k, tokens)
    return Shape(rule.wg, tuned.rows, tokens) if tuned is not None and tuned.tokens == tokens else rule


def pieces(
    r: int, n: int, k: int, family: str, one: Tuned | None = None, many: Tuned | None = None
) -> list[Piece]:
    """How to cut r tokens (r >= 1) for w [n, k]: full tiles of the best width, and one narrower tile for the rest.

    one, many: what was measured for a single token and for many. Whatever the cut, every row's result is the same to
    the last bit: the kernel's order of summation does not depend on it.
    """
    most = many.tokens if many else MOST_TOKENS[family]
    full = r // most * most
    cut = []
    if full:
        cut.append((0, full, most))
    if r > full:
        cut.append((full, r, next(t for t in TOKENS if t >= r - full)))
    return [Piece(a, b, shape_for(n, k, t, family, one if t == 1 else many)) for a, b, t in cut]


def variant_for(device: BaseDevice, dtype: str) -> str:
    """The form of the kernel that this device uses for weights of a type, such as "q4_k.lane"."""
    return kernels.choose(kernels.contract("matmul"), {"w": dtype}, device.features, device.family).name


def tuning_key(variant: str, n: int, k: int, many: bool) -> str:
    """Under which name the tuner keeps a matrix."""
    return f"matmul {variant} {n}x{k} {'many' if many else 'one'}"


def _measured(device: BaseDevice, variant: str, n: int, k: int) -> tuple[Tuned | None, Tuned | None]:
    tuner = tuner_of(device)
    if tuner is None:
        return None, None
    one, many = (_usable(tuner.get(tuning_key(variant, n, k, m))) for m in (False, True))
    return one, many


def _usable(values: dict[str, int] | None) -> Tuned | None:
    """A choice from a tuning file, unless it names a shape that this version of the kernel does not have."""
    tuned = Tuned(values.get("rows", 0), values.get("tokens", 0)) if values else None
    return tuned if tuned and tuned.rows in ROWS and tuned.tokens in TOKENS else None


ACTIVATIONS = {None: 0, "silu": 1, "gelu": 2}


def matmul(
    chain: Chain,
    *,
    w: Buffer,
    x: Buffer,
    y: Buffer,
    bias: Buffer | None = None,
    residual: Buffer | None = None,
    y_stride: int | None = None,
    y_offset: int = 0,
    norm: Buffer | None = None,
    eps: float = 0.0,
    act: str | None = None,
    maxima: Buffer | None = None,
    variant: str | None = None,
    tuned: Tuned | None = None,
    prompt: bool = False,
) -> Chain:
    """Append y[r, y_offset + n] = sum_k w[n, k] x[r, k] (+ bias[n]) (+ residual[r, y_offset + n]).

    w: [N, K] of any weight type. x: f32 [R, K] or wider (only the first K columns count). y: f32 [R, y_stride];
    y_stride defaults to y's last dimension. residual is shaped like y and may be y itself.
    norm: f32 [K]; x is then RMS-normed on the way: x / sqrt(mean(x^2) + eps) * norm.
    act: "silu" or "gelu" (tanh form): w holds N / 2 gate rows, then as many up rows, and
    y[r, y_offset + n] = act(gate n) * up n, for n < N / 2; w must then fit one binding of the device.
    maxima: u32 [R, blocks], zeros before; takes the largest key of each block of y's rows, as `sample_stats` would find
    them. Not with bias, residual, act or y_offset.
    prompt: the rows of x are a prompt's, which GPUs multiply by tiles (matmul_tile.py), in other arithmetic than decode.
    `variant` forces one form of the kernel ("q4_k.wave"), `tuned` a shape (default: what the device's tuner knows).
    Raises ArgumentError naming the argument, the shape wanted and the shape got.
    """
    if prompt and variant is None and maxima is None:
        from .matmul_tile import matmul_tile, tile_variant_for

        if (tiled := tile_variant_for(chain.device, w.dtype)) is not None:
            return matmul_tile(
                chain, w=w, x=x, y=y, bias=bias, residual=residual, y_stride=y_stride, y_offset=y_offset, norm=norm,
                eps=eps, act=act, variant=tiled,
            )  # fmt: skip
    n, k, r = _checked(w, x)
    columns = n if act is None else n // 2
    if act not in ACTIVATIONS or (act is not None and (n % 2 or not can_gate(chain.device, w))):
        raise ArgumentError(
            f"matmul: act is {act!r} with w {w}; expected silu or gelu, an even number of rows, and at most "
            f"{chain.device.max_range} bytes"
        )
    if maxima is not None and (bias is not None or residual is not None or act is not None or y_offset):
        raise ArgumentError("matmul: maxima are of the product alone; leave out bias, residual, act and y_offset")
    stride = y.shape[-1] if y_stride is None else y_stride
    for name, b in (("y", y), ("residual", residual)):
        if b is not None and (b.size < r * stride or stride < y_offset + columns):
            raise ArgumentError(
                f"matmul: {name} is {list(b.shape)} with rows of {stride}; expected room for "
                f"[{r}, {y_offset} + {columns}]"
            )
    if variant is None:
        variant = variant_for(chain.device, w.dtype)
    family = variant.rsplit(".", 1)[1]
    one, many = (tuned, tuned) if tuned else _measured(chain.device, variant, n, k)
    plan = pieces(r, n, k, family, one, many) if r else []
    lanes = 8 if chain.device.limits["subgroup_size"] >= 8 else 4
    step = chain.device.alignment // 4
    if len(plan) > 1 and (plan[0].stop * stride % step or plan[0].stop * x.shape[1] % step or maxima is not None):
        plan = [Piece(0, r, plan[0].shape)]  # rows of y or x that cannot be bound on their own
    least = 1 if act is None else 2 * LANE_WG if family == "lane" else 2
    given = {
        "w": w, "x": x, "y": y, "bias": bias, "residual": residual, "y_stride": stride, "y_offset": y_offset,
        "norm": norm, "eps": eps, "act": act, "maxima": maxima, "variant": variant, "tuned": tuned,
    }  # fmt: skip
    with chain.call("matmul", given):
        for piece in plan:
            chain.dispatch(
                "matmul", variant=variant, w=w, x=x.rows(piece.start, piece.stop), bias=bias, norm=norm, eps=eps,
                y=_rows(y, piece, stride, r), residual=None if residual is None else _rows(residual, piece, stride, r),
                maxima=None if maxima is None else maxima.rows(piece.start, piece.stop),
                max_stride=0 if maxima is None else maxima.shape[1], STAT=int(maxima is not None),
                y_stride=stride, y_offset=y_offset, WG=piece.shape.wg, NR=max(piece.shape.rows, least),
                NT=piece.shape.tokens, LANES=lanes, NORM=int(norm is not None), ACT=ACTIVATIONS[act],
            )  # fmt: skip
    return chain


def can_gate(device: BaseDevice, w: Buffer) -> bool:
    """Whether a product with these weights can end with a gated activation: gate and up rows must be bound together."""
    return w.nbytes <= device.max_range


def _checked(w: Buffer, x: Buffer) -> tuple[int, int, int]:
    if len(w.shape) != 2 or len(x.shape) != 2 or x.dtype != "f32" or x.shape[1] < w.shape[1]:
        raise ArgumentError(f"matmul: w is {w}, x is {x}; expected w [N, K] and x f32 [R, K] (or wider)")
    n, k = w.shape
    if w.dtype not in FLOATS and (k % 32 or x.shape[1] % 8):
        raise ArgumentError(
            f"matmul: w is {w.dtype} [{n}, {k}], x rows have {x.shape[1]} elements; expected K to be a multiple of 32, "
            "and x's rows to be one of 8"
        )
    return n, k, x.shape[0]


def _rows(b: Buffer, piece: Piece, stride: int, r: int) -> Buffer:
    """The piece's rows of y or residual, which may be shaped otherwise than [R, stride]."""
    if (piece.start, piece.stop) == (0, r):
        return b
    whole = b if b.shape[-1] == stride and len(b.shape) == 2 else b.reshape(b.size // stride, stride)
    return whole.rows(piece.start, piece.stop)
