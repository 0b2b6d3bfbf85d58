"""The command line of quantize: what it prints, what it writes, its exit statuses."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import flux_vk as fx
from flux_vk.cli.quantize import main
from flux_vk.formats.gguf import open_gguf


def test_dry_run_lists_the_types(demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b.gguf"
    assert main([str(demo_model), str(out), "-t", "Q5_K_M", "--dry-run"]) == 0
    text, err = capsys.readouterr()
    assert err == "" and not out.exists()
    assert "blk.0.attn_v.weight" in text and "q6_k" in text and "5.6 MB (8.51 bits a weight) ->" in text


def test_writing(demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b.gguf"
    argv = [str(demo_model), str(out), "--type", "q8_0"]
    assert main(argv) == 0
    text, err = capsys.readouterr()
    assert text == "" and "bits a weight" in err and "43 q8_0, 13 f32" in err
    assert main(argv) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert main([*argv, "--force", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.kernel
def test_requantising_warns(demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(demo_model), str(tmp_path / "b.gguf"), "-t", "q4_0", "--output-type", "F16"]
    assert main(argv) == 2
    assert "--allow-requantize" in capsys.readouterr().err
    assert main([*argv, "--allow-requantize"]) == 0
    assert "warning: 43 tensors are quantised already" in capsys.readouterr().err
    with open_gguf(tmp_path / "b.gguf") as f:
        assert f.tensors["token_embd.weight"].type == "f16" and f.tensors["blk.0.attn_q.weight"].type == "q4_0"


@pytest.mark.parametrize("argv", [["a.gguf"], ["no.gguf", "b.gguf"], ["no.gguf", "b.gguf", "-t", "q7"]])
def test_bad_input(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(argv)
    except SystemExit as end:
        code = end.code
    assert code == 2 and capsys.readouterr().err.count("\n") == 1


def test_the_module_can_be_called_like_the_function(demo_model: Path, tmp_path: Path) -> None:
    """Importing what `python -m` runs puts the module where the function was."""
    module = importlib.import_module("flux_vk.quantize")
    for i, function in enumerate((fx.quantize, module)):
        assert function(demo_model, tmp_path / f"{i}.gguf", "q8_0").counts == {"q8_0": 43, "f32": 13}
