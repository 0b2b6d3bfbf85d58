"""What info tells of adapters: facts of both formats, also where the file does not say for which architecture it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk import info
from flux_vk.formats.adapter import write_gguf_adapter, write_peft
from tests.formats.adapter_data import HEADS, peft_folder, q_tensors, random_adapter

pytest.importorskip("safetensors")


def told(capsys: pytest.CaptureFixture[str], path: Path) -> dict[str, Any]:
    assert info.main([str(path), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["adapter"]
    return found


def test_both_formats(tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = random_adapter(rng, rank=4, alpha=6.0, rslora=True, name="n", base_model="b")
    write_peft(adapter, tmp_path / "p", HEADS)
    write_gguf_adapter(adapter, tmp_path / "a.gguf")
    folder, file = told(capsys, tmp_path / "p"), told(capsys, tmp_path / "a.gguf")
    assert (folder.pop("format"), file.pop("format")) == ("safetensors", "GGUF")
    assert folder.pop("path") != file.pop("path")
    order = {t["part"]: t for t in folder.pop("tensors")}
    assert order == {t["part"]: t for t in file.pop("tensors")}
    assert folder == file
    assert order["attn_k"] == {"part": "attn_k", "count": 2, "shape": [16, 24], "ranks": [4], "scales": [3.0]}
    assert file["architecture"] == "llama" and file["layers"] == [0, 1] and file["rslora"] is True
    assert file["parameters"] == adapter.parameters and file["device_bytes"] == adapter.nbytes
    assert info.main([str(tmp_path / "p")]) == 0
    text = capsys.readouterr().out
    assert "4, 6; scale alpha / sqrt(rank), rsLoRA" in text and "2: 0 to 1" in text


def test_a_folder_of_peft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, peft_folder(tmp_path / "p", q_tensors(layers=(3, 7))))
    assert found["architecture"] is None and found["layers"] == [3, 7]
    assert info.main([str(tmp_path / "p")]) == 0
    assert "not stated" in capsys.readouterr().out


def test_places_that_hold_no_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 16)
    for path, message in ((tmp_path, "no adapter_model.safetensors"), (tmp_path / "a.safetensors", "a.safetensors: ")):
        assert info.main([str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("flux_vk: ") and err.count("\n") == 1 and message in err
