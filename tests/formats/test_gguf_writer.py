"""The GGUF writer: what it writes our reader and the gguf package read back, byte for byte; nothing half written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.errors import GGUFError
from flux_vk.formats import blocks
from flux_vk.formats.gguf import GGUFFile, open_gguf
from flux_vk.formats.gguf_writer import TensorOut, Value, typed, write_gguf

KEYS = {
    "general.architecture": Value("str", "llama"),
    "a.u8": Value("u8", 255),
    "a.i8": Value("i8", -128),
    "a.u16": Value("u16", 65535),
    "a.i16": Value("i16", -32768),
    "a.u32": Value("u32", 2**32 - 1),
    "a.i32": Value("i32", -(2**31)),
    "a.f32": Value("f32", 0.5),
    "a.bool": Value("bool", True),
    "a.u64": Value("u64", 2**64 - 1),
    "a.i64": Value("i64", -(2**63)),
    "a.f64": Value("f64", 0.1),
    "a.raw": Value("str", b"\xff\xfe".decode("utf-8", "surrogateescape")),
    "a.words": Value("array[str]", ["", "a", "\u00fc\u4e2d"]),
    "a.none": Value("array[str]", []),
    "a.numbers": Value("array[i32]", [-1, 0, 7]),
    "a.flags": Value("array[bool]", np.array([True, False])),
    "a.floats": Value("array[f32]", np.array([0.25, np.inf], np.float32)),
    "a.big": Value("array[u64]", np.array([2**64 - 1], np.uint64)),
}


def same_tensors(f: GGUFFile) -> list[TensorOut]:
    return [TensorOut(t.name, t.type, t.shape, f.raw(t.name)) for t in f.tensors.values()]


def test_all_types_come_back(tmp_path: Path, rng: np.random.Generator) -> None:
    data = {
        kind.name: rng.integers(0, 256, 3 * kind.row_bytes(2 * kind.weights), dtype=np.uint8)
        for kind in blocks.BY_ID.values()
    }
    outs = [TensorOut(f"t.{n}", n, (3, 2 * blocks.BY_NAME[n].weights), raw) for n, raw in data.items()]
    path = tmp_path / "all.gguf"
    write_gguf(path, KEYS, outs, alignment=64)
    with open_gguf(path) as f:
        assert f.alignment == 64
        for key, value in KEYS.items():
            assert f.types[key] == value.type
            np.testing.assert_array_equal(f.metadata[key], value.value)
        assert list(f.tensors) == [out.name for out in outs]
        for out in outs:
            info = f.tensors[out.name]
            assert (info.type, info.shape) == (out.type, out.shape) and info.offset % 64 == 0
            np.testing.assert_array_equal(f.raw(out.name), data[out.type])
        copy = tmp_path / "copy.gguf"
        write_gguf(copy, typed(f.metadata, f.types), same_tensors(f))
    assert copy.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.gguf", "copy.gguf"]


def test_a_real_model_is_copied_byte_for_byte(tmp_path: Path, demo_model: Path) -> None:
    gguf = pytest.importorskip("gguf")
    copy = tmp_path / "copy.gguf"
    with open_gguf(demo_model) as f:
        write_gguf(copy, typed(f.metadata, f.types), same_tensors(f))
        theirs = gguf.GGUFReader(copy)
        assert [t.name for t in theirs.tensors] == list(f.tensors)
        for tensor in theirs.tensors:
            np.testing.assert_array_equal(tensor.data.reshape(-1).view(np.uint8), f.raw(tensor.name))
        assert set(f.metadata) <= set(theirs.fields)


def test_data_are_streamed_in_order(tmp_path: Path) -> None:
    taken: list[int] = []
    told: list[tuple[int, int]] = []

    def pieces() -> Iterator[bytes]:
        for i in range(4):
            taken.append(i)
            yield bytes([i]) * 4

    outs = [TensorOut("a", "f32", (4,), pieces), TensorOut("b", "i8", (3,), lambda: b"xyz")]
    write_gguf(tmp_path / "s.gguf", {}, outs, progress=lambda done, total: told.append((done, total)))
    with open_gguf(tmp_path / "s.gguf") as f:
        assert f.raw("a").tobytes() == b"".join(bytes([i]) * 4 for i in range(4))
        assert f.raw("b").tobytes() == b"xyz"
    assert taken == [0, 1, 2, 3] and told[-1] == (19, 19) and len(told) == 5


def failing() -> Iterator[bytes]:
    yield b"1234"
    raise RuntimeError("the source went away")


@pytest.mark.parametrize(
    ("keys", "out", "message"),
    [
        ({}, TensorOut("a", "f32", (2,), b"1234"), "tensor 'a': found 4 bytes, expected 8"),
        ({}, TensorOut("a", "f32", (2,), b"123456789"), "found more bytes than that, expected 8"),
        ({}, TensorOut("a", "q4_9", (32,), b""), "found type 'q4_9', expected one of f32"),
        ({}, TensorOut("a", "q8_0", (2, 33), b""), "rows of 33 in q8_0, expected a multiple of 32"),
        ({}, TensorOut("a", "f32", (2, 0), b""), "shape (2, 0)"),
        ({}, TensorOut("a", "f32", (1,) * 5, b""), "1 to 4 dimensions"),
        ({}, TensorOut("n" * 64, "f32", (1,), b"1234"), "a name of 64 bytes, expected 1 to 63"),
        ({"k": Value("u8", 256)}, None, "key 'k': found 256"),
        ({"k": Value("u8", "x")}, None, "key 'k': found 'x'"),
        ({"k": Value("str", 3)}, None, "expected type str"),
        ({"k": Value("q7", 3)}, None, "found type 'q7'"),
        ({"k": Value("array[u8]", [1, 256])}, None, "expected type array[u8]"),
        ({"k": Value("array[str]", "abc")}, None, "not all strings"),
        ({"general.alignment": Value("u32", 24)}, None, "a power of two"),
    ],
)
def test_what_gguf_cannot_hold_is_refused(
    keys: dict[str, Value], out: TensorOut | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"what was there")
    with pytest.raises(GGUFError, match=re.escape(message)):
        write_gguf(path, keys, [] if out is None else [out])
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
    assert path.read_bytes() == b"what was there"


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="went away"):
        write_gguf(tmp_path / "x.gguf", {}, [TensorOut("a", "f32", (2,), failing)])
    assert not list(tmp_path.iterdir())
    with pytest.raises(GGUFError, match="a name twice"):
        write_gguf(tmp_path / "x.gguf", {}, [TensorOut("a", "i8", (1,), b"1")] * 2)


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(1, 5)), max_size=6), st.sampled_from([8, 32, 256]))
def test_any_tensors_lie_where_the_reader_looks(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int]], alignment: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.gguf"
    data = [np.random.default_rng(i).bytes(a * b) for i, (a, b) in enumerate(shapes)]
    outs = [TensorOut(f"t{i}", "i8", shape, data[i]) for i, shape in enumerate(shapes)]
    write_gguf(path, {"general.architecture": Value("str", "x")}, outs, alignment)
    with open_gguf(path) as f:
        assert f.alignment == alignment
        assert [f.raw(f"t{i}").tobytes() for i in range(len(shapes))] == data


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*x.gguf") as failed:
        write_gguf(tmp_path / "x.gguf", KEYS, [])
    assert failed.value.filename == str(tmp_path / "x.gguf") and not list(tmp_path.iterdir())
