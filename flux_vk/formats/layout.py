"""The device layout of weights, "planar rows": packs GGUF blocks into it and unpacks them bit for bit.

A row of K weights is a sequence of planes (quants, high bits, scales ...), each starting at a multiple of 16
bytes, with zeros in between; shaders/include/quant.glsl reads it. Not for the GPU, and not for other layouts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.errors import InputError
from flux_vk.formats import bits, blocks
from flux_vk.formats.bits import Codec, Shuffle

U8Array = npt.NDArray[np.uint8]
Encoder = Callable[[U8Array, U8Array, tuple[int, ...]], None]
"""Blocks [rows, bytes] into planes [rows, stride], as the numbers of `program` say."""

ALIGN = 16
"""Planes and rows start at multiples of this many bytes."""

CHUNK_BYTES = 1 << 19
"""Rows are packed in runs of about this many bytes, so that temporaries stay in the cache (4 MB in all)."""


@dataclass(frozen=True)
class Plane:
    """One plane of a row: `nbytes` at `offset` from the row's start, `per_block` bytes of it a GGUF block."""

    name: str
    offset: int
    nbytes: int
    per_block: int


@dataclass(frozen=True)
class _Field:
    """A field of a GGUF block that becomes the plane `name`: it starts at byte `at` of the block."""

    name: str
    at: int
    codec: Codec


def _copy(name: str, at: int, size: int) -> _Field:
    return _Field(name, at, Shuffle(size))


_FIELDS: dict[str, tuple[_Field, ...]] = {
    "f32": (_copy("w", 0, 4),),
    "f16": (_copy("w", 0, 2),),
    "bf16": (_copy("w", 0, 2),),
    "q8_0": (_copy("qs", 2, 32), _copy("d", 0, 2)),
    "q4_0": (_copy("qs", 2, 16), _copy("d", 0, 2)),
    "iq4_nl": (_copy("qs", 2, 16), _copy("d", 0, 2)),
    "q4_1": (_copy("qs", 4, 16), _copy("dm", 0, 4)),
    "q5_0": (_copy("qs", 6, 16), _Field("qh", 2, bits.BITS_WORD), _copy("d", 0, 2)),
    "q5_1": (_copy("qs", 8, 16), _Field("qh", 4, bits.BITS_WORD), _copy("dm", 0, 4)),
    "q4_k": (_Field("qs", 16, bits.NIBBLES), _Field("sm", 4, bits.SCALE_MIN), _copy("dm", 0, 4)),
    "q5_k": (
        _Field("qs", 48, bits.NIBBLES),
        _Field("qh", 16, bits.BITS),
        _Field("sm", 4, bits.SCALE_MIN),
        _copy("dm", 0, 4),
    ),
    "q6_k": (
        _Field("qs", 0, bits.NIBBLES_Q6),
        _Field("q2", 128, bits.PAIRS),
        _copy("sc", 192, 16),
        _copy("d", 208, 2),
    ),
    "q2_k": (_Field("q2", 16, bits.PAIRS), _copy("sm", 0, 16), _copy("dm", 80, 4)),
    "q3_k": (
        _Field("q2", 32, bits.PAIRS),
        _Field("qh", 0, bits.BITS),
        _Field("sc", 96, bits.SCALE_16),
        _copy("d", 108, 2),
    ),
    "iq4_xs": (_copy("qs", 8, 128), _Field("sc", 2, bits.SCALE_8), _copy("d", 0, 2)),
}


@functools.lru_cache(maxsize=256)
def planes(type: str, k: int) -> tuple[Plane, ...]:
    """The planes of a row of `k` weights in order; InputError for a type or a `k` that cannot be packed."""
    kind = blocks.runnable(type)
    if k < 1 or k % kind.weights:
        raise InputError(
            f"rows of {k} {type} weights: expected a positive multiple of {kind.weights}; "
            "use a type with smaller blocks"
        )
    out = []
    offset = 0
    for field in _FIELDS[type]:
        nbytes = k // kind.weights * field.codec.out
        out.append(Plane(field.name, offset, nbytes, field.codec.out))
        offset += _aligned(nbytes)
    return tuple(out)


def row_stride(type: str, k: int) -> int:
    """Bytes from one row of `k` weights to the next, a multiple of 16."""
    last = planes(type, k)[-1]
    return last.offset + _aligned(last.nbytes)


def packed_nbytes(type: str, shape: tuple[int, ...]) -> int:
    """Bytes of a packed tensor of `shape` (last dimension K)."""
    return math.prod(shape[:-1]) * row_stride(type, shape[-1])


def _aligned(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


def pack(raw: npt.NDArray[Any], type: str, shape: tuple[int, ...]) -> U8Array:
    """GGUF bytes (uint8, any shape) of a tensor `shape` (..., K) -> packed rows, uint8 [rows, row_stride].

    Raises InputError where type, shape and number of bytes do not fit together.
    """
    _, rows, k = blocks.check_raw(raw, type, shape)
    out = np.empty((rows, row_stride(type, k)), np.uint8)
    pack_into(raw, type, shape, out)
    return out


@functools.lru_cache(maxsize=256)
def program(type: str, k: int) -> tuple[int, ...]:
    """How a row of `k` weights is packed, as the numbers that native/pack.cpp reads."""
    out: list[int] = [blocks.BY_NAME[type].nbytes, len(_FIELDS[type])]
    for field, plane in zip(_FIELDS[type], planes(type, k), strict=True):
        codec = field.codec
        order, stages = (codec.order, codec.stages) if isinstance(codec, Shuffle) else ((), ())
        out += [codec.code, field.at, plane.offset, codec.out, len(order), *order, len(stages)]
        for swap in stages:
            out += [swap.width, swap.distance, swap.shift, len(swap.mask), *swap.mask]
    return tuple(out)


def pack_into(
    raw: npt.NDArray[Any], type: str, shape: tuple[int, ...], out: U8Array, encoder: Encoder | None = None
) -> None:
    """Like `pack`, into the given contiguous uint8 buffer of rows * row_stride bytes (any shape).

    `out` is written once, in rising order, whole rows at a time, never read: it may be mapped device memory.
    encoder: the native `pack_rows`, which writes the same bytes several times as fast; default: NumPy.
    """
    kind, rows, k = blocks.check_raw(raw, type, shape)
    stride = row_stride(type, k)
    flat = _target(out, rows * stride, f"the buffer for {type} weights {shape}").reshape(rows, stride)
    source = np.ascontiguousarray(raw).reshape(rows, kind.row_bytes(k))
    if source.shape[1] == stride and kind.weights == 1:
        flat[...] = source
        return
    if encoder is not None:
        encoder(source, flat, program(type, k))
        return
    step = max(1, CHUNK_BYTES // stride)
    stage = np.zeros((min(step, rows), stride), np.uint8)
    for start in range(0, rows, step):
        chunk = source[start : start + step]
        ready = stage[: len(chunk)]
        _pack_rows(chunk, type, k, ready)
        flat[start : start + step] = ready


def unpack(packed: npt.NDArray[Any], type: str, shape: tuple[int, ...]) -> U8Array:
    """The inverse of `pack`: packed rows of a tensor `shape` -> its GGUF bytes, uint8 [nbytes]."""
    k = shape[-1] if shape else 0
    stride = row_stride(type, k)
    kind, rows = blocks.BY_NAME[type], math.prod(shape[:-1])
    source = _target(packed, rows * stride, f"packed {type} weights {shape}").reshape(rows, stride)
    out = np.empty((rows, kind.row_bytes(k)), np.uint8)
    step = max(1, CHUNK_BYTES // stride)
    for start in range(0, rows, step):
        _unpack_rows(source[start : start + step], type, k, out[start : start + step])
    return out.reshape(-1)


def _target(array: npt.NDArray[Any], nbytes: int, what: str) -> U8Array:
    if array.dtype != np.uint8 or array.nbytes != nbytes or not array.flags.c_contiguous:
        form = "contiguous" if array.flags.c_contiguous else "scattered"
        raise InputError(
            f"{what}: found {array.nbytes} {form} bytes of {array.dtype}, expected {nbytes} contiguous "
            "bytes of uint8; allocate rows * row_stride bytes"
        )
    return array


def _pack_rows(source: U8Array, type: str, k: int, out: U8Array) -> None:
    """source [n, GGUF row bytes] -> the planes of out [n, stride]; padding is left alone."""
    kind = blocks.BY_NAME[type]
    if kind.weights == 1:
        out[:, : source.shape[1]] = source
        return
    as_blocks = source.reshape(-1, kind.nbytes)
    for field, plane in zip(_FIELDS[type], planes(type, k), strict=True):
        encoded = field.codec.encode(as_blocks, field.at)
        out[:, plane.offset : plane.offset + plane.nbytes] = encoded.reshape(len(out), -1)


def _unpack_rows(source: U8Array, type: str, k: int, out: U8Array) -> None:
    """The inverse of `_pack_rows`: planes of source [n, stride] -> out [n, GGUF row bytes]."""
    kind = blocks.BY_NAME[type]
    if kind.weights == 1:
        out[...] = source[:, : out.shape[1]]
        return
    as_blocks = out.reshape(-1, kind.nbytes)
    for field, plane in zip(_FIELDS[type], planes(type, k), strict=True):
        part = source[:, plane.offset : plane.offset + plane.nbytes].copy()
        field.codec.decode(part.reshape(-1), as_blocks, field.at)
