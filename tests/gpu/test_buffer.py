"""Buffers on the device: every dtype up and down, views, slabs, staging, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_vk.errors import ArgumentError, InputError
from flux_vk.gpu import Chain, Device
from flux_vk.gpu import device as device_module
from flux_vk.gpu.buffer import NUMPY_TYPES

DTYPES = [d for d in NUMPY_TYPES if d != "bf16"]


def random(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    n = int(np.prod(shape)) * np.dtype(NUMPY_TYPES[dtype]).itemsize
    return rng.integers(0, 256, n, dtype=np.uint8).view(NUMPY_TYPES[dtype]).reshape(shape)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3), (0, 5), (257,), (2, 3, 5), ()])
@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back(device: Device, rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> None:
    array = random(rng, dtype, shape)
    buffer = device.array(array)
    assert buffer.dtype == dtype
    assert same_bits(buffer.numpy().reshape(shape), array)
    buffer.write(array[::-1] if shape else array)
    assert same_bits(buffer.numpy().reshape(shape), array[::-1].copy() if shape else array)


def test_arrays_that_are_not_contiguous(device: Device, rng: np.random.Generator) -> None:
    array = rng.standard_normal((6, 8)).astype(np.float32)
    assert same_bits(device.array(array.T).numpy(), np.ascontiguousarray(array.T))
    assert same_bits(device.array(array[::2, 1::3]).numpy(), array[::2, 1::3].copy())


@pytest.mark.parametrize("dtype", ["float64", "int64", "bool", "complex64"])
def test_dtypes_that_kernels_cannot_read(device: Device, dtype: str) -> None:
    with pytest.raises(ArgumentError, match=f"array of dtype {dtype}; expected one of float32"):
        device.array(np.zeros(3, dtype))


def test_bf16_comes_back_as_its_bits(device: Device) -> None:
    buffer = device.array(np.array([0x3F80, 0xC000], np.uint16)).cast("bf16")
    assert buffer.dtype == "bf16" and buffer.numpy().tolist() == [0x3F80, 0xC000]


@pytest.mark.parametrize("megabytes", [1, 3, 40])
def test_large_buffers(device: Device, rng: np.random.Generator, megabytes: int) -> None:
    array = rng.integers(0, 2**32, (megabytes << 18) + 5, dtype=np.uint32)
    buffer = device.array(array)
    assert buffer.offset == 0 and buffer.memory.nbytes < device_module.SLAB or megabytes == 40
    assert same_bits(buffer.numpy(), array)


def test_small_buffers_share_a_slab_and_do_not_touch(device: Device, rng: np.random.Generator) -> None:
    arrays = [rng.integers(0, 256, int(n), dtype=np.uint8) for n in rng.integers(0, 3000, 200)]
    buffers = [device.array(a) for a in arrays]
    assert len({b.memory.id for b in buffers}) <= 2
    assert all(b.offset % device.alignment == 0 for b in buffers)
    ranges = sorted((b.memory.id, b.offset, b.end) for b in buffers if b.nbytes)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in zip(ranges, ranges[1:], strict=False))
    assert all(same_bits(b.numpy(), a) for a, b in zip(arrays, buffers, strict=True))


def test_views(device: Device, rng: np.random.Generator) -> None:
    array = rng.standard_normal((8, 16)).astype(np.float32)
    buffer = device.array(array)
    assert same_bits(buffer.rows(2, 5).numpy(), array[2:5])
    assert same_bits(buffer.rows(3, 3).numpy(), array[3:3])
    assert same_bits(buffer.reshape(4, 32).rows(1, 2).numpy(), array.reshape(4, 32)[1:2])
    assert same_bits(buffer.cast("u32").numpy(), array.view(np.uint32).reshape(-1))
    assert same_bits(buffer.cast("f16", (8, 32)).numpy(), array.view(np.float16))
    buffer.rows(0, 2).write(np.zeros((2, 16), np.float32))
    array[:2] = 0
    assert same_bits(buffer.numpy(), array)


def test_views_that_cannot_be(device: Device) -> None:
    buffer = device.empty((8, 3))
    for call, message in (
        (lambda: buffer.rows(2, 9), "rows 2..9 of Buffer.*expected 0 <= start <= stop <= 8"),
        (lambda: buffer.rows(3, 2), "rows 3..2"),
        (lambda: buffer.rows(-1, 2), "rows -1..2"),
        (lambda: buffer.reshape(5, 5), r"as \[5, 5\]: sizes differ"),
        (lambda: buffer.cast("q4_k"), "dtype 'q4_k'.*expected one of f32"),
        (lambda: device.array(np.zeros(3, np.uint8)).cast("u32"), "3 bytes are no multiple of 4"),
        (lambda: device.empty((3,), "f64"), "dtype 'f64'"),
        (lambda: device.empty((3, -1)), "negative dimension"),
        (lambda: buffer.write(np.zeros(23, np.float32)), r"writing 92 bytes to Buffer\(f32\[8, 3\].*expected 96"),
        (lambda: device.empty(()).rows(0, 1), "has no rows"),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()


def test_writes_outside_are_refused(device: Device) -> None:
    from dataclasses import replace

    buffer = device.empty((1 << 20,), "f32")
    for outside in (replace(buffer, offset=buffer.memory.nbytes - 16), replace(buffer, offset=-16)):
        with pytest.raises(ArgumentError, match="lies outside its memory"):
            outside.write(np.zeros(1 << 20, np.float32))
        with pytest.raises(ArgumentError, match="lies outside its memory"):
            outside.numpy()


def test_scratch_has_nothing_to_read(device: Device) -> None:
    t = Chain(device).scratch((4,))
    with pytest.raises(ArgumentError, match="scratch memory of a chain"):
        t.numpy()
    with pytest.raises(ArgumentError, match="scratch memory of a chain"):
        t.write(np.zeros(4, np.float32))


def test_host_memory_is_seen_by_both(device: Device) -> None:
    host = device.host((4, 2), "u32")
    assert host.view().tolist() == [[0, 0]] * 4
    host.view()[1] = 5
    target = device.empty((4, 2), "u32")
    Chain(device).copy(src=host, dst=target).run()
    assert target.numpy().tolist() == [[0, 0], [5, 5], [0, 0], [0, 0]]
    Chain(device).fill(dst=host.rows(2, 4), value=9).run()
    assert host.view().tolist() == [[0, 0], [5, 5], [9, 9], [9, 9]]


class TestWithoutHostAccess:
    """As on a discrete GPU: device memory is not mapped, everything goes through the staging buffer."""

    @pytest.fixture
    def hidden(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
        own: Any = Device(device.info["index"])
        allocate = own.allocate

        def without(nbytes: int, kind: str = "device") -> Any:
            memory = allocate(nbytes, kind)
            if kind == "device":
                memory.host = None
            return memory

        monkeypatch.setattr(own, "allocate", without)
        monkeypatch.setattr(device_module, "STAGING", 4096)
        return own

    @pytest.mark.parametrize("n", [0, 1, 4095, 4096, 4097, 3 * 4096 + 17, (1 << 20) + 5])
    def test_there_and_back(self, hidden: Device, rng: np.random.Generator, n: int) -> None:
        array = rng.integers(0, 256, n, dtype=np.uint8)
        buffer = hidden.array(array)
        assert buffer.memory.host is None
        assert same_bits(buffer.numpy(), array)
        with pytest.raises(ArgumentError, match="not visible to the host"):
            buffer.view()

    def test_fills_and_weights(self, hidden: Device, rng: np.random.Generator) -> None:
        assert (hidden.filled((5000,), "u8", 0xA5).numpy() == 0xA5).all()
        assert (hidden.zeros((3, 7)).numpy() == 0).all()
        values = rng.standard_normal((67, 96)).astype(np.float32)
        w = hidden.weight(values.view(np.uint8).reshape(-1), "f32", (67, 96))
        assert same_bits(w.numpy().view(np.float32)[:, :96].copy(), values)
        assert same_bits(w.rows(60, 67).numpy().view(np.float32)[:, :96].copy(), values[60:])


def test_a_weight_without_rows_is_refused(device: Device) -> None:
    with pytest.raises(InputError, match="all >= 1"):
        device.weight(np.zeros(0, np.uint8), "f32", (0, 32))
