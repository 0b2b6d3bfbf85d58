"""The value types of GGUF metadata, the limits the reader sets, and the record of one tensor.

Not for: tensor (weight) types, which stand in `blocks.py`; not for reading, which is `gguf_reader.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from flux_vk.errors import GGUFError

GGUFValue: TypeAlias = "int | float | bool | str | list[str] | npt.NDArray[Any]"

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MIN_ALIGNMENT = 8
MAX_ALIGNMENT = 1 << 24
MAX_DIMS = 4
MAX_NAME_BYTES = 63
MAX_KEY_BYTES = 65535
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_STRING_BYTES = 1 << 26
MAX_ARRAY_STRINGS = 1 << 22
MAX_ARRAY_BYTES = 1 << 27
MAX_ELEMENTS = 1 << 62


@dataclass(frozen=True)
class ValueType:
    """A scalar value type: its GGUF number, our name, `struct` code, NumPy dtype and size in bytes."""

    id: int
    name: str
    code: str
    dtype: str
    size: int


_SCALARS = (
    ValueType(0, "u8", "<B", "u1", 1),
    ValueType(1, "i8", "<b", "i1", 1),
    ValueType(2, "u16", "<H", "<u2", 2),
    ValueType(3, "i16", "<h", "<i2", 2),
    ValueType(4, "u32", "<I", "<u4", 4),
    ValueType(5, "i32", "<i", "<i4", 4),
    ValueType(6, "f32", "<f", "<f4", 4),
    ValueType(7, "bool", "<B", "u1", 1),
    ValueType(10, "u64", "<Q", "<u8", 8),
    ValueType(11, "i64", "<q", "<i8", 8),
    ValueType(12, "f64", "<d", "<f8", 8),
)
SCALARS: dict[int, ValueType] = {t.id: t for t in _SCALARS}
BOOL = 7
STRING = 8
ARRAY = 9


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: `shape` in NumPy order (rows first, the contiguous dimension last).

    `offset` is the absolute byte position inside file number `part` (0 unless the model is split).
    """

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    n_elements: int
    part: int = 0


def bad(path: object, what: str, found: object, expected: object, hint: str) -> GGUFError:
    """The one form of every GGUF error: file, key or tensor, what is there, what should be, what to do."""
    return GGUFError(f"{path}: {what}: found {found}, expected {expected}; {hint}")


BROKEN = "the file is damaged or not GGUF: download or convert it again"
TRUNCATED = "the file is cut short or damaged: download it again"
REWRITE = "write the file again with a current converter"
