"""References of kernels that work element by element, and of those that only move data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Any_ = npt.NDArray[Any]


def _sigmoid(v: Array) -> Array:
    e = np.exp(-np.abs(v))
    result: Array = np.where(v >= 0, 1.0, e) / (1.0 + e)
    return result


def swiglu(x: Floats) -> Array:
    """x [R, 2F] -> silu(x[:, :F]) * x[:, F:] (Shazeer 2020)."""
    gate, up = np.split(x.astype(np.float64), 2, axis=-1)
    result: Array = gate * _sigmoid(gate) * up
    return result


def geglu(x: Floats) -> Array:
    """x [R, 2F] -> gelu(x[:, :F]) * x[:, F:] with the tanh form of GELU."""
    gate, up = np.split(x.astype(np.float64), 2, axis=-1)
    with np.errstate(over="ignore"):
        u = np.sqrt(2.0 / np.pi) * (gate + 0.044715 * gate**3)
    result: Array = 0.5 * gate * (1.0 + np.tanh(u)) * up
    return result


def _repeated(b: Floats, rows: int) -> Array:
    result: Array = b.astype(np.float64)[np.arange(rows) % len(b)]
    return result


def add(a: Floats, b: Floats) -> Array:
    """a [R, D] + b [Rb, D], whose rows repeat."""
    result: Array = a.astype(np.float64) + _repeated(b, len(a))
    return result


def mul(a: Floats, b: Floats) -> Array:
    """a [R, D] * b [Rb, D], whose rows repeat."""
    result: Array = a.astype(np.float64) * _repeated(b, len(a))
    return result


def _to_bf16(v: Array) -> npt.NDArray[np.uint16]:
    """float64 to bf16 bits, nearest even. The values are float32 or 32-bit integers, so exact in float64."""
    mantissa, exponent = np.frexp(np.where(np.isfinite(v), v, 0.0))
    unit = np.maximum(exponent - 8, -133)  # 8 significant bits; subnormal numbers are multiples of 2^-133
    with np.errstate(over="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(mantissa, exponent - unit)), unit).astype(np.float32)
    rounded = np.where(np.isfinite(v), rounded, v.astype(np.float32))
    return (np.ascontiguousarray(rounded, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def cast(x: Any_, *, source: str, target: str) -> Any_:
    """x [N] of type `source` as `target`: f32, f16, bf16 (raw uint16), u32 (saturated, NaN gives 0)."""
    v = (x.astype(np.uint32) << 16).view(np.float32) if source == "bf16" else x
    with np.errstate(over="ignore", invalid="ignore"):
        wide: Array = v.astype(np.float64)
        if target == "bf16":
            return _to_bf16(wide)
        if target == "u32":
            return np.trunc(np.clip(np.nan_to_num(wide, posinf=2.0**33), 0, 2**32 - 1)).astype(np.uint32)
        return wide.astype({"f32": np.float32, "f16": np.float16}[target])


def gather(x: Any_, idx: npt.NDArray[np.uint32]) -> Any_:
    """x [R, D], idx [M] -> x[idx]; an index outside x gives a row of zeros."""
    inside = idx < len(x)
    result: Any_ = np.where(inside[:, None], x[np.where(inside, idx, 0)], np.zeros((), x.dtype))
    return result


def copy_strided(
    x: Any_,
    y: Any_,
    *,
    rows: int,
    cols: int,
    x_stride: int,
    y_stride: int,
    x_offset: int,
    y_offset: int,
) -> Any_:
    """x [rows, x_stride], y [rows, y_stride] -> y with `cols` columns of x put in; offsets are columns."""
    assert x.shape == (rows, x_stride) and y.shape == (rows, y_stride)
    result = y.copy()
    result[:, y_offset : y_offset + cols] = x[:, x_offset : x_offset + cols]
    return result


def fetch_rows(
    slot: Any_, slot_token: Any_, slot_pos: Any_, slot_info: Any_ | None = None, *,
    blocks: int = 1, window: int = 0, ps: int = 32, chunk: int = 16,
) -> tuple[Any_, ...]:  # fmt: skip
    """slot [R], slot_token and slot_pos [S] -> (ids, pos) of each row; 0 where the slot does not exist.

    With slot_info [S, 4] also the grids [2, 4]: rows, blocks, most chunks that a row sees, 0; all keys, and a window's.
    """
    inside = slot < len(slot_token)
    s = np.where(inside, slot, 0)
    ids, pos = (np.where(inside, table[s], 0).astype(np.uint32) for table in (slot_token, slot_pos))
    if slot_info is None:
        return ids, pos
    grid = np.array([[len(slot), blocks, 1, 0]] * 2, np.uint32)
    for row in np.flatnonzero(inside):
        at, (sinks, dropped) = int(pos[row]), slot_info[slot[row], :2].tolist()
        for g, w in zip(grid, (0, window), strict=True):
            first, last = max(0, at - w + 1) // ps if w else 0, at // ps
            seen = [page for page in range(first, last + 1) if not sinks <= page < sinks + dropped]
            g[2] = max(int(g[2]), -(-len(seen) // chunk))
    return ids, pos, grid


def fma_peak(x: Floats, *, rounds: int, m: float, c: float, acc: int = 8) -> Array:
    """Sum over `acc` chains of 16 * rounds steps a = a * m + c, begun at x + 0, x + 1, ...; m and c as float32."""
    steps = 16 * rounds
    factor, addend = float(np.float32(m)), float(np.float32(c))
    power = factor**steps
    series = float(steps) if factor == 1 else (1 - power) / (1 - factor)
    start = acc * x.astype(np.float64) + acc * (acc - 1) / 2
    result: Array = start * power + acc * addend * series
    return result
