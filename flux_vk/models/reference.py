"""The forward pass in NumPy float64, straight from the formulas: what the GPU step is tested against.

Not for: use at any size that matters. It keeps every score matrix and dequantises a tensor each time it needs
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flux_vk.errors import ModelError
from flux_vk.models.config import ModelConfig, RopeConfig
from flux_vk.models.registry import read_config
from flux_vk.models.rope import frequencies, magnitude, read_factors
from flux_vk.models.tensors import VECTOR_TYPES, read_floats

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile

Array = npt.NDArray[np.float64]


def forward(f: GGUFFile, ids: npt.ArrayLike, context: int | None = None) -> Array:
    """Logits float64[len(ids), vocab] of one sequence that begins at position 0.

    `context` is the session's context in tokens (None: the model's own); only LongRoPE depends on it.
    """
    cfg = read_config(f)
    return _Pass(f, cfg, context or cfg.context_length).run(np.asarray(ids, dtype=np.int64))


def dequantize(f: GGUFFile, name: str) -> Array:
    """A tensor of any type as float64 in its own shape (through the `gguf` package for quantised types)."""
    info = f.tensors[name]
    if info.type in VECTOR_TYPES:
        return read_floats(f, name).astype(np.float64)
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize as gguf_dequantize
    except ImportError:
        raise ModelError(f"tensor {name} is {info.type}: the reference needs the `gguf` package for it") from None
    blocks = f.raw(name).reshape(info.shape[0], -1)
    values = gguf_dequantize(blocks, GGMLQuantizationType[info.type.upper()])
    return np.asarray(values, dtype=np.float64).reshape(info.shape)


def rms_norm(x: Array, w: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) * w over the last axis (arXiv 1910.07467)."""
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * w)


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return np.asarray(x / (1.0 + np.exp(-np.clip(x, -700, 700))))


def gelu(x: Array) -> Array:
    """The tanh form of GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""
    return np.asarray(0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3))))


def rotate(x: Array, rope: RopeConfig, w: Array, mscale: float) -> Array:
    """Rotates the first n_rot elements of x[T, heads, D] at positions 0..T-1 by frequencies w[n_rot/2]."""
    half = rope.n_rot // 2
    angle = np.arange(x.shape[0])[:, None, None] * w
    cos, sin = np.cos(angle) * mscale, np.sin(angle) * mscale
    first = slice(0, half) if rope.neox else slice(0, rope.n_rot, 2)
    second = slice(half, rope.n_rot) if rope.neox else slice(1, rope.n_rot, 2)
    a, b = x[..., first].copy(), x[..., second].copy()
    out = x.copy()
    out[..., first] = a * cos - b * sin
    out[..., second] = a * sin + b * cos
    return out


def attend(q: Array, k: Array, v: Array, scale: float, softcap: float = 0.0, window: int = 0) -> Array:
    """Causal attention of q[T, H, D] over k, v[T, H_kv, D], heads in groups; `window` 0 = none.

    Returns [T, H, D].
    """
    group = q.shape[1] // k.shape[1]
    s = np.einsum("ihd,jhd->hij", q, np.repeat(k, group, axis=1)) * scale
    if softcap:
        s = softcap * np.tanh(s / softcap)
    i, j = np.arange(q.shape[0])[:, None], np.arange(k.shape[0])[None, :]
    visible = (j <= i) & (i - j < window) if window else j <= i
    s = np.where(visible, s, -np.inf)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return np.asarray(np.einsum("hij,jhd->ihd", e / e.sum(axis=-1, keepdims=True), np.repeat(v, group, axis=1)))


class _Pass:
    """One forward pass; `activation` and the post norms follow from the tensors and the architecture."""

    def __init__(self, f: GGUFFile, cfg: ModelConfig, context: int) -> None:
        self.f, self.cfg = f, cfg
        self.ropes = [(r, frequencies(r, read_factors(f, r, context)), magnitude(r)) for r in cfg.ropes]
        self.activation = gelu if cfg.arch.startswith("gemma") else silu

    def tensor(self, name: str) -> Array:
        return dequantize(self.f, name)

    def linear(self, x: Array, name: str) -> Array:
        y = x @ self.tensor(f"{name}.weight").T
        return np.asarray(y + self.tensor(f"{name}.bias")) if f"{name}.bias" in self.f.tensors else np.asarray(y)

    def norm(self, x: Array, name: str) -> Array:
        return rms_norm(x, self.tensor(f"{name}.weight"), self.cfg.norm_eps)

    def post(self, x: Array, name: str) -> Array:
        return self.norm(x, name) if f"{name}.weight" in self.f.tensors else x

    def run(self, ids: npt.NDArray[np.int64]) -> Array:
        cfg = self.cfg
        embedding = self.tensor("token_embd.weight")
        x = embedding[ids] * cfg.embed_scale
        for i in range(cfg.n_layers):
            b = f"blk.{i}"
            x = x + self.post(self.attention(i, self.norm(x, f"{b}.attn_norm")), f"{b}.post_attention_norm")
            x = x + self.post(self.mlp(i, self.norm(x, f"{b}.ffn_norm")), f"{b}.post_ffw_norm")
        head = embedding if cfg.tied else self.tensor("output.weight")
        logits = self.norm(x, "output_norm") @ head.T
        return cfg.final_softcap * np.tanh(logits / cfg.final_softcap) if cfg.final_softcap else logits

    def attention(self, i: int, n: Array) -> Array:
        cfg, b = self.cfg, f"blk.{i}"
        if f"{b}.attn_qkv.weight" in self.f.tensors:
            qkv = self.linear(n, f"{b}.attn_qkv")
        else:
            qkv = np.concatenate([self.linear(n, f"{b}.attn_{part}") for part in "qkv"], axis=1)
        q, k, v = np.split(qkv, [cfg.q_width, cfg.q_width + cfg.kv_width], axis=1)
        q, k, v = (part.reshape(len(n), -1, cfg.head_dim) for part in (q, k, v))
        if cfg.qk_norm:
            q, k = self.norm(q, f"{b}.attn_q_norm"), self.norm(k, f"{b}.attn_k_norm")
        rope, w, mscale = self.ropes[cfg.layers[i].rope]
        q, k = rotate(q, rope, w, mscale), rotate(k, rope, w, mscale)
        a = attend(q, k, v, cfg.attn_scale, cfg.attn_softcap, cfg.layers[i].window)
        return self.linear(a.reshape(len(n), -1), f"{b}.attn_output")

    def mlp(self, i: int, n: Array) -> Array:
        b = f"blk.{i}"
        if f"{b}.ffn_gate.weight" in self.f.tensors:
            gate, up = self.linear(n, f"{b}.ffn_gate"), self.linear(n, f"{b}.ffn_up")
        else:
            gate, up = np.split(self.linear(n, f"{b}.ffn_up"), 2, axis=1)
        return self.linear(self.activation(gate) * up, f"{b}.ffn_down")
