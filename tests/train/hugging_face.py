"""The tiny models as models of `transformers`, with adapters of PEFT: nobody's formulas but theirs.

Imported late: it needs both packages. Not for: the quantised models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from tests.train.packed_rows import IGNORED, Packed, unpack
from tests.train.tiny_models import Tiny, float_tensors, lora_tensors, part_of

MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm", "attn_qkv": "self_attn.qkv_proj",
}  # fmt: skip
FUSED = {"ffn_up": "mlp.gate_up_proj"}
NORMS = {False: {"ffn_norm": "post_attention_layernorm"},
         True: {"ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
                "post_ffw_norm": "post_feedforward_layernorm"}}  # fmt: skip
TOP = {"token_embd": "embed_tokens", "output_norm": "norm"}

def config(m: Tiny) -> Any:
    """The configuration class of the architecture, filled from the traits."""
    shared: dict[str, Any] = {
        "vocab_size": m.vocab, "hidden_size": m.dim, "intermediate_size": m.ffn, "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads, "num_key_value_heads": m.kv_heads, "head_dim": m.head_dim,
        "rms_norm_eps": m.eps, "max_position_embeddings": m.context, "tie_word_embeddings": m.tied,
        "attn_implementation": "eager",
    }  # fmt: skip
    plain = {"rope_type": "default", "rope_theta": m.rope_base}
    if m.arch in ("llama", "qwen2", "qwen3"):
        kind = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[m.arch]
        return kind(**shared, rope_parameters=plain)
    if m.arch == "phi3":
        return Phi3Config(**shared, rope_parameters=_longrope(m), original_max_position_embeddings=m.context,
                          eos_token_id=None, pad_token_id=0, sliding_window=None)  # fmt: skip
    layers = ["sliding_attention" if local else "full_attention" for local in m.local]
    shared |= {
        "sliding_window": m.window, "layer_types": layers, "query_pre_attn_scalar": m.head_dim,
        "hidden_activation": "gelu_pytorch_tanh", "final_logit_softcapping": m.final_softcap or None,
        "attn_logit_softcapping": m.attn_softcap or None,
    }  # fmt: skip
    if m.arch == "gemma2":
        return Gemma2Config(**shared, rope_parameters=plain)
    local = {"rope_type": "default", "rope_theta": m.local_base}
    return Gemma3TextConfig(**shared, rope_parameters={"full_attention": plain, "sliding_attention": local})


def _longrope(m: Tiny) -> dict[str, Any]:
    factors = {name: v.tolist() for name, v in float_tensors(m).items() if name.startswith("rope_factors")}
    return {
        "rope_type": "longrope", "rope_theta": m.rope_base, "partial_rotary_factor": m.n_rot / m.head_dim,
        "short_factor": factors["rope_factors_short.weight"], "long_factor": factors["rope_factors_long.weight"],
        "attention_factor": m.rope_mscale, "original_max_position_embeddings": m.context, "factor": 1.0,
    }  # fmt: skip


def module_of(m: Tiny, name: str) -> str:
    """"blk.0.attn_q" -> "model.layers.0.self_attn.q_proj"."""
    pieces = name.split(".")
    if len(pieces) == 1:
        return "lm_head" if name == "output" else f"model.{TOP[name]}"
    names = MODULES | NORMS[m.post_norms] | (FUSED if m.fused else {})
    return f"model.layers.{pieces[1]}.{names[pieces[2]]}"


def rows_to(m: Tiny, name: str, rows: Any) -> Any:
    """Rows of a weight (or of B) as transformers orders them: q and k of llama have rope pairs half a head apart."""
    if m.neox or part_of(name) not in ("attn_q", "attn_k"):
        return rows
    return rows.reshape(-1, m.head_dim // 2, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def rows_from(m: Tiny, name: str, rows: Any) -> Any:
    """The inverse of rows_to."""
    if m.neox or part_of(name) not in ("attn_q", "attn_k"):
        return rows
    return rows.reshape(-1, 2, m.head_dim // 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def build(m: Tiny) -> Any:
    """The model in float64 with the tiny model's weights, every one of them set."""
    state = {}
    for key, values in float_tensors(m).items():
        if key.startswith("rope_factors"):
            continue  # part of the configuration there
        name, kind = key.rsplit(".", 1)
        values = rows_to(m, key, values) if kind == "weight" else values
        if m.gelu and values.ndim == 1:
            values = values.astype(np.float64) - 1.0  # Gemma's norms multiply by 1 + weight
        state[f"{module_of(m, name)}.{kind}"] = torch.tensor(values, dtype=torch.float64)
    if m.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = AutoModelForCausalLM.from_config(config(m), dtype=torch.float64, attn_implementation="eager")
    model.load_state_dict(state, strict=True)
    return model.eval()


def adapt(model: Any, m: Tiny, targets: str, rank: int, s: float) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """(the model with PEFT's adapters, {weight: the parameters (A, B)}), filled with lora_tensors(m, targets, rank)."""
    lora = lora_tensors(m, targets, rank)
    modules = {name: module_of(m, name.removesuffix(".weight")) for name in lora}
    spec = LoraConfig(r=rank, lora_alpha=int(s * rank), lora_dropout=0.0, target_modules=list(modules.values()))
    adapted = get_peft_model(model, spec).double()
    layers = dict(adapted.named_modules())
    pairs = {}
    for name, module in modules.items():
        layer = layers[f"base_model.model.{module}"]
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        a.data.copy_(torch.tensor(lora[name][0]))
        b.data.copy_(torch.tensor(rows_to(m, name, lora[name][1])))
        pairs[name] = (a, b)
    return adapted, pairs


def run(m: Tiny, targets: str, rank: int, s: float, batch: Packed) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """(row losses float64[T], {weight: (dA, dB)}); each sequence goes through the model alone."""
    model, pairs = adapt(build(m), m, targets, rank, s)
    rows = np.zeros(len(batch))
    begin = 0
    for ids, labels in unpack(batch):
        logits = model(input_ids=torch.tensor(ids.astype(np.int64))[None]).logits[0]
        wanted = torch.tensor(np.where(labels == IGNORED, -100, labels.astype(np.int64)))
        losses = F.cross_entropy(logits, wanted, ignore_index=-100, reduction="none")
        losses.sum().backward()
        rows[begin : begin + len(ids)] = losses.detach().numpy()
        begin += len(ids)
    return rows, {name: (a.grad.numpy(), rows_from(m, name, b.grad.numpy())) for name, (a, b) in pairs.items()}
