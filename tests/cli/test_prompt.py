"""Prompts from options, files and standard input; files that are no prompt."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from flux_vk.cli import prompt as prompts
from flux_vk.cli.options import MAX_PROMPT_BYTES, RunOptions
from flux_vk.cli.prompt import read_prompt
from flux_vk.errors import InputError


def read(file: str) -> str:
    return read_prompt(RunOptions(Path("m.gguf"), file=file))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"one line\n", "one line"),
        (b"two\nlines\n\n", "two\nlines\n"),
        (b"no end", "no end"),
        (b"dos\r\nlines\r\n", "dos\nlines"),
        (b"\xef\xbb\xbfmarked", "marked"),
        ("Größe 水\n".encode(), "Größe 水"),
    ],
)
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, text: str) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(data)
    assert read(str(path)) == text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read("-") == text


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "no text"), (b"\n", "no text"), (b"caf\xe9", "byte 3"), (b"x" * (MAX_PROMPT_BYTES + 1), "bytes")],
)
def test_no_prompt(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said) as error:
        read(str(path))
    assert str(path) in str(error.value)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="directory"):
        read(str(tmp_path))
    with pytest.raises(InputError, match="No such file"):
        read(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="cannot be read"):
        read("a\0b")
    locked = tmp_path / "locked"
    locked.write_text("x")
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root reads everything
        with pytest.raises(InputError, match="Permission denied"):
            read(str(locked))


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(InputError, match="more than"):
        read("/dev/zero")


def test_empty_option() -> None:
    with pytest.raises(InputError, match="-p"):
        read_prompt(RunOptions(Path("m.gguf"), prompt=""))


def test_opening() -> None:
    assert prompts.opening(RunOptions(Path("m"), system="Be brief.")) == [{"role": "system", "content": "Be brief."}]
    assert prompts.opening(RunOptions(Path("m"))) == []
