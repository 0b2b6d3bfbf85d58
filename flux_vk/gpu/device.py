"""Devices: their memory, their pipelines, moving data to and from them.

Not for: which device is meant (selection.py), what runs on it (chain.py), how a submit is waited for (record.py).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError, OutOfDeviceMemory, VulkanError
from ..settings import settings
from . import cache, native
from .buffer import NUMPY_TYPES, Buffer, Memory, bytes_of, dtype_of
from .pipelines import Pipelines
from .record import Counts
from .selection import family_of, select_device

log = logging.getLogger("flux_vk.gpu")

SMALL = 1 << 20  # buffers up to this share slabs
SLAB = 16 << 20
STAGING = 32 << 20


def _open(info: dict[str, Any], known: bytes) -> Any:
    """The native device. A driver that chokes on the cached pipelines gets none."""
    make = native.module().Context
    try:
        return make(info["index"], known)
    except VulkanError as error:
        if not known:
            raise
        log.info("%s does not open with its pipeline cache (%s); trying without", info["name"], error)
        return make(info["index"], b"")


class BaseDevice(ABC):
    """What chains need of a device: limits, features, and buffers. `NullDevice` is the one without Vulkan."""

    name: str
    kind: str
    features: frozenset[str]
    limits: dict[str, Any]

    @property
    def family(self) -> str:
        """Which kernel shapes suit the device: "cpu" or "gpu" (FLUX_VK_FAMILY overrides)."""
        return family_of(self.kind)

    @property
    def alignment(self) -> int:
        """Bytes at which a bound range may begin (at least 16)."""
        return max(16, int(self.limits["storage_alignment"]))

    @property
    def max_range(self) -> int:
        """Bytes that one binding may span."""
        return int(self.limits["max_storage_buffer_range"])

    @cached_property
    def templates(self) -> dict[Any, Any]:
        """What arguments.py remembers of kernel calls that differ only in where their buffers lie."""
        return {}

    @property
    @abstractmethod
    def dummy(self) -> Buffer:
        """A small buffer bound in place of optional ones that were left out."""

    @abstractmethod
    def allocate(self, nbytes: int, kind: str = "device") -> Memory:
        """One allocation of its own; kind: device, host (written by the CPU), readback (read by it)."""

    @abstractmethod
    def upload(self, buffer: Buffer, array: npt.NDArray[Any]) -> None:
        """Copy an array of the same bytes to a buffer."""

    @abstractmethod
    def download(self, buffer: Buffer) -> npt.NDArray[Any]:
        """Copy a buffer to a new array."""

    def empty(self, shape: tuple[int, ...], dtype: str = "f32", kind: str = "device") -> Buffer:
        """Uninitialised device memory of this shape and dtype."""
        nbytes = bytes_of(shape, dtype)
        memory, offset = self._take(nbytes, kind)
        return Buffer(self, memory, offset, nbytes, dtype, tuple(int(s) for s in shape))

    def host(self, shape: tuple[int, ...], dtype: str = "f32") -> Buffer:
        """Zeroed memory that the host sees too (`.view()`), for small things that change every step."""
        buffer = self.empty(shape, dtype, kind="readback")
        if buffer.memory.host is not None:
            buffer.memory.host[buffer.offset : buffer.end] = 0
        return buffer

    def array(self, array: npt.NDArray[Any]) -> Buffer:
        """Upload a NumPy array (float32, float16, uint32, int32, uint16, int16, uint8, int8)."""
        array = np.ascontiguousarray(array)
        buffer = self.empty(array.shape, dtype_of(array))
        if buffer.nbytes:
            self.upload(buffer, array)
        return buffer

    def zeros(self, shape: tuple[int, ...], dtype: str = "f32") -> Buffer:
        """Zeroed device memory."""
        return self.filled(shape, dtype, 0)

    def filled(self, shape: tuple[int, ...], dtype: str, byte: int) -> Buffer:
        """Device memory with every byte set to `byte`."""
        buffer = self.empty(shape, dtype)
        if buffer.nbytes:
            self.upload(buffer, np.full(buffer.nbytes, byte, np.uint8))
        return buffer

    def weight_room(self, dtype: str, shape: tuple[int, int]) -> Buffer:
        """Unfilled room for weights of `shape` (rows, row length) in the device layout (flux_vk.formats.layout)."""
        from ..formats import layout

        n, k = shape
        stride = layout.row_stride(dtype, k)
        memory, offset = self._take(n * stride, "device")
        return Buffer(self, memory, offset, n * stride, dtype, (n, k), row_bytes=stride)

    def _take(self, nbytes: int, kind: str) -> tuple[Memory, int]:
        return self.allocate(max(16, -(-nbytes // 16) * 16), kind), 0


class Device(BaseDevice):
    """A Vulkan device.

    select: index or name part; default FLUX_VK_DEVICE, else discrete before integrated before CPU.
    Buffers, chains and models hold on to their device; it is released with the last of them. Methods may be called from
    several threads. Raises VulkanUnavailable, UnknownDevice.
    """

    def __init__(self, select: int | str | None = None) -> None:
        self.info = select_device(select)
        self.name = self.info["name"]
        self.kind = self.info["kind"]
        self.features = frozenset(self.info["features"])
        self.limits = self.info["limits"]
        s = settings()
        self._cache_file = None if s.no_cache else cache.file_of(s.cache_dir, self.info)
        known = cache.read(self._cache_file) if self._cache_file else b""
        self._cache_size = len(known)
        self.native = _open(self.info, known)
        self.counts = Counts()
        self._lock = threading.RLock()
        self.pipelines = Pipelines()
        self._live: weakref.WeakSet[Memory] = weakref.WeakSet()
        self._slabs: dict[str, tuple[weakref.ref[Memory], int]] = {}
        self._staging: Memory | None = None
        self._dummy: tuple[Memory, int] | None = None
        _save_caches.add(self)
        log.debug("device %s (%s), features %s", self.name, self.kind, " ".join(sorted(self.features)))

    def __repr__(self) -> str:
        return f"Device({self.name!r}, {self.kind})"

    # -- memory ---------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int, kind: str = "device") -> Memory:
        """One Vulkan allocation of its own; kind: device, host (written by the CPU), readback (read by it).

        Raises OutOfDeviceMemory with the bytes asked for and free; the device stays usable.
        """
        limit = int(self.limits["max_allocation"])
        if nbytes > limit:
            raise OutOfDeviceMemory(
                f"one allocation of {nbytes} bytes asked for; this device allows at most {limit} at once and has "
                f"{self.memory()['free']} free; use a smaller context, model or batch",
                "VK_ERROR_OUT_OF_DEVICE_MEMORY",
            )
        made = self.native.allocate(nbytes, kind)
        memory = Memory(nbytes, made, np.frombuffer(made, np.uint8) if made.mapped else None)
        with self._lock:
            self._live.add(memory)
        return memory

    def _take(self, nbytes: int, kind: str) -> tuple[Memory, int]:
        if nbytes > SMALL:
            return self.allocate(-(-nbytes // 16) * 16, kind), 0
        step = max(self.alignment, 64)
        need = -(-max(nbytes, 1) // step) * step
        with self._lock:
            slab, used = self._slabs.get(kind, (None, SLAB))
            memory = slab() if slab is not None else None  # held by its buffers alone: it goes with the last of them
            if memory is None or used + need > memory.nbytes:
                memory, used = self.allocate(SLAB, kind), 0
            self._slabs[kind] = (weakref.ref(memory), used + need)
        return memory, used

    def memory(self) -> dict[str, int]:
        """Bytes: `total` and `free` on the device (the machine's for CPU drivers), `allocated` by this object."""
        total, free = self.native.heap_bytes()
        with self._lock:
            allocated = sum(m.nbytes for m in self._live)
        if self.kind == "cpu":
            total, free = _machine_memory()
        elif free < 0:
            free = max(0, total - allocated)
        return {"total": total, "free": free, "allocated": allocated}

    @property
    def dummy(self) -> Buffer:
        """A small buffer bound in place of optional ones that were left out."""
        with self._lock:
            if self._dummy is None:
                made = self.zeros((64,), "u32")
                self._dummy = made.memory, made.offset
        # Without a Buffer of its own, which would hold its device and so keep it alive until the collector runs.
        return Buffer(self, *self._dummy, 256, "u32", (64,))

    # -- moving data ----------------------------------------------------------------------------------------------

    def upload(self, buffer: Buffer, array: npt.NDArray[Any]) -> None:
        """Copy an array of as many bytes into a buffer's range; no submit may be using it. Raises ArgumentError."""
        _check_real(buffer)
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if raw.nbytes != buffer.nbytes:
            raise ArgumentError(f"writing {raw.nbytes} bytes to {buffer}: expected {buffer.nbytes}")
        host = buffer.memory.host
        if host is not None:
            host[buffer.offset : buffer.end] = raw
            return
        with self._lock:
            for at in range(0, raw.nbytes, STAGING):
                part = raw[at : at + STAGING]
                self._staging_view()[: part.nbytes] = part
                self._flush_staging(buffer, at, part.nbytes)

    def download(self, buffer: Buffer) -> npt.NDArray[Any]:
        """A new array with a buffer's content; block types come back as rows of bytes. Raises ArgumentError."""
        _check_real(buffer)
        out = np.empty(buffer.nbytes, np.uint8)
        host = buffer.memory.host
        if host is not None:
            out[:] = host[buffer.offset : buffer.end]
        else:
            with self._lock:
                view = self._staging_view()
                for at in range(0, buffer.nbytes, STAGING):
                    n = min(STAGING, buffer.nbytes - at)
                    source = (buffer.memory.native, buffer.offset + at, n)
                    self._transfer(source, (self._staged().native, 0, n))
                    out[at : at + n] = view[:n]
        if buffer.dtype not in NUMPY_TYPES or buffer.row_bytes:
            return out.reshape(buffer.shape[0], buffer.row_bytes) if buffer.row_bytes else out
        return out.view(NUMPY_TYPES[buffer.dtype]).reshape(buffer.shape)

    def _staged(self) -> Memory:
        if self._staging is None:
            self._staging = self.allocate(STAGING, "readback")
        return self._staging

    def _staging_view(self) -> npt.NDArray[np.uint8]:
        host = self._staged().host
        assert host is not None
        return host

    def _flush_staging(self, buffer: Buffer, at: int, n: int) -> None:
        self._transfer((self._staged().native, 0, n), (buffer.memory.native, buffer.offset + at, n))

    def _transfer(self, source: tuple[Any, int, int], target: tuple[Any, int, int]) -> None:
        recording = self.native.recording(0, 0)
        recording.barrier()  # after what earlier submits of this queue wrote, or still write
        recording.copy(source, target)
        recording.submit()
        recording.wait()

    def weight(
        self, raw: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, int], into: Buffer | None = None
    ) -> Buffer:
        """Upload GGUF blocks of `shape` (rows, row length) in the device layout.

        into: rows of a `weight_room` to fill; default: memory of its own.
        """
        from ..formats import blocks
        from . import upload

        blocks.check_raw(raw, dtype, shape)
        buffer = into if into is not None else self.weight_room(dtype, shape)
        if (buffer.dtype, buffer.shape) != (dtype, shape):
            raise ArgumentError(f"weight: {dtype}{list(shape)} does not go into {buffer}")
        flat = np.ascontiguousarray(raw).reshape(-1)
        upload.fill(self, [upload.Piece(rows, write) for rows, write, _, _ in upload.weight_pieces(buffer, flat)])
        return buffer

    # -- pipelines ------------------------------------------------------------------------------------------------

    def pipeline(self, kernel: str, variant: str, spec: tuple[int, ...]) -> Any:
        """The native pipeline of one kernel variant with these specialization constants; made once."""
        return self.pipelines.get(self, kernel, variant, spec)

    def save_pipeline_cache(self) -> None:
        """Write the pipeline cache to disk where it has grown (also done at exit)."""
        if self._cache_file is None:
            return
        data = self.native.cache_data()
        if len(data) <= self._cache_size:
            return
        if cache.write(self._cache_file, data):
            self._cache_size = len(data)


def _check_real(buffer: Buffer) -> None:
    if buffer.memory.native is None:
        raise ArgumentError(f"{buffer} is scratch memory of a chain: it has no bytes of its own; copy it to a buffer")
    if buffer.offset < 0 or buffer.end > buffer.memory.nbytes:
        raise ArgumentError(f"{buffer} lies outside its memory of {buffer.memory.nbytes} bytes")


_save_caches: weakref.WeakSet[Device] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for device in list(_save_caches):
        with contextlib.suppress(Exception):  # the driver may be gone already; a cache is only a convenience
            device.save_pipeline_cache()


def _machine_memory() -> tuple[int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return total, int(line.split()[1]) * 1024
    except OSError:
        pass
    return total, page * os.sysconf("SC_AVPHYS_PAGES")
