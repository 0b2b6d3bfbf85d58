"""A device that only records: chains, hazards, planning and scheduling are tested without Vulkan.

Not for: results. `download` gives back what was uploaded; nothing is ever computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .buffer import NUMPY_TYPES, Buffer, Memory
from .device import BaseDevice
from .record import Counts

ALL_FEATURES = frozenset(
    "storage16 storage8 float16 int8 int16 int64 subgroup_arith subgroup_shuffle subgroup_ballot texel_buffers".split()
)


class NullRecording:
    """Collects what would have been recorded."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.submits = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, *args))

    def submit(self) -> None:
        self.submits += 1

    def poll(self) -> bool:
        return True

    def wait(self, timeout_ns: int = 0) -> bool:
        return True


class _NullNative:
    def __init__(self) -> None:
        self.recordings: list[NullRecording] = []

    def recording(self, queue: int, timestamps: int) -> NullRecording:
        self.recordings.append(NullRecording())
        return self.recordings[-1]


class NullDevice(BaseDevice):
    """`limits` override the defaults (128 MiB bindings, 16-byte alignment, no timestamps)."""

    def __init__(self, kind: str = "cpu", features: frozenset[str] = ALL_FEATURES, **limits: Any) -> None:
        self.name = "null"
        self.kind = kind
        self.features = features
        self.limits = {
            "storage_alignment": 16, "max_bindings": 32, "max_storage_buffer_range": 128 << 20,
            "max_allocation": 2 << 30,
            "max_grid": [65535, 65535, 65535], "max_shared_bytes": 32768, "subgroup_size": 8,
            "timestamp_period_ns": 0.0, **limits,
        }  # fmt: skip
        self.native = _NullNative()
        self.counts = Counts()
        self._dummy: Buffer | None = None

    def allocate(self, nbytes: int, kind: str = "device") -> Memory:
        return Memory(nbytes, native=object(), host=np.zeros(nbytes, np.uint8))

    @property
    def dummy(self) -> Buffer:
        if self._dummy is None:
            self._dummy = self.empty((64,), "u32")
        return self._dummy

    def pipeline(self, kernel: str, variant: str, spec: tuple[int, ...]) -> str:
        return f"{kernel}--{variant}"

    def upload(self, buffer: Buffer, array: npt.NDArray[Any]) -> None:
        assert buffer.memory.host is not None
        buffer.memory.host[buffer.offset : buffer.end] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def download(self, buffer: Buffer) -> npt.NDArray[Any]:
        assert buffer.memory.host is not None
        raw = buffer.memory.host[buffer.offset : buffer.end].copy()
        return raw.view(NUMPY_TYPES[buffer.dtype]).reshape(buffer.shape)
