"""Phi-3 and Phi-4-mini: the llama block with fused q, k, v and fused gate, up; LongRoPE, partial rotation.

`attention.sliding_window` is not read: files of this architecture are run with full attention everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flux_vk.models.config import ModelConfig, full_layers, make_config, read_rope, read_sizes
from flux_vk.models.tensors import TensorSpec, linear

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile
    from flux_vk.gpu import Buffer
    from flux_vk.models.step import Step


def read_config(f: GGUFFile) -> ModelConfig:
    """Keys of `phi3`; all have defaults but the sizes and the norm's epsilon."""
    s = read_sizes(f)
    return make_config(s, (read_rope(f, s, neox=True),), full_layers(s))


def layer_tensors(cfg: ModelConfig, i: int) -> Iterator[TensorSpec]:
    """Rows of attn_qkv: q, then k, then v. Rows of ffn_up: the gate, then up."""
    b = f"blk.{i}"
    yield TensorSpec(f"{b}.attn_norm.weight", (cfg.dim,))
    yield from linear(f"{b}.attn_qkv", cfg.qkv_width, cfg.dim, bias=False)
    yield from linear(f"{b}.attn_output", cfg.dim, cfg.q_width, bias=False)
    yield TensorSpec(f"{b}.ffn_norm.weight", (cfg.dim,))
    yield from linear(f"{b}.ffn_up", 2 * cfg.ffn_dim, cfg.dim, bias=False)
    yield from linear(f"{b}.ffn_down", cfg.dim, cfg.ffn_dim, bias=False)


def layer(s: Step, i: int, x: Buffer) -> Buffer:
    """x += attention(norm(x)); x += down(silu(gate n) * (up n)), n = norm(x)."""
    b = f"blk.{i}"
    n = s.rms_norm(x, f"{b}.attn_norm")
    a = s.attention(i, s.linear(n, f"{b}.attn_qkv"))
    x, a = s.output_rows(i, x, a)
    x = s.linear(a, f"{b}.attn_output", residual=x)
    n = s.rms_norm(x, f"{b}.ffn_norm")
    h = s.swiglu(s.linear(n, f"{b}.ffn_up"))
    return s.linear(h, f"{b}.ffn_down", residual=x)
