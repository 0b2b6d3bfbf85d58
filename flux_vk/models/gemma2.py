"""Gemma 2: norms before and after each block, GeGLU, soft-capped scores and logits, windows on even layers.

Norm weights are used as stored (converters have already added 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.models.config import (
    LayerConfig,
    ModelConfig,
    Sizes,
    make_config,
    read_rope,
    read_sizes,
    read_window,
)
from flux_vk.models.tensors import TensorSpec, linear

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile
    from flux_vk.gpu import Buffer
    from flux_vk.models.step import Step

_LAYERS_27B = 46


def read_config(f: GGUFFile) -> ModelConfig:
    """Keys of `gemma2`. The head is always the token embedding."""
    s = read_sizes(f)
    window = read_window(f, s, 4096)
    return make_config(
        s,
        (read_rope(f, s, neox=True),),
        tuple(LayerConfig(window=window if i % 2 == 0 else 0) for i in range(s.n_layers)),
        attn_scale=query_scale(s, _LAYERS_27B),
        attn_softcap=f.get("gemma2.attn_logit_softcapping", float, 50.0),
        final_softcap=f.get("gemma2.final_logit_softcapping", float, 30.0),
        embed_scale=embedding_scale(s),
        tied=True,
    )


def query_scale(s: Sizes, layers_27b: int) -> float:
    """1/sqrt(head_dim), but for the 27B model, known by its layer count: 1/sqrt(dim / n_heads)."""
    return 1.0 / math.sqrt(s.dim / s.n_heads if s.n_layers == layers_27b else s.head_dim)


def embedding_scale(s: Sizes) -> float:
    """sqrt(dim), rounded to float32 as the model was trained."""
    return float(np.float32(math.sqrt(s.dim)))


def layer_tensors(cfg: ModelConfig, i: int) -> Iterator[TensorSpec]:
    """No biases; post_attention_norm and post_ffw_norm belong to what a block adds."""
    b = f"blk.{i}"
    yield TensorSpec(f"{b}.attn_norm.weight", (cfg.dim,))
    yield from linear(f"{b}.attn_q", cfg.q_width, cfg.dim, bias=False)
    yield from linear(f"{b}.attn_k", cfg.kv_width, cfg.dim, bias=False)
    yield from linear(f"{b}.attn_v", cfg.kv_width, cfg.dim, bias=False)
    if cfg.qk_norm:
        yield TensorSpec(f"{b}.attn_q_norm.weight", (cfg.head_dim,))
        yield TensorSpec(f"{b}.attn_k_norm.weight", (cfg.head_dim,))
    yield from linear(f"{b}.attn_output", cfg.dim, cfg.q_width, bias=False)
    yield TensorSpec(f"{b}.post_attention_norm.weight", (cfg.dim,))
    yield TensorSpec(f"{b}.ffn_norm.weight", (cfg.dim,))
    yield from linear(f"{b}.ffn_gate", cfg.ffn_dim, cfg.dim, bias=False)
    yield from linear(f"{b}.ffn_up", cfg.ffn_dim, cfg.dim, bias=False)
    yield from linear(f"{b}.ffn_down", cfg.dim, cfg.ffn_dim, bias=False)
    yield TensorSpec(f"{b}.post_ffw_norm.weight", (cfg.dim,))


def layer(s: Step, i: int, x: Buffer) -> Buffer:
    """x += post_norm(attention(norm(x))); x += post_norm(down(gelu(gate n) * (up n))), n = norm(x)."""
    b = f"blk.{i}"
    n = s.rms_norm(x, f"{b}.attn_norm")
    qkv = s.linear(n, f"{b}.attn_q", f"{b}.attn_k", f"{b}.attn_v")
    a = s.attention(i, qkv)
    x, a = s.output_rows(i, x, a)
    a = s.rms_norm(s.linear(a, f"{b}.attn_output"), f"{b}.post_attention_norm")
    x, n = s.add_rms_norm(x, a, f"{b}.ffn_norm")
    h = s.geglu(s.linear(n, f"{b}.ffn_gate", f"{b}.ffn_up"))
    h = s.rms_norm(s.linear(h, f"{b}.ffn_down"), f"{b}.post_ffw_norm")
    return s.add(x, h, next_norm=f"blk.{i + 1}.attn_norm" if i + 1 < s.cfg.n_layers else "output_norm")
