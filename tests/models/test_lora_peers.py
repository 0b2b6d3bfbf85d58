"""Files written here do in PEFT and in llama.cpp what they do here; stored numbers stand in where those are absent."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flux_vk as fx
from flux_vk.formats.adapter import Adapter, LoraPair, read_adapter, write_gguf_adapter
from flux_vk.formats.adapter_peft import to_gguf_rows
from flux_vk.gpu import Device
from tests.formats.adapter_data import assert_same
from tests.models.lora_models import ARCHITECTURES, adapter_for
from tests.models.lora_peers import GOLDEN, IDS, SCALES, TOKENS, llama_cpp, make, peft_logits

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


def greedy(model: fx.Model) -> list[int]:
    never_ending = fx.SamplingParams(temperature=0, logit_bias={2: -math.inf})
    return [token.id for token in model.start(IDS, never_ending, max_tokens=TOKENS)]


@pytest.mark.kernel
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_stored_numbers(device: Device, golden: dict[str, Any], arch: str, tmp_path: Path) -> None:
    """PEFT's logits and llama.cpp's greedy tokens, through the PEFT folder and the GGUF file that those were given."""
    make(tmp_path, arch)
    want = np.array(golden[arch]["logits"])
    with fx.load(tmp_path / "model.gguf", device, kv_type="f32", sequences=1, lora=tmp_path / "peft") as m:
        np.testing.assert_allclose(m.logits(IDS)[-1], want, atol=2e-4)
    for scale in SCALES:
        lora = f"{tmp_path / 'lora.gguf'}:{scale}"
        with fx.load(tmp_path / "model.gguf", device, kv_type="f32", sequences=1, lora=lora) as m:
            assert greedy(m) == golden[arch]["greedy"][str(scale)]
    with fx.load(tmp_path / "model.gguf", device, kv_type="f32", sequences=1) as m:
        assert np.abs(m.logits(IDS)[-1] - want).max() > 0.5


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_peft_loads_the_folder(device: Device, arch: str, tmp_path: Path) -> None:
    for package in ("torch", "transformers", "peft"):
        pytest.importorskip(package)
    cfg, adapter = make(tmp_path, arch)
    want = peft_logits(tmp_path, cfg)
    with fx.load(tmp_path / "model.gguf", device, kv_type="f32", sequences=1, lora=adapter) as m:
        np.testing.assert_allclose(m.logits(IDS), want, atol=2e-4)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_folder_that_peft_wrote(arch_model: tuple[Path, Any], rslora: bool) -> None:
    """Trained-looking factors saved by PEFT itself, with ranks and alphas of their own, read back to the last bit."""
    folder, cfg = arch_model
    adapter = saved_by_peft(folder / f"theirs {rslora}", rslora)
    found = read_adapter(folder / f"theirs {rslora}", (cfg.n_heads, cfg.n_kv_heads), arch="llama")
    assert_same(found, adapter)


@pytest.fixture
def arch_model(tmp_path: Path) -> tuple[Path, Any]:
    for package in ("torch", "transformers", "peft"):
        pytest.importorskip(package)
    return tmp_path, make(tmp_path, "llama")[0]


def saved_by_peft(folder: Path, rslora: bool) -> Adapter:
    """Lets PEFT make, fill and save an adapter; the same as we should read it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )
    )  # fmt: skip
    config = LoraConfig(
        r=4, lora_alpha=6, lora_dropout=0.25, use_rslora=rslora, target_modules=["q_proj", "v_proj", "lm_head"],
        rank_pattern={"layers.1.self_attn.v_proj": 2}, alpha_pattern={"model.layers.0.self_attn.q_proj": 5},
        task_type="CAUSAL_LM",
    )  # fmt: skip
    peft = get_peft_model(model, config)
    state = peft.state_dict()
    with torch.no_grad():
        for name, values in state.items():
            if "lora_" in name:
                values.normal_()
    peft.save_pretrained(str(folder), save_embedding_layers=False)

    def pair(module: str, heads: int = 0) -> LoraPair:
        a, b = (state[f"base_model.model.{module}.lora_{half}.default.weight"].numpy().copy() for half in "AB")
        return LoraPair(a, to_gguf_rows(b, heads) if heads else b)

    tensors = {"output.weight": pair("lm_head")}
    for i in (0, 1):
        tensors[f"blk.{i}.attn_q.weight"] = pair(f"model.layers.{i}.self_attn.q_proj", 4)
        tensors[f"blk.{i}.attn_v.weight"] = pair(f"model.layers.{i}.self_attn.v_proj")
    return Adapter("llama", 6.0, tensors, rslora, 0.25, alphas={"blk.0.attn_q.weight": 5.0})


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_llama_cpp_loads_the_file(device: Device, arch: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    _, adapter = make(tmp_path, arch)
    for scale in SCALES:
        tokens, logprobs = llama_cpp(tmp_path, scale)
        with fx.load(tmp_path / "model.gguf", device, kv_type="f32", sequences=1, lora=(adapter, scale)) as m:
            assert greedy(m) == tokens
            mine = m.logits(IDS)[-1].astype(np.float64)
        mine -= np.log(np.exp(mine - mine.max()).sum()) + mine.max()
        # its attention rounds to 16 bits
        assert max(abs(mine[i] - logprob) for i, logprob in logprobs.items()) < 0.02


def test_llama_cpp_and_scales_that_gguf_cannot_state(device: Device, tmp_path: Path) -> None:
    """rsLoRA with one rank goes into alpha."""
    pytest.importorskip("xllamacpp")
    cfg, _ = make(tmp_path, "qwen2")
    adapter = adapter_for(cfg, rank=5, alpha=3.0, rslora=True)
    write_gguf_adapter(adapter, tmp_path / "rs.gguf")
    tokens, _ = llama_cpp(tmp_path, 1.0, "rs.gguf")
    with fx.load(tmp_path / "model.gguf", device, kv_type="f32", sequences=1, lora=adapter) as m:
        assert greedy(m) == tokens
