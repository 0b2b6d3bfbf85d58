"""Qwen3 (dense): the llama block with an RMS norm over each head of q and k before rope; no biases.

The head size is a key of its own: n_heads * head_dim usually differs from the model width. Not for: qwen3moe.
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
    """Keys of `qwen3`; all have defaults but the sizes and the norm's epsilon."""
    s = read_sizes(f)
    return make_config(s, (read_rope(f, s, neox=True),), full_layers(s), qk_norm=True)


def layer_tensors(cfg: ModelConfig, i: int) -> Iterator[TensorSpec]:
    """Separate q, k, v, and the norms' weights: head_dim numbers shared by the heads."""
    b = f"blk.{i}"
    yield TensorSpec(f"{b}.attn_norm.weight", (cfg.dim,))
    yield from linear(f"{b}.attn_q", cfg.q_width, cfg.dim, bias=False)
    yield from linear(f"{b}.attn_k", cfg.kv_width, cfg.dim, bias=False)
    yield from linear(f"{b}.attn_v", cfg.kv_width, cfg.dim, bias=False)
    yield TensorSpec(f"{b}.attn_q_norm.weight", (cfg.head_dim,))
    yield TensorSpec(f"{b}.attn_k_norm.weight", (cfg.head_dim,))
    yield from linear(f"{b}.attn_output", cfg.dim, cfg.q_width, bias=False)
    yield TensorSpec(f"{b}.ffn_norm.weight", (cfg.dim,))
    yield from linear(f"{b}.ffn_gate", cfg.ffn_dim, cfg.dim, bias=False)
    yield from linear(f"{b}.ffn_up", cfg.ffn_dim, cfg.dim, bias=False)
    yield from linear(f"{b}.ffn_down", cfg.dim, cfg.ffn_dim, bias=False)


layer = llama.layer  # s.attention applies the q and k norms where the configuration has qk_norm
