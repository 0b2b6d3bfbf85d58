"""The table of ggml weight types, and their meaning: a NumPy dequantisation of each type that can be run.

Not for speed (the GPU kernels dequantise on the fly) and not for the device layout, which is `layout.py`.
Formats as defined by ggml's block structures; results are bit-equal to `gguf.quants.dequantize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.errors import InputError

F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class BlockType:
    """A ggml weight type: `weights` weights are stored in `nbytes` bytes; `runnable` if kernels read it."""

    name: str
    id: int
    weights: int
    nbytes: int
    runnable: bool = False

    def row_bytes(self, k: int) -> int:
        """Bytes of a row of `k` weights; `k` must be a multiple of `weights`."""
        return k // self.weights * self.nbytes


_TABLE = (
    BlockType("f32", 0, 1, 4, True),
    BlockType("f16", 1, 1, 2, True),
    BlockType("q4_0", 2, 32, 18, True),
    BlockType("q4_1", 3, 32, 20, True),
    BlockType("q5_0", 6, 32, 22, True),
    BlockType("q5_1", 7, 32, 24, True),
    BlockType("q8_0", 8, 32, 34, True),
    BlockType("q8_1", 9, 32, 36),
    BlockType("q2_k", 10, 256, 84, True),
    BlockType("q3_k", 11, 256, 110, True),
    BlockType("q4_k", 12, 256, 144, True),
    BlockType("q5_k", 13, 256, 176, True),
    BlockType("q6_k", 14, 256, 210, True),
    BlockType("q8_k", 15, 256, 292),
    BlockType("iq2_xxs", 16, 256, 66),
    BlockType("iq2_xs", 17, 256, 74),
    BlockType("iq3_xxs", 18, 256, 98),
    BlockType("iq1_s", 19, 256, 50),
    BlockType("iq4_nl", 20, 32, 18, True),
    BlockType("iq3_s", 21, 256, 110),
    BlockType("iq2_s", 22, 256, 82),
    BlockType("iq4_xs", 23, 256, 136, True),
    BlockType("i8", 24, 1, 1),
    BlockType("i16", 25, 1, 2),
    BlockType("i32", 26, 1, 4),
    BlockType("i64", 27, 1, 8),
    BlockType("f64", 28, 1, 8),
    BlockType("iq1_m", 29, 256, 56),
    BlockType("bf16", 30, 1, 2, True),
    BlockType("tq1_0", 34, 256, 54),
    BlockType("tq2_0", 35, 256, 66),
    BlockType("mxfp4", 39, 32, 17),
    BlockType("nvfp4", 40, 64, 36),
    BlockType("q1_0", 41, 128, 18),
)
BY_ID: dict[int, BlockType] = {t.id: t for t in _TABLE}
BY_NAME: dict[str, BlockType] = {t.name: t for t in _TABLE}
RUNNABLE: tuple[str, ...] = tuple(t.name for t in _TABLE if t.runnable)
REMOVED: dict[int, str] = {
    4: "q4_2", 5: "q4_3", 31: "q4_0_4_4", 32: "q4_0_4_8", 33: "q4_0_8_8",
    36: "iq4_nl_4_4", 37: "iq4_nl_4_8", 38: "iq4_nl_8_8",
}  # fmt: skip

IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)
"""The sixteen levels of iq4_nl and iq4_xs."""


def runnable(name: str) -> BlockType:
    """The type of that name; InputError listing the known ones if kernels cannot read it."""
    found = BY_NAME.get(name)
    if found is None or not found.runnable:
        why = "an unknown type" if found is None else "a type no kernel reads"
        raise InputError(
            f"weight type {name!r}: found {why}, expected one of {', '.join(RUNNABLE)}; "
            "convert the model to one of these"
        )
    return found


def check_raw(raw: npt.NDArray[Any], name: str, shape: tuple[int, ...]) -> tuple[BlockType, int, int]:
    """(type, rows, K) of a tensor given as raw GGUF bytes; InputError unless type, shape and size agree."""
    kind = runnable(name)
    if not shape or min(shape) < 1:
        raise InputError(f"shape {shape} of {name} weights: expected one or more dimensions, all >= 1")
    rows, k = math.prod(shape[:-1]), shape[-1]
    if k % kind.weights:
        raise InputError(
            f"shape {shape} of {name} weights: found rows of {k}, expected a multiple of {kind.weights}; "
            "use a type with smaller blocks"
        )
    want = rows * kind.row_bytes(k)
    if raw.dtype != np.uint8 or raw.nbytes != want:
        raise InputError(
            f"raw bytes of {name} weights {shape}: found {raw.nbytes} bytes of {raw.dtype}, "
            f"expected {want} of uint8; give the tensor's bytes as stored in the file"
        )
    return kind, rows, k


def dequantize(raw: U8Array, name: str, shape: tuple[int, ...]) -> F32Array:
    """The float32 values, shaped `shape` (last dimension K), of raw GGUF bytes of a runnable type.

    Raises InputError when type, shape and number of bytes do not fit together.
    """
    kind, _, _ = check_raw(raw, name, shape)
    blocks = np.ascontiguousarray(raw).reshape(-1, kind.nbytes)
    return _DEQUANTIZE[name](blocks).reshape(shape)


def _half(blocks: U8Array, at: int) -> F32Array:
    """The float16 at byte `at` of each block, as float32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(qs: U8Array) -> U8Array:
    """[n, 16] bytes -> [n, 32]: the low nibbles, then the high ones."""
    return np.concatenate([qs & 15, qs >> 4], axis=1)


def _bits32(qh: U8Array) -> U8Array:
    """[n, 4] bytes -> [n, 32] bits, bit i of the little-endian word at i."""
    return np.unpackbits(np.ascontiguousarray(qh), axis=1, bitorder="little")


def _shifted(qs: U8Array, span: int, bits: int, fields: int) -> U8Array:
    """[n, m * span] -> [n, m * fields * span]: of every `span` bytes field 0, then field 1, and so on."""
    groups = qs.reshape(len(qs), -1, 1, span)
    shifts = np.arange(0, fields * bits, bits, dtype=np.uint8).reshape(1, 1, fields, 1)
    return ((groups >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(qs), -1)


def _f32(blocks: U8Array) -> F32Array:
    return blocks.view("<f4").astype(np.float32)


def _f16(blocks: U8Array) -> F32Array:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: U8Array) -> F32Array:
    return (blocks.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _q4_0(b: U8Array) -> F32Array:
    return _half(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - np.float32(8))


def _q4_1(b: U8Array) -> F32Array:
    return _half(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _half(b, 2)


def _q5(qs: U8Array, qh: U8Array) -> F32Array:
    return (_nibbles(qs) | _bits32(qh) << np.uint8(4)).astype(np.float32)


def _q5_0(b: U8Array) -> F32Array:
    return _half(b, 0) * (_q5(b[:, 6:], b[:, 2:6]) - np.float32(16))


def _q5_1(b: U8Array) -> F32Array:
    return _half(b, 0) * _q5(b[:, 8:], b[:, 4:8]) + _half(b, 2)


def _q8_0(b: U8Array) -> F32Array:
    return _half(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)


def _scaled(scale: F32Array, q: npt.NDArray[Any], minimum: F32Array | None = None) -> F32Array:
    """scale [n, s] times q [n, 256] in s groups, minus minimum [n, s]."""
    values = scale[:, :, None] * q.astype(np.float32).reshape(*scale.shape, -1)
    if minimum is not None:
        values = values - minimum[:, :, None]
    return values.reshape(len(scale), -1)


def _q2_k(b: U8Array) -> F32Array:
    scales = b[:, :16]
    scale = _half(b, 80) * (scales & 15).astype(np.float32)
    minimum = _half(b, 82) * (scales >> 4).astype(np.float32)
    return _scaled(scale, _shifted(b[:, 16:80], 32, 2, 4), minimum)


def _q3_k(b: U8Array) -> F32Array:
    low = _shifted(b[:, 96:104], 8, 4, 2)
    high = _shifted(b[:, 104:108], 4, 2, 4)
    scales = (low | high << np.uint8(4)).astype(np.float32) - np.float32(32)
    q = _shifted(b[:, 32:96], 32, 2, 4) | _shifted(b[:, :32], 32, 1, 8) << np.uint8(2)
    return _scaled(_half(b, 108) * scales, q.astype(np.int8) - 4)


def _scale_min(s: U8Array) -> tuple[F32Array, F32Array]:
    """The twelve scale bytes of q4_k and q5_k -> eight 6-bit scales and eight 6-bit minimums."""
    a, b, c = s[:, 0:4], s[:, 4:8], s[:, 8:12]
    scale = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    minimum = np.concatenate([b & 63, c >> 4 | (b >> 6) << 4], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


def _q4_k(b: U8Array) -> F32Array:
    scale, minimum = _scale_min(b[:, 4:16])
    return _scaled(_half(b, 0) * scale, _shifted(b[:, 16:], 32, 4, 2), _half(b, 2) * minimum)


def _q5_k(b: U8Array) -> F32Array:
    scale, minimum = _scale_min(b[:, 4:16])
    q = _shifted(b[:, 48:], 32, 4, 2) | _shifted(b[:, 16:48], 32, 1, 8) << np.uint8(4)
    return _scaled(_half(b, 0) * scale, q, _half(b, 2) * minimum)


def _q6_k(b: U8Array) -> F32Array:
    q = _shifted(b[:, :128], 64, 4, 2) | _shifted(b[:, 128:192], 32, 2, 4) << np.uint8(4)
    return _scaled(_half(b, 208) * b[:, 192:208].view(np.int8).astype(np.float32), q.astype(np.int8) - 32)


def _iq4_nl(b: U8Array) -> F32Array:
    return _half(b, 0) * IQ4_VALUES[_nibbles(b[:, 2:])]


def _iq4_xs(b: U8Array) -> F32Array:
    low = _shifted(b[:, 4:8], 1, 4, 2)
    high = _shifted(b[:, 2:4], 1, 2, 4)
    scales = (low | high << np.uint8(4)).astype(np.float32) - np.float32(32)
    return _scaled(_half(b, 0) * scales, IQ4_VALUES[_shifted(b[:, 8:], 16, 4, 2)])


_DEQUANTIZE: dict[str, Callable[[U8Array], F32Array]] = {
    "f32": _f32, "f16": _f16, "bf16": _bf16, "q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1,
    "q8_0": _q8_0, "q2_k": _q2_k, "q3_k": _q3_k, "q4_k": _q4_k, "q5_k": _q5_k, "q6_k": _q6_k,
    "iq4_nl": _iq4_nl, "iq4_xs": _iq4_xs,
}  # fmt: skip
