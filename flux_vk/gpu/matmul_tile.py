"""Matrix products of prompts on a GPU: which arithmetic and which tiles the kernel matmul_tile runs with.

Decode rows take `matmul`. Tiles change speed only: one arithmetic gives the same bits with all of them. Not for: what
the kernel computes (kernels/matmul_tile.toml), which rows are a prompt's (models/step.py), measuring (tune_tile.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ArgumentError
from ..settings import settings
from .buffer import Buffer
from .chain import Chain
from .device import BaseDevice
from .matvec import ACTS, checked
from .tuner import tuner_of


@dataclass(frozen=True)
class Tile:
    """Weight rows and tokens of a workgroup, and of a thread (with cooperative matrices: of a subgroup)."""

    bm: int
    bn: int
    tm: int
    tn: int
    ahead: int = 0


# Largest first. 8 x 8 sums a thread read 16 groups of four from shared memory for 256 multiply-adds; 4 x 4 fit small
# register files and few rows.
THREADS = (
    Tile(128, 128, 8, 8), Tile(128, 64, 8, 8), Tile(64, 64, 4, 8), Tile(64, 32, 4, 8), Tile(32, 32, 4, 4),
    Tile(32, 16, 4, 4), Tile(32, 8, 2, 4),
)  # fmt: skip
SUBGROUPS = (
    Tile(128, 128, 64, 32), Tile(128, 64, 64, 32), Tile(64, 64, 32, 32), Tile(64, 32, 32, 32), Tile(32, 32, 32, 16),
    Tile(32, 16, 32, 16),
)  # fmt: skip
MORE = {THREADS: (Tile(64, 64, 8, 8), Tile(64, 128, 8, 8)), SUBGROUPS: (Tile(128, 128, 64, 64), Tile(64, 128, 32, 64))}
"""Further shapes that the tuner tries; in front of them it tries the rule's."""
ENOUGH = 96
"""Workgroups that keep a large GPU busy: a smaller tile is taken where a larger one gives fewer."""
MARKS = (64, 512)
"""Token rows for which tiles are measured; a product takes what was found for the nearest below, or the first."""


def tile_variant_for(device: BaseDevice, dtype: str) -> str | None:
    """The form of matmul_tile that prompts take on this device, such as "q4_k.khr"; None: they take `matmul`.

    FLUX_VK_PREFILL names the arithmetic. Raises ArgumentError where it asks for what the device lacks.
    """
    word = settings().prefill
    if word == "auto":
        # A CPU driver has no arithmetic to gain from, whatever family of kernels is asked for.
        word = "exact" if device.family == "cpu" else "f32" if device.kind == "cpu" else _best(device)
    if word == "exact":
        return None
    names = [n for n in ("khr", "nv") if f"coopmat_{n}" in device.features] if word == "coopmat" else [word]
    if not names or (word == "f16" and "float16" not in device.features):
        raise ArgumentError(
            f"FLUX_VK_PREFILL={word}: this device lacks {'float16' if word == 'f16' else 'cooperative matrices'}; "
            "use auto, exact or f32"
        )
    return f"{dtype}.{names[0]}"


def _best(device: BaseDevice) -> str:
    if device.features & {"coopmat_khr", "coopmat_nv"}:
        return "coopmat"
    return "f16" if "float16" in device.features else "f32"


def keeps_norm(device: BaseDevice, dtype: str) -> bool:
    """Whether a prompt's product norms its activations itself at no cost, as a decode row's does.

    With 16-bit tiles it does not: the activations before the norm may be beyond 65504.
    """
    variant = tile_variant_for(device, dtype)
    return variant is None or variant.endswith(".f32")


def subgroup_lanes(device: BaseDevice) -> int:
    """Invocations of a subgroup that multiplies matrices."""
    return int(device.limits.get("coopmat_lanes") or device.limits["subgroup_size"])


def piece(device: BaseDevice) -> tuple[int, int, int]:
    """Rows, columns and depth of what a subgroup multiplies at once."""
    m, n, k = device.limits.get("coopmat_shape") or (16, 16, 16)
    return m, n, k


def threads(device: BaseDevice, tile: Tile, arithmetic: str) -> int:
    """Invocations of a workgroup."""
    parts = tile.bm // tile.tm * (tile.bn // tile.tn)
    return parts if arithmetic in ("f32", "f16") else parts * subgroup_lanes(device)


def shared_bytes(device: BaseDevice, tile: Tile, arithmetic: str, norm: bool) -> int:
    """Shared memory of a workgroup: both tiles with their padding, what the norm and the result's pieces take."""
    sums = 4 * (tile.bn * 8 * norm + 1)
    if arithmetic in ("f32", "f16"):
        return (tile.bm + tile.bn) * 36 * (4 if arithmetic == "f32" else 2) + sums
    m, n, _ = piece(device)
    return (tile.bm + tile.bn) * 80 + tile.bm // tile.tm * (tile.bn // tile.tn) * m * n * 4 + sums


def tiles_for(device: BaseDevice, arithmetic: str, norm: bool = False, more: bool = False) -> tuple[Tile, ...]:
    """The tiles that a device can run, largest first; `more`: with those that only the tuner tries, at the end."""
    table = THREADS if arithmetic in ("f32", "f16") else SUBGROUPS
    shared, most = int(device.limits["max_shared_bytes"]), int(device.limits.get("max_workgroup_invocations", 1024))
    return tuple(
        t
        for t in table + (MORE[table] if more else ())
        if shared_bytes(device, t, arithmetic, norm) <= shared and threads(device, t, arithmetic) <= most
    )


def tile_for(device: BaseDevice, arithmetic: str, n: int, r: int, norm: bool = False) -> Tile:
    """The rule's tile for r tokens of n weight rows: the largest that r fills by half and that keeps the GPU busy."""
    able = tiles_for(device, arithmetic, norm)
    fitting = [t for t in able if t.bn < 2 * r] or [min(able, key=lambda t: t.bn)]
    for t in fitting:
        if -(-n // t.bm) * -(-r // t.bn) >= ENOUGH:
            return t
    return max(fitting, key=lambda t: (-(-n // t.bm) * -(-r // t.bn), t.bm * t.bn))


def tuning_key(variant: str, n: int, k: int, r: int) -> str:
    """Under which name the tuner keeps the tile of a matrix for that many tokens."""
    mark = max((m for m in MARKS if m <= r), default=MARKS[0])
    return f"matmul_tile {variant} {n}x{k} {mark}"


def _chosen(device: BaseDevice, variant: str, n: int, k: int, r: int, norm: bool) -> Tile:
    arithmetic = variant.rsplit(".", 1)[1]
    tuner = tuner_of(device)
    values: Mapping[str, int] | None = tuner.get(tuning_key(variant, n, k, r)) if tuner is not None else None
    if values and r >= MARKS[0]:
        for t in tiles_for(device, arithmetic, norm, more=True):
            if values == as_values(Tile(t.bm, t.bn, t.tm, t.tn, values.get("ahead", 0))):
                return Tile(**values)
    return tile_for(device, arithmetic, n, r, norm)


def as_values(tile: Tile) -> dict[str, int]:
    """A tile as the tuner keeps it."""
    return {"bm": tile.bm, "bn": tile.bn, "tm": tile.tm, "tn": tile.tn, "ahead": tile.ahead}


def matmul_tile(
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
    variant: str | None = None,
    tuned: Tile | None = None,
) -> Chain:
    """Append the product that `matmul` describes, by tiles: arguments as there.

    norm: f32 [K], for x / sqrt(mean(x^2) + eps) * norm in x's place; with 16-bit tiles it is a step of its own. act:
    "silu" or "gelu", w holding rows of gates, then as many of ups: y[r, n] = act(gate) * up, of w.shape[0] / 2 columns.
    `variant` forces one form ("q4_k.f32"; default: `tile_variant_for`), `tuned` a tile. Raises ArgumentError.
    """
    (n, k), r = checked("matmul_tile", w, x), x.shape[0]
    variant = variant or tile_variant_for(chain.device, w.dtype) or f"{w.dtype}.f32"
    if act not in ACTS or (act is not None and (n % 2 or w.nbytes > chain.device.max_range)):
        raise ArgumentError(
            f"matmul_tile: act is {act!r} with w {w}; expected silu or gelu, an even number of rows, and at most "
            f"{chain.device.max_range} bytes"
        )
    columns = n if act is None else n // 2
    stride = y.shape[-1] if y_stride is None else y_stride
    for name, b in (("y", y), ("residual", residual)):
        if b is not None and (b.size < r * stride or stride < y_offset + columns):
            raise ArgumentError(
                f"matmul_tile: {name} is {list(b.shape)} with rows of {stride}, expected room for [{r}, {y_offset} + "
                f"{columns}]"
            )
    if r == 0 or n == 0:
        return chain
    given = {
        "w": w, "x": x, "y": y, "bias": bias, "residual": residual, "y_stride": stride, "y_offset": y_offset,
        "norm": norm, "eps": eps, "act": act, "prompt": True,
    }  # fmt: skip
    with chain.call("matmul", given):  # for passes over the chain the product that it is
        if norm is not None and not variant.endswith(".f32") and x.shape[1] == k:
            normed = chain.scratch((r, k))
            chain.dispatch("rms_norm", x=x, w=norm, y=normed, eps=eps)
            x, norm = normed, None
        arithmetic = variant.rsplit(".", 1)[1]
        m, across, depth = piece(chain.device)
        for start, stop, tile in _parts(chain.device, variant, n, k, r, norm is not None, tuned, (stride, x.shape[1])):
            chain.dispatch(
                "matmul_tile", variant=variant, w=w, x=x.rows(start, stop), bias=bias, norm=norm, eps=eps,
                y=_rows(y, start, stop, stride, r),
                residual=None if residual is None else _rows(residual, start, stop, stride, r),
                y_stride=stride, y_offset=y_offset, WG=threads(chain.device, tile, arithmetic), BM=tile.bm, BN=tile.bn,
                TM=tile.tm, TN=tile.tn, AHEAD=tile.ahead, NORM=int(norm is not None), ACT=ACTS[act],
                SG=subgroup_lanes(chain.device), CM_M=m, CM_N=across, CM_K=depth,
            )  # fmt: skip
    return chain


def _parts(
    device: BaseDevice, variant: str, n: int, k: int, r: int, norm: bool, tuned: Tile | None, strides: tuple[int, int]
) -> list[tuple[int, int, Tile]]:
    """Token rows start..stop with their tile: all, or whole tiles and a rest that would fill less than half of one."""
    tile = tuned or _chosen(device, variant, n, k, r, norm)
    whole = r // tile.bn * tile.bn
    aligned = all(4 * whole * s % device.alignment == 0 for s in strides)
    if tuned is not None or whole == 0 or not aligned or not 0 < r - whole <= tile.bn // 2:
        return [(0, r, tile)]
    rest = tile_for(device, variant.rsplit(".", 1)[1], n, r - whole, norm)
    return [(0, whole, tile), (whole, r, rest)] if rest.bn < tile.bn else [(0, r, tile)]


def _rows(b: Buffer, start: int, stop: int, stride: int, r: int) -> Buffer:
    """Some rows of y or residual, which may be shaped otherwise than [R, stride]."""
    if (start, stop) == (0, r):
        return b
    whole = b if b.shape[-1] == stride and len(b.shape) == 2 else b.reshape(b.size // stride, stride)
    return whole.rows(start, stop)
