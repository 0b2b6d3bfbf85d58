"""Qwen2 and Qwen2.5: the llama block with biases on q, k and v and rope pairs half a head apart.

Not for: qwen2moe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flux_vk.models import llama
from flux_vk.models.config import ModelConfig, full_layers, make_config, read_rope, read_sizes
from flux_vk.models.tensors import TensorSpec, linear

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile


def read_config(f: GGUFFile) -> ModelConfig:
    """Keys of `qwen2`; all have defaults but the sizes and the norm's epsilon."""
    s = read_sizes(f)
    return make_config(s, (read_rope(f, s, neox=True),), full_layers(s))


def layer_tensors(cfg: ModelConfig, i: int) -> Iterator[TensorSpec]:
    """Separate q, k, v with biases; no other biases."""
    b = f"blk.{i}"
    yield TensorSpec(f"{b}.attn_norm.weight", (cfg.dim,))
    yield from linear(f"{b}.attn_q", cfg.q_width, cfg.dim, bias=True)
    yield from linear(f"{b}.attn_k", cfg.kv_width, cfg.dim, bias=True)
    yield from linear(f"{b}.attn_v", cfg.kv_width, cfg.dim, bias=True)
    yield from linear(f"{b}.attn_output", cfg.dim, cfg.q_width, bias=False)
    yield TensorSpec(f"{b}.ffn_norm.weight", (cfg.dim,))
    yield from linear(f"{b}.ffn_gate", cfg.ffn_dim, cfg.dim, bias=False)
    yield from linear(f"{b}.ffn_up", cfg.ffn_dim, cfg.dim, bias=False)
    yield from linear(f"{b}.ffn_down", cfg.dim, cfg.ffn_dim, bias=False)


layer = llama.layer  # the biases are added where the tensors are there
