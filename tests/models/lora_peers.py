"""The same tiny models and adapters in PEFT (on transformers) and in llama.cpp (xllamacpp), where these are installed.

`python -m tests.models.lora_peers` writes lora_golden.json, which tests use where they are not.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.formats.adapter import Adapter, write_gguf_adapter, write_peft
from flux_vk.formats.adapter_peft import to_peft_rows
from flux_vk.models import ModelConfig
from tests.models.lora_models import ARCHITECTURES, F32, adapter_for, weights_of, write_tiny

GOLDEN = Path(__file__).with_name("lora_golden.json")
IDS = list(range(5, 60, 2))
TOKENS = 20
SCALES = (1.0, 0.5)


def make(folder: Path, arch: str) -> tuple[ModelConfig, Adapter]:
    """model.gguf, lora.gguf and the folder peft; what is in them."""
    cfg = write_tiny(folder / "model.gguf", arch)
    adapter = adapter_for(cfg, rank=6, alpha=9.0)
    write_gguf_adapter(adapter, folder / "lora.gguf")
    write_peft(adapter, folder / "peft", (cfg.n_heads, cfg.n_kv_heads))
    return cfg, adapter


def peft_logits(folder: Path, cfg: ModelConfig) -> npt.NDArray[np.float64]:
    """Logits after each of IDS, with the PEFT folder on a transformers model of the GGUF file's weights."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**_hf_keys(cfg)), attn_implementation="eager")
    weights = _hf_state(cfg, weights_of(folder / "model.gguf"))
    state = {name: torch.from_numpy(values) for name, values in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    adapted = PeftModel.from_pretrained(model.float().eval(), str(folder / "peft"))
    with torch.no_grad():
        return np.asarray(adapted(torch.tensor([IDS])).logits[0].double().numpy())


def _hf_keys(cfg: ModelConfig) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    keys: dict[str, Any] = {
        "model_type": {"gemma3": "gemma3_text"}.get(cfg.arch, cfg.arch), "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.dim, "intermediate_size": cfg.ffn_dim, "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": cfg.n_heads, "num_key_value_heads": cfg.n_kv_heads, "head_dim": cfg.head_dim,
        "rms_norm_eps": cfg.norm_eps, "rope_parameters": rope, "tie_word_embeddings": cfg.tied,
        "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if cfg.arch == "llama":
        keys |= {"attention_bias": True, "mlp_bias": True}
    if cfg.arch.startswith("gemma"):
        kinds = ["sliding_attention" if layer.window else "full_attention" for layer in cfg.layers]
        keys |= {"query_pre_attn_scalar": cfg.head_dim, "sliding_window": 8, "layer_types": kinds}
    if cfg.arch == "gemma3":
        keys["rope_parameters"] = {"full_attention": rope, "sliding_attention": rope}
    return keys


_HF_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_GEMMA = {
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def _hf_state(cfg: ModelConfig, weights: Mapping[str, F32]) -> dict[str, F32]:
    """transformers' names and order of rows; gemma's norms are stored without the 1."""
    gemma = cfg.arch.startswith("gemma")
    names = _HF_NAMES | (_GEMMA if gemma else {}) | ({"ffn_up": "mlp.gate_up_proj"} if cfg.arch == "phi3" else {})
    state = {}
    for name, values in weights.items():
        *place, part, ending = name.split(".")
        if cfg.arch == "llama" and part in ("attn_q", "attn_k"):
            values = to_peft_rows(values, cfg.n_heads if part == "attn_q" else cfg.n_kv_heads)
        if gemma and "norm" in part:
            values = values - 1
        state[f"model.layers.{place[1]}.{names[part]}.{ending}" if place else f"{_TOP[part]}.{ending}"] = values
    return state


def llama_cpp(folder: Path, scale: float, lora: str = "lora.gguf") -> tuple[list[int], dict[int, float]]:
    """llama.cpp's greedy tokens behind IDS, and its log-probabilities of the first by id."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = str(folder / "model.gguf")
    p.n_ctx, p.n_parallel, p.n_gpu_layers, p.verbosity = 128, 1, 0, -1
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(folder / lora), scale)]
    asked = {"prompt": IDS, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "n_probs": 200}
    found = xllamacpp.Server(p).handle_completions(asked)["choices"][0]["logprobs"]["content"]
    return [t["id"] for t in found], {t["id"]: t["logprob"] for t in found[0]["top_logprobs"]}


def main() -> None:
    """Write GOLDEN."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("peft", "transformers", "torch", "xllamacpp"))
    found: dict[str, Any] = {"origin": f"{packages}, CPU, float32; models and adapters of tests/models/lora_models.py"}
    for arch in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as name:
            cfg, _ = make(Path(name), arch)
            logits = peft_logits(Path(name), cfg)[-1]
            found[arch] = {"logits": [round(float(x), 5) for x in logits]}
            found[arch]["greedy"] = {str(scale): llama_cpp(Path(name), scale)[0] for scale in SCALES}
    GOLDEN.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
