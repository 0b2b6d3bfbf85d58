"""Filling device memory from several threads: the same bytes however they come, and nothing left behind by failures."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.errors import DeviceLost, OutOfDeviceMemory
from flux_vk.formats import blocks, layout
from flux_vk.gpu import Device, native, upload
from flux_vk.gpu.buffer import Memory
from flux_vk.gpu.upload import Piece, fill, weight_pieces
from tests.gpu.weights import random_raw

TYPES = sorted(layout._FIELDS)


class Hidden(Device):
    """Device memory without a host view: every byte goes through staging buffers."""

    def allocate(self, nbytes: int, kind: str = "device") -> Memory:
        memory = super().allocate(nbytes, kind)
        if kind == "device":
            memory.host = None
        return memory


@pytest.fixture(scope="module")
def hidden() -> Device:
    return Hidden()


@pytest.fixture(params=["visible", "hidden"])
def target(request: pytest.FixtureRequest, device: Device, hidden: Device) -> Device:
    return device if request.param == "visible" else hidden


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("flux_vk")]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_native_packing_writes_what_numpy_writes(rng: np.random.Generator, dtype: str, rows: int) -> None:
    weights = blocks.BY_NAME[dtype].weights
    for k in {weights, 3 * weights, 896 // weights * weights or weights, 18944 // weights * weights}:
        raw = rng.integers(0, 256, rows * blocks.BY_NAME[dtype].row_bytes(k), dtype=np.uint8)
        want = layout.pack(raw, dtype, (rows, k))
        found = np.full_like(want, 0xEE)
        layout.pack_into(raw, dtype, (rows, k), found, native.module().pack_rows)
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p[:-1],
        lambda p: [p[0], p[1], 9, *p[3:]],  # no such codec
        lambda p: [p[0], p[1], p[2], p[0], *p[4:]],  # a field behind the block's end
        lambda p: [p[0] + 1, *p[1:]],  # rows that are no whole blocks
        lambda p: [p[0], p[1], p[2], p[3], 1 << 20, *p[5:]],  # a plane behind the row's end
    ],
)
def test_native_packing_refuses_what_makes_no_sense(change: Callable[[list[int]], list[int]]) -> None:
    raw, out = np.zeros((2, 288), np.uint8), np.zeros((2, layout.row_stride("q4_k", 512)), np.uint8)
    program = list(layout.program("q4_k", 512))
    native.module().pack_rows(raw, out, program)
    with pytest.raises(ValueError):
        native.module().pack_rows(raw, out, change(program))


@pytest.mark.parametrize("dtype", ["q4_k", "q5_0", "f16"])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_weights_are_byte_identical(
    target: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, dtype: str, n: int
) -> None:
    """Pieces and staging buffers so small that every thread goes around its ring many times."""
    monkeypatch.setattr(upload, "SLOT", 8192)
    shapes = [(1, 256), (7, 512), (255, 256), (64, 1024), (3, 4096)]
    raws = [random_raw(rng, dtype, shape) for shape in shapes]
    rooms = [target.weight_room(dtype, shape) for shape in shapes]
    vector = rng.standard_normal(1000).astype(np.float32)
    floats = target.empty((1000,), "f32")
    pieces = [
        Piece(rows, write, stop - start)
        for room, raw in zip(rooms, raws, strict=True)
        for rows, write, start, stop in weight_pieces(room, raw, most=3000)
    ]

    def write_floats(view: npt.NDArray[np.uint8]) -> None:
        view[...] = vector.view(np.uint8)

    pieces.insert(5, Piece(floats, write_floats, vector.nbytes))
    done: list[Piece] = []
    fill(target, pieces, done.append, threads=n)
    assert sorted(map(id, done)) == sorted(map(id, pieces))
    assert sum(p.nbytes for p in done) == sum(raw.nbytes for raw in raws) + vector.nbytes
    for room, raw, shape in zip(rooms, raws, shapes, strict=True):
        np.testing.assert_array_equal(room.numpy(), layout.pack(raw, dtype, shape))
    np.testing.assert_array_equal(floats.numpy(), vector)
    assert not threads()


def test_a_row_larger_than_a_staging_buffer(
    hidden: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SLOT", 64)
    raw = random_raw(rng, "f32", (3, 300))
    w = hidden.weight(raw, "f32", (3, 300))
    np.testing.assert_array_equal(w.numpy(), layout.pack(raw, "f32", (3, 300)))


def test_nothing_to_fill(target: Device) -> None:
    fill(target, [])
    fill(target, [Piece(target.empty((0,)), lambda view: None)])


def pieces_that(target: Device, n: int, write: Callable[[int], None]) -> list[Piece]:
    def writer(i: int) -> Callable[[npt.NDArray[np.uint8]], None]:
        def run(view: npt.NDArray[np.uint8]) -> None:
            write(i)
            view[...] = i

        return run

    return [Piece(target.empty((1024,), "u8"), writer(i)) for i in range(n)]


@pytest.mark.parametrize("at", [0, 7, 39])
def test_an_error_in_a_thread_is_raised_here(target: Device, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(upload, "SLOT", 4096)

    def fails(i: int) -> None:
        if i == at:
            raise DeviceLost("gone while uploading", "VK_ERROR_DEVICE_LOST")

    with pytest.raises(DeviceLost, match="gone while uploading"):
        fill(target, pieces_that(target, 40, fails), threads=3)
    assert not threads()


def test_no_staging_memory_is_told_and_nothing_stays(hidden: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = pieces_that(hidden, 8, lambda i: None)
    gc.collect()
    before = hidden.memory()["allocated"]
    allocate = hidden.allocate

    def refuses(nbytes: int, kind: str = "device") -> Memory:
        if kind == "host":
            raise OutOfDeviceMemory("no room for staging", "VK_ERROR_OUT_OF_HOST_MEMORY")
        return allocate(nbytes, kind)

    with monkeypatch.context() as m:
        m.setattr(hidden, "allocate", refuses)
        with pytest.raises(OutOfDeviceMemory, match="no room for staging"):
            fill(hidden, pieces, threads=2)
    fill(hidden, pieces, threads=2)
    gc.collect()
    assert not threads() and hidden.memory()["allocated"] == before
    assert [int(p.target.numpy()[0]) for p in pieces] == list(range(8))


def test_ctrl_c_leaves_no_thread(target: Device) -> None:
    """Raised in the waiting thread, as Ctrl-C is, here by the callback; pieces not yet taken stay untouched."""
    taken: list[int] = []
    go = threading.Event()

    def write(i: int) -> None:
        taken.append(i)
        if i > 2:
            go.wait(10)

    def interrupted(piece: Piece) -> None:
        go.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(target, pieces_that(target, 10_000, write), interrupted, threads=2)
    assert not threads() and len(taken) < 10_000


def test_read_ahead_and_release_are_called_in_pairs(target: Device) -> None:
    seen: list[tuple[str, int]] = []

    def call(name: str, i: int) -> Callable[[], None]:
        return lambda: seen.append((name, i))

    pieces: list[Any] = [
        Piece(p.target, p.write, 0, call("before", i), call("after", i))
        for i, p in enumerate(pieces_that(target, 20, lambda i: None))
    ]
    fill(target, pieces, threads=1)
    assert seen == [(name, i) for i in range(20) for name in ("before", "after")]
