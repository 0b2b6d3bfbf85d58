"""Matrix products on a chain: which kernel does one on this device, and in which shape.

Not for: what the kernels compute (kernels/matmul*.toml), or which weights a model multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from . import matmul_dot, matmul_lane, matmul_tile, matmul_wide, matvec
from .buffer import Buffer
from .chain import Chain
from .device import BaseDevice
from .matvec import TOKENS
from .tuner import tuner_of

FLOATS = matvec.FLOATS


@dataclass(frozen=True)
class Tuned:
    """What a measurement chose: weight rows and most tokens of a workgroup. It changes speed only, never bits."""

    rows: int
    tokens: int


def variant_for(device: BaseDevice, dtype: str) -> str:
    """The form that this device uses for weights of a type: "q4_k.lane" on CPU drivers, else "q4_k.sub" or ".tree"."""
    return f"{dtype}.lane" if matmul_lane.able(device, dtype) else matmul_wide.variant_for(device, dtype)


def rows_of(variant: str) -> tuple[int, ...]:
    """Weight rows that a workgroup of a form may have."""
    return matmul_lane.ROWS if variant.endswith(".lane") else matvec.ROWS


def tuning_key(variant: str, n: int, k: int, many: bool) -> str:
    """Under which name the tuner keeps a matrix."""
    return f"matmul {variant} {n}x{k} {'many' if many else 'one'}"


def _measured(device: BaseDevice, variant: str, n: int, k: int) -> tuple[Tuned | None, Tuned | None]:
    tuner = tuner_of(device)
    if tuner is None:
        return None, None
    one, many = (_usable(variant, tuner.get(tuning_key(variant, n, k, m))) for m in (False, True))
    return one, many


def _usable(variant: str, values: dict[str, int] | None) -> Tuned | None:
    """A choice from a tuning file, unless it names a shape that this version of the kernel does not have."""
    tuned = Tuned(values.get("rows", 0), values.get("tokens", 0)) if values else None
    return tuned if tuned and tuned.rows in rows_of(variant) and tuned.tokens in TOKENS else None


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
    prompt: bool = False,
    variant: str | None = None,
    tuned: Tuned | None = None,
) -> Chain:
    """Append y[r, y_offset + n] = sum_k w[n, k] x[r, k] (+ bias[n]) (+ residual[r, y_offset + n]).

    w: [N, K] of any weight type. x: f32 [R, K] or wider (only the first K columns count). y: f32 [R, y_stride];
    y_stride defaults to y's last dimension. residual is shaped like y and may be y itself.
    norm: f32 [K]; x is then RMS-normed on the way: x / sqrt(mean(x^2) + eps) * norm.
    act: "silu" or "gelu" (tanh form): w holds N / 2 gate rows, then as many up rows, and
    y[r, y_offset + n] = act(gate n) * up n, for n < N / 2; w must then fit one binding of the device.
    maxima: u32 [R, blocks], zeros before; takes the largest key of each block of y's rows, as `sample_stats` would find
    them. Not with bias, residual, act or y_offset.
    prompt: the rows are a prompt's, which GPUs multiply by tiles (matmul_tile.py), in other arithmetic than decode's.
    `variant` forces one form of the kernel ("q4_k.lane", "q4_k.sub"), `tuned` a shape (default: what the tuner
    knows). A row's bits do not depend on R. Raises ArgumentError naming the argument, what was wanted and what it is.
    """
    n, k = matvec.checked("matmul", w, x)
    if maxima is not None and (bias is not None or residual is not None or act is not None or y_offset):
        raise ArgumentError("matmul: maxima are of the product alone; leave out bias, residual, act and y_offset")
    given = {
        "w": w, "x": x, "y": y, "bias": bias, "residual": residual, "y_stride": y_stride, "y_offset": y_offset,
        "norm": norm, "eps": eps, "act": act, "maxima": maxima, "prompt": prompt, "variant": variant,
        "tuned": tuned,
    }  # fmt: skip
    end: dict[str, Any] = {"act": act, "bias": bias, "residual": residual, "y_stride": y_stride, "y_offset": y_offset}
    with chain.call("matmul", given):
        tiled = matmul_tile.tile_variant_for(chain.device, w.dtype) if prompt and variant is None else None
        if tiled is not None and maxima is None:
            return matmul_tile.matmul_tile(chain, w=w, x=x, y=y, norm=norm, eps=eps, variant=tiled, **end)
        if variant is None and maxima is None and matmul_dot.dot_wanted(chain.device, w.dtype, n, k):
            x8 = matmul_dot.quantize_x8(chain, x=x, k=k, norm=norm, eps=eps)
            return matmul_dot.matmul_dot(chain, w=w, x8=x8, y=y, **end)
        form = variant or variant_for(chain.device, w.dtype)
        one, many = (tuned, tuned) if tuned else _measured(chain.device, form, n, k)
        rows = {t.tokens: t.rows for t in (one, many) if t is not None}
        most = many.tokens if many else matmul_lane.MOST_TOKENS
        if form.endswith(".lane"):
            return matmul_lane.matmul_lane(
                chain, w=w, x=x, y=y, norm=norm, eps=eps, maxima=maxima, rows=rows, most=most, **end
            )
        return matmul_wide.matmul_wide(
            chain, w=w, x=x, y=y, norm=norm, eps=eps, maxima=maxima, variant=form, rows=rows, most=most, **end
        )


def can_gate(device: BaseDevice, w: Buffer) -> bool:
    """Whether a product with these weights can end with a gated activation: gate and up rows must be bound together."""
    return w.nbytes <= device.max_range
