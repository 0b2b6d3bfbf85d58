"""Broken GGUF files: each is refused with a GGUFError that names the thing, found, expected, what to do."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import gguf_bytes as gb
import pytest
from gguf_bytes import ARCH, array, gguf, pair, tensor, text, u32, u64

from flux_vk.errors import GGUFError
from flux_vk.formats.gguf import open_gguf

HUGE = 2**64 - 1
GOOD = gguf()
CASES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["0 bytes", "24 bytes"]),
    "short": (GOOD[:20], ["20 bytes"]),
    "zip": (b"PK\x03\x04" + GOOD[4:], ["magic", "not a GGUF file"]),
    "magic reversed": (gguf(magic=b"FUGG"), ["big-endian"]),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + GOOD[8:], ["big-endian", "little-endian"]),
    "version 0": (gguf(version=0), ["version", "found 0"]),
    "version 1": (gguf(version=1), ["version", "found 1", "converter"]),
    "version 4": (gguf(version=4), ["version", "found 4", "2 or 3", "update"]),
    "tensors huge": (gguf(n_tensors=HUGE), ["number of tensors", str(HUGE)]),
    "keys huge": (gguf(n_pairs=HUGE), ["number of metadata keys", str(HUGE)]),
    "keys one too many": (gguf(n_pairs=3), ["file"]),
    "key length max": (gguf([u64(HUGE) + bytes(64)]), ["metadata key number 0", str(HUGE)]),
    "key empty": (gguf([pair("", gb.U8, b"\1")]), ["metadata key number 0", "empty name"]),
    "key not utf-8": (gguf([pair(b"\xff\xfe", gb.U8, b"\1")]), ["UTF-8"]),
    "key twice": (gguf([ARCH, ARCH]), ["general.architecture", "twice"]),
    "value type 13": (gguf([pair("a", 13, bytes(8))]), ["key 'a'", "value type 13"]),
    "value type -1": (gguf([pair("a", 2**32 - 1, bytes(8))]), ["key 'a'", "4294967295"]),
    "bool 2": (gguf([pair("a", gb.BOOL, b"\2")]), ["key 'a'", "bool"]),
    "bool array 2": (gguf([pair("a", gb.ARRAY, array(gb.BOOL, 3, b"\0\1\2"))]), ["key 'a'", "bool"]),
    "string past end": (gguf([pair("a", gb.STRING, u64(10**6) + b"x")]), ["key 'a'", "1000000 more bytes"]),
    "string absurd": (gguf([pair("a", gb.STRING, u64(2**63))]), ["key 'a'", str(2**63)]),
    "array wraps": (gguf([pair("a", gb.ARRAY, array(gb.U64, 2**61))]), ["key 'a'", str(2**61)]),
    "array past end": (gguf([pair("a", gb.ARRAY, array(gb.F32, 100))], data=b""), ["key 'a'", "found 100"]),
    "array of arrays": (gguf([pair("a", gb.ARRAY, array(gb.ARRAY, 1))]), ["key 'a'", "array of arrays"]),
    "array type 99": (gguf([pair("a", gb.ARRAY, array(99, 0))]), ["key 'a'", "value type 99"]),
    "strings past end": (
        gguf([pair("a", gb.ARRAY, array(gb.STRING, 2, text("x") + u64(HUGE)))]),
        ["string 1 of key 'a'", str(HUGE)],
    ),
    "strings cut": (
        gguf([pair("a", gb.ARRAY, array(gb.STRING, 2, text("y" * 9)))], [], b"", alignment=1),
        ["string 1 of key 'a'"],
    ),
    "name empty": (gguf(tensors=[tensor("")]), ["tensor number 0", "empty name"]),
    "name long": (gguf(tensors=[tensor("n" * 64)]), ["tensor number 0", "64 bytes"]),
    "name twice": (gguf(tensors=[tensor(), tensor(offset=128)], data=bytes(256)), ["tensor 't'", "twice"]),
    "no dims": (gguf(tensors=[tensor(dims=())]), ["tensor 't'", "0 dimensions"]),
    "five dims": (gguf(tensors=[tensor(dims=(32, 1, 1, 1, 1))]), ["tensor 't'", "5 dimensions"]),
    "dims huge": (gguf(tensors=[tensor(n_dims=2**32 - 1)]), ["tensor 't'", "4294967295 dimensions"]),
    "dim zero": (gguf(tensors=[tensor(dims=(32, 0))]), ["tensor 't'", "dimension of 0"]),
    "product wraps": (gguf(tensors=[tensor(dims=(2**32, 2**32))]), ["tensor 't'", "elements"]),
    "bytes wrap": (gguf(tensors=[tensor(dims=(2**62 + 32,))]), ["tensor 't'"]),
    "row not blocks": (
        gguf(tensors=[tensor(dims=(48, 2), kind=8)]),
        ["tensor 't'", "rows of 48", "q8_0", "32"],
    ),
    "k-quant row 896": (gguf(tensors=[tensor(dims=(896,), kind=12)]), ["rows of 896", "q4_k", "256"]),
    "type removed": (gguf(tensors=[tensor(kind=31)]), ["tensor 't'", "tensor type 31", "q4_0_4_4"]),
    "type unknown": (gguf(tensors=[tensor(kind=99)]), ["tensor 't'", "tensor type 99"]),
    "offset odd": (
        gguf(tensors=[tensor(offset=4)], data=bytes(256)),
        ["tensor 't'", "offset 4", "alignment 32"],
    ),
    "offset past end": (gguf(tensors=[tensor(offset=2**20)]), ["tensor 't'", "inside the file"]),
    "offset wraps": (gguf(tensors=[tensor(offset=2**64 - 128)]), ["tensor 't'", "inside the file"]),
    "data cut": (GOOD[:-1], ["tensor 't'", "inside the file", "cut short"]),
    "overlap": (
        gguf(tensors=[tensor("a", (64,)), tensor("b", (32,), 0, 128)], data=bytes(256)),
        ["tensor 'b'", "inside 'a'"],
    ),
}  # fmt: skip
for _bad in (0, 1, 4, 12, 2**31):
    _pairs = [ARCH, pair("general.alignment", gb.U32, u32(_bad))]
    CASES[f"alignment {_bad}"] = (gguf(_pairs), ["general.alignment", f"found {_bad}", "power of two"])
CASES["alignment u64"] = (
    gguf([pair("general.alignment", gb.U64, u64(32))]),
    ["general.alignment", "type u64"],
)


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, tmp_path: Path) -> None:
    data, words = CASES[name]
    path = tmp_path / "case.gguf"
    path.write_bytes(data)
    with pytest.raises(GGUFError) as caught:
        open_gguf(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "found" in message and "expected" in message and ";" in message
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_the_good_file_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(GOOD)
    with open_gguf(path) as f:
        assert f.metadata == {"general.architecture": "llama"}
        assert f.tensors["t"].shape == (32,)


def test_every_cut_of_a_good_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    for n in range(len(GOOD)):
        path.write_bytes(GOOD[:n])
        with pytest.raises(GGUFError):
            open_gguf(path)


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="No such file"):
        open_gguf(tmp_path / "absent.gguf")
    with pytest.raises(GGUFError, match="directory"):
        open_gguf(tmp_path)
    with pytest.raises(GGUFError, match="null (byte|character)"):
        open_gguf("a\0b")
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(GGUFError, match="not a regular file"):
        open_gguf(pipe)


def test_reference_verdicts(reference_dir: Path, tmp_path: Path) -> None:
    """Every file and every patch of the collection of malformed files: as its index says."""
    folder = reference_dir / "gguf-malformed"
    wrong = []
    for entry in json.loads((folder / "index.json").read_text()):
        name, expect = entry.get("file") or entry["name"], entry["expect"]
        path = folder / name
        if "base" in entry:
            path = tmp_path / "patched.gguf"
            path.write_bytes(_patched((folder / entry["base"]).read_bytes(), entry))
        accept = (
            expect == "accept"
            or "container accept" in expect
            or expect in ("model reject", "tokenizer reject")
        )
        try:
            open_gguf(path).close()
            accepted = True
        except GGUFError:
            accepted = False
        if accepted != accept:
            wrong.append(f"{name}: {'accepted' if accepted else 'refused'}, the index says {expect!r}")
    assert not wrong


def _patched(base: bytes, entry: dict[str, object]) -> bytes:
    cut = entry.get("truncate_at")
    if isinstance(cut, int):
        return base[:cut]
    at = entry["patch_offset"]
    assert isinstance(at, int)
    new, old = bytes.fromhex(str(entry["patch_hex"])), bytes.fromhex(str(entry["old_hex"]))
    assert base[at : at + len(old)] == old, "the patch was made for another file"
    return base[:at] + new + base[at + len(new) :]
