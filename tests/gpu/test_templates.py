"""Kernel calls that were checked once: the same dispatch again, on other buffers, and nothing else remembered."""

from __future__ import annotations

import struct

import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Buffer, Chain, Device, NullDevice
from flux_vk.gpu.steps import Dispatch


def dispatch(chain: Chain, i: int = -1) -> Dispatch:
    step = chain.steps[i]
    assert isinstance(step, Dispatch)
    return step


def norm(device: NullDevice | Device, chain: Chain, rows: int, eps: float, x: Buffer | None = None) -> Dispatch:
    x = device.empty((rows, 64)) if x is None else x
    chain.rms_norm(x=x, w=device.empty((64,)), y=device.empty((rows, 64)), eps=eps)
    return dispatch(chain)


def test_a_remembered_call_is_the_same_on_its_own_buffers() -> None:
    device, fresh = NullDevice(), NullDevice()
    chain = Chain(device)
    first = norm(device, chain, 3, 1e-6)
    again = norm(device, chain, 3, 1e-6)
    other = norm(fresh, Chain(fresh), 3, 1e-6)
    for made in (again, other):
        assert (made.push, made.spec, made.grid, made.bytes, made.flops, made.left_out, made.variant) == (
            first.push, first.spec, first.grid, first.bytes, first.flops, first.left_out, first.variant,
        )  # fmt: skip
    assert len(device.templates) == 1
    assert all(again.buffers[n] is not first.buffers[n] for n in ("x", "w", "y"))
    assert norm(device, chain, 4, 1e-6).grid != first.grid and len(device.templates) == 2


def test_zero_and_minus_zero_are_different_constants() -> None:
    device = NullDevice()
    chain = Chain(device)
    plus, minus = norm(device, chain, 2, 0.0), norm(device, chain, 2, -0.0)
    assert struct.pack("<f", -0.0) in minus.push and minus.push != plus.push
    assert norm(device, chain, 2, 0.0).push == plus.push and norm(device, chain, 2, -0.0).push == minus.push


def test_places_are_checked_every_time() -> None:
    device = NullDevice(storage_alignment=256)
    chain = Chain(device)
    whole = device.empty((8, 64))  # rows of 256 bytes
    norm(device, chain, 2, 1e-6, whole.rows(0, 2))
    norm(device, chain, 2, 1e-6, whole.rows(1, 3))
    off = Buffer(device, whole.memory, 16, 512, "f32", (2, 64))
    with pytest.raises(ArgumentError, match="x begins at byte 16"):
        norm(device, chain, 2, 1e-6, off)


def test_no_memory_is_held(device: Device) -> None:
    own = Device(device.info["index"])
    keep = own.dummy
    before = own.memory()["allocated"]
    big = own.empty((1024, 1024))
    chain = Chain(own)
    chain.add(a=big, b=big, y=big)
    assert own.templates and own.memory()["allocated"] > before
    del chain, big
    assert own.memory()["allocated"] == before and keep.nbytes
