"""Typed views into device memory. A Buffer owns nothing but a share of its allocation; views are cheap.

Not for: deciding where memory comes from (device.py, planner.py).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError
from .contract import SCALAR_BYTES

if TYPE_CHECKING:
    from .device import BaseDevice

NUMPY_TYPES: dict[str, str] = {
    "f32": "f4", "u32": "u4", "i32": "i4", "f16": "f2", "bf16": "u2", "u16": "u2", "i16": "i2", "u8": "u1", "i8": "i1",
}  # fmt: skip
_FROM_NUMPY = {np.dtype(v): k for k, v in NUMPY_TYPES.items() if k != "bf16"}
_ids = itertools.count(1)


def dtype_of(array: npt.NDArray[Any]) -> str:
    """Our name of a NumPy dtype; ArgumentError for one that kernels cannot read (float64, int64, ...)."""
    name = _FROM_NUMPY.get(array.dtype)
    if name is None:
        known = ", ".join(str(d) for d in _FROM_NUMPY)
        raise ArgumentError(f"array of dtype {array.dtype}; expected one of {known}: convert it with .astype()")
    return name


def bytes_of(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a shape in a scalar dtype; ArgumentError for a dtype or a dimension that cannot be."""
    if dtype not in SCALAR_BYTES:
        raise ArgumentError(f"dtype {dtype!r} of shape {list(shape)}; expected one of {', '.join(SCALAR_BYTES)}")
    if any(n < 0 for n in shape):
        raise ArgumentError(f"shape {list(shape)} has a negative dimension")
    return math.prod(int(n) for n in shape) * SCALAR_BYTES[dtype]


@dataclass(eq=False)
class Memory:
    """One allocation, real (`native` set) or planned. `id` orders hazards and never repeats."""

    nbytes: int
    native: Any = None
    host: npt.NDArray[np.uint8] | None = None
    id: int = field(default_factory=lambda: next(_ids))


@dataclass(frozen=True, eq=False)
class Buffer:
    """A range of device memory with a dtype and a shape.

    dtype: a scalar name (f32, f16, u32, ...) or a block type (q4_k, ...), whose rows take `row_bytes` each.
    shape: row-major, in elements (weights for block types). Empty shapes (a 0 in them) have no bytes.
    """

    device: BaseDevice
    memory: Memory
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    row_bytes: int = 0  # only for block types and padded rows: bytes from one row to the next

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        return self.offset + self.nbytes

    def __repr__(self) -> str:
        where = f"{self.nbytes} bytes at {self.offset} of memory {self.memory.id}"
        return f"Buffer({self.dtype}{list(self.shape)}, {where})"

    def reshape(self, *shape: int) -> Buffer:
        """The same bytes under another shape of equal size."""
        if self.row_bytes or math.prod(shape) != self.size:
            raise ArgumentError(f"cannot view {self} as {list(shape)}: sizes differ, or rows are padded")
        return replace(self, shape=tuple(shape))

    def cast(self, dtype: str, shape: tuple[int, ...] | None = None) -> Buffer:
        """The same bytes read as another scalar dtype (`shape` defaults to one dimension)."""
        width = bytes_of((1,), dtype)
        if self.nbytes % width:
            raise ArgumentError(f"cannot view {self} as {dtype}: {self.nbytes} bytes are no multiple of {width}")
        new = replace(self, dtype=dtype, shape=(self.nbytes // width,), row_bytes=0)
        return new.reshape(*shape) if shape is not None else new

    def rows(self, start: int, stop: int) -> Buffer:
        """Rows start..stop along the first dimension; the byte offset must suit the device's alignment."""
        if not self.shape:
            raise ArgumentError(f"{self} has no rows: it is a single element")
        n = self.shape[0]
        if not 0 <= start <= stop <= n:
            raise ArgumentError(f"rows {start}..{stop} of {self}: expected 0 <= start <= stop <= {n}")
        step = self.row_bytes or self.nbytes // max(n, 1)
        return replace(
            self, offset=self.offset + start * step, nbytes=(stop - start) * step, shape=(stop - start, *self.shape[1:])
        )

    def joined(self, other: Buffer) -> Buffer | None:
        """This buffer's rows and those of `other` as one, where they lie behind each other and are alike; else None."""
        same = (self.memory is other.memory, self.dtype == other.dtype, self.row_bytes == other.row_bytes)
        if not all(same) or self.end != other.offset or self.shape[1:] != other.shape[1:]:
            return None
        rows = self.shape[0] + other.shape[0]
        return replace(self, nbytes=self.nbytes + other.nbytes, shape=(rows, *self.shape[1:]))

    def write(self, array: npt.NDArray[Any]) -> None:
        """Copy an array of the same bytes to the device (blocking; no submit may be using the buffer)."""
        self.device.upload(self, np.ascontiguousarray(array))

    def numpy(self) -> npt.NDArray[Any]:
        """Copy to a new NumPy array (blocking); block types and bf16 come back as raw uint8 / uint16."""
        return self.device.download(self)

    def view(self) -> npt.NDArray[Any]:
        """NumPy view of host-visible memory itself; ArgumentError where the host cannot see it."""
        if self.memory.host is None:
            raise ArgumentError(f"{self} is not visible to the host; use .numpy() or allocate it with device.host()")
        raw = self.memory.host[self.offset : self.end]
        if self.dtype in NUMPY_TYPES and not self.row_bytes:
            return raw.view(NUMPY_TYPES[self.dtype]).reshape(self.shape)
        return raw
