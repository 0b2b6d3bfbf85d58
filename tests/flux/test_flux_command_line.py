"""`python -m flux_vk.flux`: what each subcommand prints and writes, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flux_vk.cli.flux import commands, main
from flux_vk.flux import STOCK, assemble, stock

SOURCE = ".const R8 3\nMOVI R0, 5\nIADD R0, R8\nHALT\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mine.flx"
    path.write_text(SOURCE)
    return path


def said(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """Standard output of a command that ends with this code; one that fails on input has one line on the other."""
    assert main([str(a) for a in arguments]) == code
    found = capsys.readouterr()
    assert "Traceback" not in found.err and len(found.err.splitlines()) <= 2
    return found.out or found.err


def test_the_subcommands() -> None:
    names = [command.NAME for command in commands()]
    assert names[:6] == ["asm", "dis", "run", "check", "embed", "similarity"]
    assert all(command.HELP for command in commands())


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "flux_vk.flux", "--help"], capture_output=True, text=True, check=True)
    assert all(command.NAME in done.stdout for command in commands())


def test_asm(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, 0, "asm", source)
    assert "mine.bin: 9 bytes" in text and "neither .const nor .result" in text
    assert (tmp_path / "mine.bin").read_bytes() == assemble(SOURCE)
    assert said(capsys, 0, "asm", source, "--hex").strip() == assemble(SOURCE).hex()
    said(capsys, 0, "asm", source, "-o", tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == assemble(SOURCE)
    source.write_text("HALT\nHOLT\n")
    assert "mine.flx:2:1: unknown mnemonic 'HOLT'; did you mean HALT?" in said(capsys, 2, "asm", source)
    assert (tmp_path / "mine.bin").read_bytes() == assemble(SOURCE)  # the old file stays
    source.write_text(SOURCE)
    assert "choose another ending" in said(capsys, 2, "asm", source, "-o", tmp_path / "x.flx")
    assert "cannot be written" in said(capsys, 2, "asm", source, "-o", tmp_path / "no" / "x.bin")
    assert "expected a name that ends in .flx" in said(capsys, 2, "asm", tmp_path / "mine.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.bin", "mine.flx", "other"]


def test_dis(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, 0, "dis", source)
    assert assemble(text) == assemble(SOURCE) and ".const R8 3" in text and "R0 = R0 + R8" in text
    raw = tmp_path / "raw.bin"
    raw.write_bytes(stock("greedy").code)
    assert assemble(said(capsys, 0, "dis", raw)) == assemble(said(capsys, 0, "dis", "greedy"))
    assert "no such file, and no stock agent; agents are conservative" in said(capsys, 2, "dis", "greddy")
    assert "none.bin: No such file" in said(capsys, 2, "dis", tmp_path / "none.bin")


def test_run(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, 0, "run", source)
    assert "halted after 3 steps at offset 9" in text and "R8   3 " in text
    found = json.loads(said(capsys, 0, "run", source, "--json", "--set", "R8=0x10", "--set", "F1=0.5", "--trace"))
    assert (found["gp"][0], found["fp"][1], found["trap"], found["halted"]) == (21, 0.5, "NONE", True)
    assert [step["mnemonic"] for step in found["trace"]] == ["MOVI", "IADD", "HALT"]
    assert found["flags"] == {"Z": False, "S": False, "C": False, "O": False}
    assert found["score"] == 21 / 65536
    steps = said(capsys, 1, "run", source, "--max-steps", 2, "--trace")
    assert "trap STEP_LIMIT (6) after 2 steps at offset 8" in steps and "R0=8" in steps
    assert "the candidate's own logit counts" in steps
    source.write_text("IDIV R0, R1\n")
    trapped = said(capsys, 1, "run", source, "--trace")
    assert "trap DIVIDE_BY_ZERO (1) after 0 steps at offset 0" in trapped and "trap DIVIDE_BY_ZERO\n" in trapped
    source.write_text("FMUL F0, F0\n")
    infinite = json.loads(said(capsys, 0, "run", source, "--set", "F0=1e30", "--json"))
    assert infinite["fp"][0] == "inf"
    source.write_text('TELL "x"\n')
    assert "trap NOT_OFFERED" in said(capsys, 1, "run", source, "--memory", "gpu")


@pytest.mark.parametrize("setting", ["R16=1", "Q=3", "R0", "R0=x", "R0=0.5", "F0=x", "V0=1"])
def test_settings_that_make_no_sense(setting: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", str(source), "--set", setting])
    assert caught.value.code == 2 and f"argument --set: found '{setting}'" in capsys.readouterr().err


def test_a_setting_beyond_32_bits(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "R0 = 3000000000, expected a whole number" in said(capsys, 2, "run", source, "--set", "R0=3000000000")


def test_check(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, 0, "check", source).strip() == f"{source}: legal for the gpu (9 bytes, 3 instructions)"
    assert len(said(capsys, 0, "check", *STOCK).splitlines()) == len(STOCK)
    source.write_text('TELL "x"\nJMP 50\n')
    text = said(capsys, 2, "check", source, "greedy")
    assert "2 findings" in text and "offset 0, TELL" in text and "offset 4, JMP" in text and "greedy: legal" in text
    (found,) = json.loads(said(capsys, 2, "check", source, "--target", "host", "--json"))
    assert (found["ok"], [f["kind"] for f in found["findings"]]) == (False, ["target"])
    source.write_text("HALT\n.byte 255\n")
    assert "1 bytes of data" in said(capsys, 0, "check", source)


def test_embed(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, 0, "embed", source, "greedy")
    assert "MOVI" in text and "0.577350" in text and "greedy:" in text
    assert len(json.loads(said(capsys, 0, "embed", source, "--json"))[str(source)]) == 128
    said(capsys, 0, "embed", source, "greedy", "-o", tmp_path / "e.npy", "--json")
    assert np.load(tmp_path / "e.npy").shape == (2, 128)


def test_similarity(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(said(capsys, 0, "similarity").splitlines()) == len(STOCK) + 1
    found = json.loads(said(capsys, 0, "similarity", source, source, "--json"))
    assert np.allclose(found["similarity"], 1)
    pytest.importorskip("matplotlib")
    said(capsys, 0, "similarity", source, "greedy", "--plot", tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert "s.xyz" in said(capsys, 2, "similarity", source, "--plot", tmp_path / "s.xyz")
