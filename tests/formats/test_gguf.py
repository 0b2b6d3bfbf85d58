"""Reading good GGUF files: round trips from the `gguf` package's writer, byte-level cases, split models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import gguf_bytes as gb
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from flux_vk.errors import GGUFError
from flux_vk.formats import blocks
from flux_vk.formats.gguf import open_gguf

SCALARS: list[tuple[str, GGUFValueType, Any]] = [
    ("u8", GGUFValueType.UINT8, 255),
    ("i8", GGUFValueType.INT8, -128),
    ("u16", GGUFValueType.UINT16, 65535),
    ("i16", GGUFValueType.INT16, -32768),
    ("u32", GGUFValueType.UINT32, 2**32 - 1),
    ("i32", GGUFValueType.INT32, -(2**31)),
    ("f32", GGUFValueType.FLOAT32, 0.15625),
    ("bool", GGUFValueType.BOOL, True),
    ("u64", GGUFValueType.UINT64, 2**64 - 1),
    ("i64", GGUFValueType.INT64, -(2**63)),
    ("f64", GGUFValueType.FLOAT64, 0.1),
]
DTYPES = {
    "u8": np.uint8, "i8": np.int8, "u16": np.uint16, "i16": np.int16, "u32": np.uint32, "i32": np.int32,
    "u64": np.uint64, "i64": np.int64, "f32": np.float32, "f64": np.float64, "bool": np.bool_,
}  # fmt: skip


def _write(path: Path, writer: GGUFWriter) -> Path:
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _small(path: Path, **tensors: np.ndarray) -> Path:
    writer = GGUFWriter(path, "llama")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    return _write(path, writer)


@pytest.mark.parametrize("version", [2, 3])
def test_all_values(tmp_path: Path, version: int) -> None:
    writer = GGUFWriter(tmp_path / "v.gguf", "llama")
    for name, kind, value in SCALARS:
        writer.add_key_value(f"one.{name}", value, kind)
        writer.add_key_value(f"many.{name}", [value, value], GGUFValueType.ARRAY, sub_type=kind)
    writer.add_string("text", "grüße\n\u4f60\U0001f600")
    writer.add_key_value("text.empty", "", GGUFValueType.STRING)
    writer.add_array("texts", ["a", "", "ß\U0001f600"])
    path = _write(tmp_path / "v.gguf", writer)
    data = bytearray(path.read_bytes())
    data[4:8] = version.to_bytes(4, "little")  # versions 2 and 3 differ in nothing else
    path.write_bytes(data)

    with open_gguf(path) as f:
        assert f.version == version
        assert f.alignment == 32
        for name, _, value in SCALARS:
            got = f.metadata[f"one.{name}"]
            assert type(got) is type(value)
            assert got == value
            assert f.types[f"one.{name}"] == name
            many = f.metadata[f"many.{name}"]
            assert isinstance(many, np.ndarray)
            assert many.dtype == DTYPES[name]
            assert many.tolist() == [value, value]
            assert f.types[f"many.{name}"] == f"array[{name}]"
            with pytest.raises(ValueError):
                many[0] = many[1]
        assert f.metadata["text"] == "grüße\n\u4f60\U0001f600"
        assert f.metadata["text.empty"] == ""
        assert f.metadata["texts"] == ["a", "", "ß\U0001f600"]
        assert f.types["texts"] == "array[str]"


def test_bytes_that_are_not_utf8_are_not_lost(tmp_path: Path) -> None:
    raw = [b"\xff\xfe", b"ok", b"\xe4\xbd", b"\xed\xa0\x80"]
    path = tmp_path / "b.gguf"
    values = gb.array(gb.STRING, len(raw), b"".join(gb.text(s) for s in raw))
    path.write_bytes(gb.gguf([gb.pair("t", gb.ARRAY, values), gb.pair("s", gb.STRING, gb.text(raw[0]))]))
    with open_gguf(path) as f:
        assert [s.encode("utf-8", "surrogateescape") for s in f.get("t", list)] == raw
        assert f.get("s", str).encode("utf-8", "surrogateescape") == raw[0]


def test_empty_arrays(tmp_path: Path) -> None:
    path = tmp_path / "e.gguf"
    empty = [gb.pair("s", gb.ARRAY, gb.array(gb.STRING, 0)), gb.pair("n", gb.ARRAY, gb.array(gb.F32, 0))]
    path.write_bytes(gb.gguf([*empty, gb.pair("b", gb.ARRAY, gb.array(gb.BOOL, 0))]))
    with open_gguf(path) as f:
        assert f.get("s", list) == []
        assert f.get("n", np.ndarray).shape == (0,)
        assert f.get("b", np.ndarray).dtype == np.bool_


def test_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "n.gguf"
    path.write_bytes(gb.gguf(tensors=[], data=b"", alignment=1))
    with open_gguf(path) as f:
        assert f.tensors == {}
        assert f.nbytes == 0


@pytest.mark.parametrize("kind", blocks.BY_ID.values(), ids=lambda k: k.name)
def test_every_tensor_type(tmp_path: Path, rng: np.random.Generator, kind: blocks.BlockType) -> None:
    raw = rng.integers(0, 256, 3 * kind.row_bytes(512), dtype=np.uint8)
    path = tmp_path / "t.gguf"
    path.write_bytes(gb.gguf(tensors=[gb.tensor("x", (512, 3), kind.id)], data=raw.tobytes()))
    with open_gguf(path) as f:
        info = f.tensors["x"]
        assert (info.name, info.type, info.shape, info.nbytes) == ("x", kind.name, (3, 512), raw.nbytes)
        assert info.n_elements == 1536
        assert np.array_equal(f.raw("x"), raw)


def test_type_table_is_that_of_ggml() -> None:
    """Sizes as in the gguf package, but for q8_1, whose block in C is two halves and 32 bytes."""
    for kind in GGMLQuantizationType:
        ours = blocks.BY_ID[kind.value]
        assert ours.name == kind.name.lower()
        want = (32, 36) if kind.name == "Q8_1" else gguf.GGML_QUANT_SIZES[kind]
        assert (ours.weights, ours.nbytes) == want
    assert not set(blocks.REMOVED) & set(blocks.BY_ID)


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_tensors_and_alignment(tmp_path: Path, rng: np.random.Generator, alignment: int) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_custom_alignment(alignment)
    values = {
        "one": rng.standard_normal(5).astype(np.float32),
        "two": rng.standard_normal((3, 7)).astype(np.float16),
        "four": rng.standard_normal((2, 3, 4, 5)).astype(np.float32),
        "ints": rng.integers(-9, 9, (4, 3), dtype=np.int32),
    }
    for name, array in values.items():
        writer.add_tensor(name, array)
    quantised = gguf.quants.quantize(
        rng.standard_normal((4, 64)).astype(np.float32), GGMLQuantizationType.Q5_0
    )
    writer.add_tensor("quantised", quantised, raw_dtype=GGMLQuantizationType.Q5_0)
    with open_gguf(_write(tmp_path / "a.gguf", writer)) as f:
        assert f.alignment == alignment
        assert list(f.tensors) == [*values, "quantised"]
        for name, array in values.items():
            info = f.tensors[name]
            assert info.shape == array.shape
            assert info.offset % alignment == 0
            assert np.array_equal(f.raw(name).view(array.dtype).reshape(array.shape), array)
        assert f.tensors["quantised"].shape == (4, 64)
        assert f.tensors["quantised"].type == "q5_0"
        assert np.array_equal(f.raw("quantised"), quantised.reshape(-1))


def test_raw_is_a_read_only_view_that_outlives_the_file(tmp_path: Path) -> None:
    values = np.arange(20000, dtype=np.float32)
    f = open_gguf(_small(tmp_path / "r.gguf", a=values, b=values + 1))
    raw = f.raw("b")
    assert not raw.flags.writeable
    assert not raw.flags.owndata
    f.release("b")
    f.release("a")
    assert np.array_equal(raw.view("<f4"), values + 1)
    f.close()
    f.close()
    assert np.array_equal(raw.view("<f4"), values + 1)
    with pytest.raises(GGUFError, match="closed"):
        f.raw("a")
    with pytest.raises(GGUFError, match="closed"):
        f.release("a")


def test_release_gives_memory_back(tmp_path: Path) -> None:
    f = open_gguf(_small(tmp_path / "m.gguf", a=np.ones(8 << 20, np.float32)))
    f.raw("a").sum()
    before = _resident()
    f.release("a")
    assert before - _resident() > 24 << 20
    f.close()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_typed_get(tmp_path: Path) -> None:
    path = tmp_path / "g.gguf"
    pairs = [
        gb.pair("int", gb.U32, gb.u32(7)),
        gb.pair("true", gb.BOOL, b"\1"),
        gb.pair("text", gb.STRING, gb.text("x")),
        gb.pair("words", gb.ARRAY, gb.array(gb.STRING, 1, gb.text("w"))),
        gb.pair("numbers", gb.ARRAY, gb.array(gb.I32, 1, gb.u32(5))),
    ]
    path.write_bytes(gb.gguf(pairs))
    with open_gguf(path) as f:
        assert f.get("int", int) == 7
        as_float = f.get("int", float)
        assert (type(as_float), as_float) == (float, 7.0)
        assert f.get("true", bool) is True
        assert f.get("text", str) == "x"
        assert f.get("words", list) == ["w"]
        assert f.get("numbers", np.ndarray).tolist() == [5]
        assert f.get("absent", int, 3) == 3
        assert f.get("absent", int, None) is None
        assert f.get("int", int, 3) == 7
        with pytest.raises(GGUFError, match=r"g\.gguf: key 'absent': found no such key, expected .* integer"):
            f.get("absent", int)
        for key, kind in (("true", int), ("true", float), ("int", bool), ("int", str), ("text", int),
                          ("words", np.ndarray), ("numbers", list)):  # fmt: skip
            with pytest.raises(GGUFError, match=rf"g\.gguf: key '{key}': found type .*, expected type"):
                f.get(key, kind)
            with pytest.raises(GGUFError):
                f.get(key, kind, None)
        with pytest.raises(GGUFError, match="tensor 'output'"):
            f.raw("output")
        assert "5 keys" in repr(f)


def _split(folder: Path, n: int = 5) -> list[Path]:
    writer = GGUFWriter(folder / "model.gguf", "llama", split_max_tensors=2)
    writer.add_string("general.name", "split")
    for i in range(n):
        writer.add_tensor(f"t{i}", np.full((2, 32), i, np.float32))
    _write(folder / "model.gguf", writer)
    return sorted(folder.glob("*.gguf"))


def test_split_files(tmp_path: Path) -> None:
    files = _split(tmp_path)
    assert [p.name for p in files] == [f"model-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    for path in files:
        with open_gguf(path) as f:
            assert f.path == path
            assert f.parts == tuple(files)
            assert f.metadata["general.name"] == "split"
            assert list(f.tensors) == [f"t{i}" for i in range(5)]
            assert [t.part for t in f.tensors.values()] == [0, 0, 1, 1, 2]
            for i in range(5):
                assert (f.raw(f"t{i}").view("<f4") == i).all()
                f.release(f"t{i}")


def _rewrite(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_split_part_missing(tmp_path: Path) -> None:
    files = _split(tmp_path)
    files[1].unlink()
    with pytest.raises(GGUFError, match="model-00002-of-00003.gguf"):
        open_gguf(files[0])


def test_split_part_renamed(tmp_path: Path) -> None:
    files = _split(tmp_path)
    renamed = files[0].rename(tmp_path / "model.gguf")
    with pytest.raises(GGUFError, match="file name of a split model"):
        open_gguf(renamed)


def test_split_parts_exchanged(tmp_path: Path) -> None:
    files = _split(tmp_path)
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    with pytest.raises(GGUFError, match=r"split\.no"):
        open_gguf(files[0])
    with pytest.raises(GGUFError, match=r"split\.no"):
        open_gguf(files[2])


def test_split_counts_disagree(tmp_path: Path) -> None:
    key = gb.text("split.tensors.count") + gb.u32(gb.I32)
    files = _split(tmp_path)
    _rewrite(files[0], key + gb.u32(5), key + gb.u32(6))
    with pytest.raises(GGUFError, match=r"split\.tensors\.count.*found 6, expected 5"):
        open_gguf(files[1])
    key = gb.text("split.count") + gb.u32(gb.U16)
    files = _split(tmp_path)
    _rewrite(files[2], key + b"\3\0", key + b"\4\0")
    with pytest.raises(GGUFError, match=r"00003-of-00003.gguf: key 'split\.count'"):
        open_gguf(files[0])


def test_split_tensor_in_two_parts(tmp_path: Path) -> None:
    files = _split(tmp_path)
    _rewrite(files[1], gb.text("t3"), gb.text("t0"))
    with pytest.raises(GGUFError, match="tensor 't0'.*two parts"):
        open_gguf(files[0])


def test_split_count_absurd(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-99999.gguf"
    path.write_bytes(gb.gguf([gb.pair("split.count", gb.U32, gb.u32(99999))]))
    with pytest.raises(GGUFError, match=r"split\.count.*99999"):
        open_gguf(path)


def test_real_models_agree_with_the_gguf_package(reference_dir: Path) -> None:
    files = sorted((reference_dir / "models" / "stories260K").glob("*.gguf"))
    assert files
    for path in files:
        theirs = gguf.GGUFReader(path)
        with open_gguf(path) as f:
            assert list(f.tensors) == [t.name for t in theirs.tensors]
            for t in theirs.tensors:
                info = f.tensors[t.name]
                assert info.type == t.tensor_type.name.lower()
                assert info.shape == tuple(int(n) for n in reversed(t.shape))
                assert info.offset == t.data_offset
                assert np.array_equal(f.raw(t.name), t.data.reshape(-1).view(np.uint8))
            for key, field in theirs.fields.items():
                if not key.startswith("GGUF."):
                    want, got = field.contents(), f.metadata[key]
                    assert (got.tolist() if isinstance(got, np.ndarray) else got) == want, key


def test_real_vocabularies_open(reference_dir: Path) -> None:
    files = sorted((reference_dir / "tokenizer").glob("*.gguf"))
    assert files
    for path in files:
        with open_gguf(path) as f:
            tokens = f.get("tokenizer.ggml.tokens", list)
            assert len(tokens) == len(f.get("tokenizer.ggml.token_type", np.ndarray)) > 1000
            assert all(isinstance(t, str) for t in tokens)
