"""Random damage to GGUF files: the reader succeeds or raises GGUFError, in little time and memory."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from pathlib import Path

import gguf_bytes as gb
import numpy as np
import pytest
from gguf_bytes import ARCH, array, gguf, pair, tensor, text, u32, u64
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_vk.errors import GGUFError
from flux_vk.formats import blocks
from flux_vk.formats.gguf import open_gguf
from flux_vk.formats.gguf_reader import read_header

SECONDS = 10
MAX_BYTES = 4 << 20
MAX_SECONDS_EACH = 20.0
_WORDS = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    9,
    12,
    13,
    31,
    32,
    64,
    255,
    256,
    2**16,
    2**31,
    2**32 - 1,
    2**32,
    2**61,
    2**62,
    2**63,
]
_WORDS += [2**63 - 1, 2**64 - 1, 2**64 - 32, 2**64 - 8]


def _base() -> bytes:
    scalars = [
        pair(f"k{kind}", kind, bytes(size))
        for kind, size in zip(range(8), (1, 1, 2, 2, 4, 4, 4, 1), strict=True)
    ]
    pairs = [
        ARCH, *scalars,
        pair("general.alignment", gb.U32, u32(32)),
        pair("tokens", gb.ARRAY, array(gb.STRING, 5, b"".join(map(text, ("a", "bb", b"\xff", "", "é"))))),
        pair("scores", gb.ARRAY, array(gb.F32, 4, bytes(16))),
        pair("flags", gb.ARRAY, array(gb.BOOL, 3, b"\0\1\0")),
        pair("u64", gb.U64, u64(2**40)),
        pair("f64", gb.F64, bytes(8)),
    ]  # fmt: skip
    tensors = [
        tensor("a", (32, 2), 0, 0), tensor("b", (64,), 8, 256), tensor("c", (256,), 12, 352),
        tensor("d", (2, 3, 4, 1), 1, 512),
    ]  # fmt: skip
    return gguf(pairs, tensors, bytes(range(256)) * 3)


BASE = _base()


def _check(path: Path, data: bytes) -> bool:
    """Reads `data`; True if it was accepted, and then everything it says must lie inside the file."""
    try:
        header = read_header(path, data)
    except GGUFError as error:
        assert str(error).startswith(str(path))
        return False
    ordered = sorted(header.tensors.values(), key=lambda t: t.offset)
    for info in ordered:
        kind = blocks.BY_NAME[info.type]
        assert header.data_offset <= info.offset and info.offset + info.nbytes <= len(data)
        assert info.nbytes == info.n_elements // kind.weights * kind.nbytes > 0
        assert info.offset % header.alignment == 0
    for a, b in itertools.pairwise(ordered):
        assert a.offset + a.nbytes <= b.offset
    return True


def _damaged(rng: np.random.Generator) -> bytes:
    data = bytearray(BASE)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(data)))
        match int(rng.integers(0, 6)):
            case 0:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[at] = int(rng.integers(0, 256))
            case 2:
                data[at : at + 8] = u64(_WORDS[int(rng.integers(0, len(_WORDS)))])
            case 3:
                data[at : at + 4] = u32(_WORDS[int(rng.integers(0, len(_WORDS)))] & 0xFFFFFFFF)
            case 4:
                del data[at : at + int(rng.integers(1, 64))]
            case _:
                to = int(rng.integers(0, len(data)))
                data[to:to] = data[at : at + int(rng.integers(1, 64))]
        if not data:
            break
    return bytes(data)


def test_the_base_is_good(tmp_path: Path) -> None:
    assert _check(tmp_path, BASE)


def test_random_damage(rng: np.random.Generator, tmp_path: Path) -> None:
    path = tmp_path / "fuzz.gguf"
    end = time.monotonic() + SECONDS
    accepted = runs = 0
    tracemalloc.start()
    try:
        while time.monotonic() < end:
            data = _damaged(rng)
            tracemalloc.reset_peak()
            before, start = tracemalloc.get_traced_memory()[0], time.monotonic()
            try:
                accepted += _check(path, data)
                if runs % 16 == 0:
                    _open(path, data)
            except BaseException:
                (tmp_path / "failing.gguf").write_bytes(data)
                print(f"the failing input is kept in {tmp_path / 'failing.gguf'}")
                raise
            assert time.monotonic() - start < MAX_SECONDS_EACH, data
            assert tracemalloc.get_traced_memory()[1] - before < MAX_BYTES, data
            runs += 1
    finally:
        tracemalloc.stop()
    print(f"{runs} damaged files, {accepted} of them still readable")
    assert runs > 100
    assert 0 < accepted < runs


def _open(path: Path, data: bytes) -> None:
    """The same through the file: opening and touching all tensor bytes."""
    path.write_bytes(data)
    try:
        with open_gguf(path) as f:
            for name, info in f.tensors.items():
                assert f.raw(name).nbytes == info.nbytes
                f.raw(name).sum()
                f.release(name)
    except GGUFError:
        pass


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_anything_after_a_good_start(tail: bytes) -> None:
    _check(Path("x.gguf"), b"GGUF" + u32(3) + u64(1) + u64(2) + tail)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 13), st.binary(max_size=24)), max_size=6))
def test_any_values(values: list[tuple[int, bytes]]) -> None:
    pairs = [pair(f"key{i}", kind, payload) for i, (kind, payload) in enumerate(values)]
    _check(Path("x.gguf"), gguf(pairs))


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([1, 32, 256]), max_size=6),
    st.integers(0, 2**32 - 1) | st.integers(0, 45),
    st.integers(0, 2**64 - 1) | st.sampled_from([0, 32]),
)
def test_any_tensor(dims: list[int], kind: int, offset: int) -> None:
    _check(Path("x.gguf"), gguf(tensors=[tensor("t", tuple(dims), kind, offset)], data=bytes(2048)))


@pytest.mark.parametrize("count", [10**4, 2**22, 2**32, 2**64 - 1])
def test_zeros_as_strings_cost_no_more_than_the_file(count: int) -> None:
    """A count is believed only as far as the file can hold it."""
    data = gguf([pair("a", gb.ARRAY, array(gb.STRING, count))], [], bytes(1 << 16))
    tracemalloc.start()
    try:
        with pytest.raises(GGUFError):
            read_header(Path("x.gguf"), data)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
