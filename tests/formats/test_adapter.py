"""Adapters as files: both formats give back every bit, and what is broken or not supported is named."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flux_vk.errors import AdapterError
from flux_vk.formats.adapter import (
    PEFT_NAMES,
    Adapter,
    LoraPair,
    gguf_part,
    read_adapter,
    write_gguf_adapter,
    write_peft,
)
from flux_vk.formats.adapter_gguf import write_gguf_adapter as write_gguf_as
from flux_vk.formats.adapter_peft import to_gguf_rows, to_peft_rows
from flux_vk.formats.gguf import open_gguf
from flux_vk.formats.gguf_writer import TensorOut, Value, write_gguf
from tests.formats.adapter_data import (
    CONFIG,
    HEADS,
    assert_same,
    peft_folder,
    q_tensors,
    random_adapter,
    random_pair,
    safetensors_bytes,
)

pytest.importorskip("safetensors")


@pytest.mark.parametrize("arch", sorted(PEFT_NAMES))
def test_both_formats_give_back_every_bit(arch: str, tmp_path: Path, rng: np.random.Generator) -> None:
    adapter = random_adapter(rng, arch, rank=3, alpha=6.5, rslora=True, dropout=0.1, name="a", base_model="x/y")
    write_peft(adapter, tmp_path / "peft", HEADS)
    assert_same(read_adapter(tmp_path / "peft"), adapter)
    write_gguf_adapter(read_adapter(tmp_path / "peft"), tmp_path / "a.gguf")
    assert_same(read_adapter(tmp_path / "a.gguf"), adapter)
    write_peft(read_adapter(tmp_path / "a.gguf"), tmp_path / "again", HEADS)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "peft" / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "again", "peft"]


def test_a_bare_file_written_here_needs_no_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    adapter = random_adapter(rng, alpha=3.0)
    write_peft(adapter, tmp_path / "p", HEADS)
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((tmp_path / "p" / "adapter_model.safetensors").read_bytes())
    assert_same(read_adapter(bare), adapter)
    bare.write_bytes(safetensors_bytes(q_tensors()))
    with pytest.raises(AdapterError, match="adapter_config.json: No such file"):
        read_adapter(bare, HEADS, arch="llama")
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    assert read_adapter(bare, HEADS, arch="llama").scale("blk.0.attn_q.weight") == 2.0


@pytest.mark.parametrize(("kind", "digits"), [("F16", 11), ("BF16", 8)])
def test_half_floats_are_widened_exactly(kind: str, digits: int, tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.standard_normal((4, 24), np.float32)
    step = np.float32(2.0) ** (np.floor(np.log2(np.abs(values))) - (digits - 1))
    values = (np.round(values / step) * step).astype(np.float32)  # what the type can hold
    stored = values.astype(np.float16) if kind == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)
    tensors = q_tensors() | {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (kind, stored)}
    found = read_adapter(peft_folder(tmp_path, tensors), HEADS, arch="qwen2")
    assert found.tensors["blk.0.attn_q.weight"].a.tobytes() == values.tobytes()


def test_rows_of_q_and_k_change_order_for_llama_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    """As llama.cpp's converter reorders the weight itself: W + s B A stays the same matrix."""
    weight = rng.standard_normal((32, 24))
    permuted = weight.reshape(4, 2, 4, 24).swapaxes(1, 2).reshape(32, 24)  # convert_hf_to_gguf.py, LlamaModel.permute
    np.testing.assert_array_equal(to_gguf_rows(weight, 4), permuted)
    np.testing.assert_array_equal(to_peft_rows(permuted, 4), weight)
    b = rng.standard_normal((32, 4), np.float32)
    name = "base_model.model.model.layers.0.self_attn.{}.lora_B.weight"
    for module, part, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2), ("v_proj", "attn_v", 0)):
        tensors = q_tensors(module=f"self_attn.{module}") | {name.format(module): ("F32", b)}
        folder = peft_folder(tmp_path / module, tensors)
        for arch in PEFT_NAMES:
            if arch == "phi3":
                continue
            found = read_adapter(folder, HEADS, arch=arch).tensors[f"blk.0.{part}.weight"].b
            np.testing.assert_array_equal(found, to_gguf_rows(b, heads) if heads and arch == "llama" else b)


def test_rslora_and_alphas_of_their_own_become_scales(tmp_path: Path, rng: np.random.Generator) -> None:
    """GGUF has alpha / rank alone: s B A must stay what it was for every tensor."""
    ranks = (2, 8, 8)
    pairs = {f"blk.{i}.attn_v.weight": random_pair(rng, (16, 24), r) for i, r in enumerate(ranks)}
    adapter = Adapter("qwen2", 5.0, pairs, rslora=True, alphas={"blk.1.attn_v.weight": 7.0})
    assert adapter.scale("blk.0.attn_v.weight") == 5 / math.sqrt(2)
    assert adapter.scale("blk.1.attn_v.weight") == 7 / math.sqrt(8)
    write_gguf_adapter(adapter, tmp_path / "a.gguf")
    found = read_adapter(tmp_path / "a.gguf")
    with open_gguf(tmp_path / "a.gguf") as f:
        alpha = f.get("adapter.lora.alpha", float)  # what llama.cpp goes by
    for name, pair in pairs.items():
        want = adapter.scale(name) * (pair.b.astype(np.float64) @ pair.a)
        got = found.tensors[name]
        assert found.scale(name) == alpha / pair.rank
        np.testing.assert_allclose(alpha / pair.rank * (got.b.astype(np.float64) @ got.a), want, rtol=1e-5, atol=1e-6)
    write_peft(adapter, tmp_path / "p")
    keys = json.loads((tmp_path / "p" / "adapter_config.json").read_text())
    assert keys["rank_pattern"] == {"model.layers.0.self_attn.v_proj": 2}
    assert keys["alpha_pattern"] == {"model.layers.1.self_attn.v_proj": 7} and keys["use_rslora"] is True
    assert_same(read_adapter(tmp_path / "p"), adapter)


def test_alpha_that_is_zero_or_absent_means_scale_one(tmp_path: Path) -> None:
    keys = {"general.architecture": Value("str", "llama"), "general.type": Value("str", "adapter")}
    keys["adapter.type"] = Value("str", "lora")
    outs = []
    for i, rank in enumerate((2, 4)):
        outs.append(TensorOut(f"blk.{i}.attn_v.weight.lora_a", "f16", (rank, 8), np.ones((rank, 8), np.float16)))
        outs.append(TensorOut(f"blk.{i}.attn_v.weight.lora_b", "f32", (6, rank), np.ones((6, rank), np.float32)))
    for more in ({}, {"adapter.lora.alpha": Value("f32", 0.0)}):
        write_gguf(tmp_path / "a.gguf", keys | more, outs)
        found = read_adapter(tmp_path / "a.gguf")
        assert [found.scale(name) for name in found.tensors] == [1.0, 1.0]
    write_gguf(tmp_path / "a.gguf", keys | {"adapter.lora.alpha": Value("f32", 3.0)}, outs)
    assert [read_adapter(tmp_path / "a.gguf").scale(f"blk.{i}.attn_v.weight") for i in (0, 1)] == [1.5, 0.75]


def test_what_llama_cpp_looks_for(tmp_path: Path, rng: np.random.Generator) -> None:
    adapter = random_adapter(rng, rank=4, alpha=8.0, base_model="b")
    write_gguf_as(adapter, tmp_path / "a.gguf", "f16")
    with open_gguf(tmp_path / "a.gguf") as f:
        found = {key: f.metadata[key] for key in ("general.type", "general.architecture", "adapter.type")}
        assert found == {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
        assert f.get("adapter.lora.alpha", float) == 8.0 and f.types["adapter.lora.alpha"] == "f32"
        info = f.tensor("blk.1.ffn_down.weight.lora_a")
        assert (info.type, info.shape) == ("f16", (4, 40))
    pair = LoraPair(np.full((1, 4), 7e4, np.float32), np.ones((4, 1), np.float32))
    big = Adapter("llama", 1.0, {"blk.0.attn_v.weight": pair})
    with pytest.raises(AdapterError, match="lora_a: numbers beyond 65504"):
        write_gguf_as(big, tmp_path / "b.gguf", "f16")
    with pytest.raises(AdapterError, match="no architecture"):
        write_gguf_adapter(replace(big, arch=""), tmp_path / "b.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"]


def test_target_names(rng: np.random.Generator, tmp_path: Path) -> None:
    def targets(*weights: str) -> list[str]:
        pairs = {f"{w}.weight": random_pair(rng, (16, 24), 2) for w in weights}
        write_peft(Adapter("qwen2", 1.0, pairs), tmp_path / "p")
        found: list[str] = json.loads((tmp_path / "p" / "adapter_config.json").read_text())["target_modules"]
        return found

    both = [f"blk.{i}.{part}" for part in ("ffn_up", "attn_q") for i in (1, 0)]
    assert targets("output", *both) == ["q_proj", "up_proj", "lm_head"]
    assert targets("blk.1.attn_q") == ["model.layers.1.self_attn.q_proj"]
    assert gguf_part("phi3", "gate_up_proj") == "ffn_up" and gguf_part("", "up_proj") == "ffn_up"
    with pytest.raises(AdapterError, match="target 'q_proj': phi3 has no such linear layer; expected one of qkv_proj"):
        gguf_part("phi3", "q_proj")
    with pytest.raises(AdapterError, match="tensor blk.0.attn_norm.weight: PEFT's qwen2 has no name for it"):
        targets("blk.0.attn_norm")


def test_facts(rng: np.random.Generator) -> None:
    adapter = random_adapter(rng, rank=4, layers=1)
    assert adapter.rank == 4 and adapter.nbytes == 4 * adapter.parameters
    assert adapter.parameters == sum(4 * (o + i) for o, i in (p.shape for p in adapter.tensors.values()))
    with pytest.raises(TypeError):
        adapter.tensors["x"] = adapter.tensors["blk.0.attn_q.weight"]  # type: ignore[index]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(AdapterError, match=re.escape("pip install 'flux_vk[train]'")):
        read_adapter(folder, HEADS, arch="llama")


def test_a_real_adapter_of_mlx(reference_dir: Path) -> None:
    """ollama's test adapter against ollama's own conversion (float16). MLX keeps both factors transposed.

    Of q that conversion reorders the columns of A (its input) and leaves the rows of B (heads), as nobody else does:
    llama.cpp's converter reorders rows of B, which is what a permuted W asks for. So q is compared with that undone.
    """
    folder = reference_dir / "lora" / "ollama-discollama"
    want = json.loads((folder / "discollama.json").read_text())
    found = read_adapter(folder, (32, 8), arch="llama")
    assert found.rank == 8 and found.alpha == float(want["adapter.lora.alpha"])
    assert found.parameters == int(want["general.parameter_count"])
    seen = 0
    for name, pair in found.tensors.items():
        a, b = pair.a, pair.b
        if "attn_q" in name:
            a, b = to_gguf_rows(np.ascontiguousarray(a.T), 32).T, to_peft_rows(b, 32)
        for half, values in (("lora_a", a), ("lora_b", b)):
            digest = hashlib.sha256(np.ascontiguousarray(values, np.float16).tobytes()).hexdigest()
            assert digest == want[f"{name}.{half}"], (name, half)
            seen += 1
    assert seen == 8
