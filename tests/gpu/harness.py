"""Running one kernel for a test: poisoned outputs, and guard words around every buffer that must stay as they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.gpu import Chain, Device
from flux_vk.gpu.buffer import NUMPY_TYPES, Buffer, dtype_of
from flux_vk.gpu.contract import SCALAR_BYTES

GUARD = 0xA5
POISON = 0xFF  # every float type reads it as NaN
_SPACE = 256  # bytes on either side


class Guarded:
    """Buffers of one kernel run, each in an allocation of its own between two guard zones."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.made: list[tuple[str, Buffer, Buffer]] = []

    def place(
        self, name: str, nbytes: int, dtype: str, shape: tuple[int, ...], fill: npt.NDArray[np.uint8] | None
    ) -> Buffer:
        padded = -(-nbytes // 16) * 16
        whole = self.device.filled((padded + 2 * _SPACE,), "u8", GUARD)
        if fill is None:
            fill = np.full(nbytes, POISON, np.uint8)
        inner = replace(whole, offset=whole.offset + _SPACE, nbytes=nbytes, dtype=dtype, shape=shape)
        if nbytes:
            self.device.upload(inner, fill)
        self.made.append((name, whole, inner))
        return inner

    def array(self, name: str, array: npt.NDArray[Any]) -> Buffer:
        array = np.ascontiguousarray(array)
        return self.place(name, array.nbytes, dtype_of(array), array.shape, array.reshape(-1).view(np.uint8))

    def weight(self, name: str, raw: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, int]) -> Buffer:
        """GGUF blocks in the device layout, guarded."""
        from flux_vk.formats import layout

        packed = layout.pack(raw, dtype, shape)
        inner = self.place(name, packed.nbytes, dtype, shape, packed.reshape(-1))
        inner = replace(inner, row_bytes=layout.row_stride(dtype, shape[1]))
        self.made[-1] = (name, self.made[-1][1], inner)
        return inner

    def empty(self, name: str, shape: tuple[int, ...], dtype: str = "f32") -> Buffer:
        nbytes = int(np.prod(shape, dtype=np.int64)) * SCALAR_BYTES[dtype]
        return self.place(name, nbytes, dtype, shape, None)

    def check(self) -> None:
        """Fails where a kernel wrote outside a buffer."""
        for name, whole, inner in self.made:
            raw = whole.numpy()
            before = raw[:_SPACE]
            after = raw[_SPACE + inner.nbytes :]
            assert (before == GUARD).all(), f"{name}: written in front of the buffer"
            assert (after == GUARD).all(), f"{name}: written behind the buffer"


def run_kernel(
    device: Device,
    kernel: str,
    inputs: dict[str, npt.NDArray[Any] | Buffer],
    outputs: dict[str, tuple[tuple[int, ...], str]],
    *,
    variant: str | None = None,
    **scalars: Any,
) -> dict[str, npt.NDArray[Any]]:
    """Run one kernel once. Returns every output, and every input that the contract says is read and written.

    inputs: NumPy arrays (uploaded between guards) or Buffers made by the caller. outputs: name -> (shape, dtype),
    poisoned before the run. scalars: push fields, symbols, UPPERCASE specialization constants.
    """
    from flux_vk.gpu import kernels

    guarded = Guarded(device)
    buffers: dict[str, Buffer] = {}
    for name, value in inputs.items():
        buffers[name] = value if isinstance(value, Buffer) else guarded.array(name, value)
    for name, (shape, dtype) in outputs.items():
        buffers[name] = guarded.empty(name, shape, dtype)
    chain = Chain(device, name=f"test {kernel}")
    chain.dispatch(kernel, variant=variant, **buffers, **scalars)
    chain.run()
    guarded.check()
    contract = kernels.contract(kernel)
    wanted = set(outputs) | {b.name for b in contract.bindings if b.access == "read_write" and b.name in buffers}
    return {name: buffers[name].numpy() for name in wanted}


def nmse(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> float:
    """Normalised mean squared error, as ggml's operator tests measure it: sum (a-b)^2 / sum b^2."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    scale = float((b * b).sum())
    error = float(((a - b) ** 2).sum())
    return error / scale if scale > 0 else error


__all__ = ["GUARD", "NUMPY_TYPES", "POISON", "Guarded", "nmse", "run_kernel"]
