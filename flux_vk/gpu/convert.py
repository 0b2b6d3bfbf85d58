"""Tensors from one stored type to another on the device, a run of rows at a time; low-rank changes on the way.

Blocks go up in the device layout, become float32 (`dequantize`), take the changes (`gemm`), become blocks again
(`quantize`) and come back as GGUF bytes. While one run is on the device, the one before is unpacked. Not for files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..formats import blocks, casts, layout
from . import kernels
from .buffer import Buffer
from .chain import Chain
from .gemm import gemm
from .record import Recorded

if TYPE_CHECKING:
    from .device import Device

U8Array = npt.NDArray[np.uint8]
F32Array = npt.NDArray[np.float32]

WINDOW = 1 << 23
"""Weights in a run of rows: 32 MiB as float32."""

FLOATS = ("f32", "f16", "bf16")


def writable() -> tuple[str, ...]:
    """The types that weights can be turned into: the floats, and what the kernel `quantize` writes."""
    return (*FLOATS, *(v.types["y"] for v in kernels.contract("quantize").variants))


@dataclass(frozen=True)
class Change:
    """A low-rank change of a matrix W [N, K]: W + scale * b a, with float32 b [N, rank] and a [rank, K]."""

    b: F32Array
    a: F32Array
    scale: float


class Converter:
    """Converts tensors one after another, with the same few buffers. Not for several threads at once."""

    def __init__(self, device: Device, window: int = WINDOW) -> None:
        self._device = device
        self._window = window
        self._slots = (_Slot(device), _Slot(device))

    def convert(
        self, raw: U8Array, source: str, target: str, shape: tuple[int, ...], changes: Sequence[Change] = ()
    ) -> Iterator[U8Array]:
        """The GGUF bytes of a tensor (shape [..., K], bytes `raw` of type `source`) as type `target`, in pieces.

        Raises InputError for types and shapes that do not go together, changes of another shape, and weights that are
        infinite or NaN; VulkanError from the device.
        """
        kind, n, k = blocks.check_raw(raw, source, shape)
        self._check(target, n, k, changes)
        row = kind.row_bytes(k)
        flat = np.ascontiguousarray(raw).reshape(-1)
        step = max(1, min(n, self._window // k))
        with_a = [(c, self._device.array(np.ascontiguousarray(c.a, np.float32))) for c in changes]
        try:
            yield from self._runs(flat, row, (n, k), step, (source, target), with_a)
        finally:
            for slot in self._slots:
                slot.forget()

    def _runs(
        self,
        flat: U8Array,
        row: int,
        shape: tuple[int, int],
        step: int,
        types: tuple[str, str],
        changes: Sequence[tuple[Change, Buffer]],
    ) -> Iterator[U8Array]:
        n, k = shape
        waiting: _Slot | None = None
        for i, first in enumerate(range(0, n, step)):
            last = min(first + step, n)
            slot = self._slots[i % 2]
            slot.prepare(types, (last - first, k), changes)
            slot.start(flat[first * row : last * row], [c.b[first:last] for c, _ in changes])
            if waiting is not None:
                yield waiting.result()
            waiting = slot
        if waiting is not None:
            yield waiting.result()

    def _check(self, target: str, n: int, k: int, changes: Sequence[Change]) -> None:
        if target not in writable():
            raise InputError(f"type {target}: no kernel writes it; expected one of {', '.join(writable())}")
        if k % blocks.BY_NAME[target].weights:
            raise InputError(f"rows of {k} weights: found no whole blocks of {target}; use a type with smaller blocks")
        if 4 * k > self._device.max_range:
            raise InputError(f"rows of {k} weights: expected at most {self._device.max_range // 4} on this device")
        for c in changes:
            if c.a.ndim != 2 or c.b.ndim != 2 or c.a.shape[0] != c.b.shape[1] or (len(c.b), c.a.shape[1]) != (n, k):
                raise InputError(f"change of {list(c.b.shape)} times {list(c.a.shape)}: expected it to give [{n}, {k}]")


class _Slot:
    """The buffers and the recorded chain of one run of rows."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._rooms: dict[str, Buffer] = {}
        self._key: tuple[tuple[str, str], tuple[int, int]] | None = None
        self._chain: Recorded | None = None
        self._target = ""

    def prepare(
        self, types: tuple[str, str], shape: tuple[int, int], changes: Sequence[tuple[Change, Buffer]]
    ) -> None:
        """Record the chain for runs of this kind, unless it is the one that is recorded. Nothing may be running."""
        if self._chain is not None and (types, shape) == self._key:
            return
        source, self._target = types
        chain = Chain(self._device, name=f"{source} to {self._target}")
        self._x = self._y = self._w = self._room("x", 4 * shape[0] * shape[1], "f32", shape)
        self._sums = self._room("sums", 4 * shape[0], "f32", shape[:1])
        if source != "f32" or shape[1] % 4:
            self._w = self._packed("w", source, shape)
            chain.dispatch("dequantize", w=self._w, y=self._x)
        self._bs = [self._changed(chain, shape, i, *change) for i, change in enumerate(changes)]
        chain.dispatch("reduce", x=self._x, y=self._sums, OP=0)
        if self._target not in FLOATS:
            self._y = self._packed("y", self._target, shape)
            chain.dispatch("quantize", x=self._x, y=self._y)
        self._chain, self._key = chain.record(), (types, shape)

    def _changed(self, chain: Chain, shape: tuple[int, int], index: int, change: Change, a: Buffer) -> Buffer:
        """Append x += scale * b a; the buffer for these rows of b."""
        (rows, k), rank = shape, a.shape[0]
        b = self._room(f"b{index}", 4 * rows * rank, "f32", (rows, rank))
        gemm(chain, a=b, b=a, c=self._x, m=rows, n=k, k=rank, alpha=change.scale, accumulate=True, splits=1)
        return b

    def start(self, raw: U8Array, bs: Sequence[F32Array]) -> None:
        """Fill the buffers and submit."""
        assert self._chain is not None
        if self._w is self._x:
            self._device.upload(self._x, raw)
        else:
            self._device.weight(raw, self._w.dtype, (self._w.shape[0], self._w.shape[1]), self._w)
        for room, b in zip(self._bs, bs, strict=True):
            room.write(np.ascontiguousarray(b, np.float32))
        self._chain.submit()

    def result(self) -> U8Array:
        """Wait, and the bytes in the file's form."""
        assert self._chain is not None
        self._chain.wait()
        if not np.isfinite(self._sums.numpy()).all():
            raise InputError("found weights that are infinite or NaN, expected finite ones; the model is damaged")
        if self._target in FLOATS:
            return casts.encode(self._x.numpy(), self._target)
        return layout.unpack(self._y.numpy(), self._target, self._y.shape)

    def forget(self) -> None:
        """Let go of the recorded chain, once it has ended."""
        if self._chain is not None:
            self._chain.wait()
        self._chain, self._key = None, None

    def _packed(self, name: str, kind: str, shape: tuple[int, int]) -> Buffer:
        room = self._room(name, layout.packed_nbytes(kind, shape), kind, shape)
        return replace(room, row_bytes=layout.row_stride(kind, shape[1]))

    def _room(self, name: str, nbytes: int, dtype: str, shape: tuple[int, ...]) -> Buffer:
        """`nbytes` of the slot's memory for this purpose; more is taken where it was smaller before."""
        room = self._rooms.get(name)
        if room is None or room.nbytes < nbytes:
            self._rooms.pop(name, None)
            room = self._rooms[name] = self._device.empty((nbytes,), "u8")
        return replace(room, nbytes=nbytes, dtype=dtype, shape=shape)


def cast(raw: U8Array, source: str, target: str, shape: tuple[int, ...], window: int = WINDOW) -> Iterator[U8Array]:
    """Between f32, f16 and bf16, on the CPU; otherwise as `Converter.convert`."""
    kind, n, k = blocks.check_raw(raw, source, shape)
    row, flat = kind.row_bytes(k), np.ascontiguousarray(raw).reshape(-1)
    step = max(1, window // k)
    for first in range(0, n, step):
        last = min(first + step, n)
        values = blocks.dequantize(flat[first * row : last * row], source, (last - first, k))
        if not np.isfinite(values).all():
            raise InputError("found weights that are infinite or NaN, expected finite ones; the model is damaged")
        yield casts.encode(values, target)


def nbytes(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in the file."""
    return math.prod(shape[:-1]) * blocks.BY_NAME[kind].row_bytes(shape[-1])
