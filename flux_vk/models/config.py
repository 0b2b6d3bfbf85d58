"""What a model is, as plain numbers: the configuration that every architecture file fills from GGUF keys.

Not for: weights (weights.py), angles (rope.py) and the forward step (step.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flux_vk.errors import ModelError

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile

MAX_HEAD_DIM = 256
"""Largest head size the attention kernel can hold."""

Scaling = Literal["none", "linear", "yarn", "longrope"]


@dataclass(frozen=True)
class RopeConfig:
    """One set of rotary angles. A model has one, or two where windowed layers use their own base."""

    base: float
    n_rot: int
    """Leading elements of a head that are rotated (even); the rest are left alone."""
    neox: bool
    """True: pairs are (i, i + n_rot/2); False: (2i, 2i + 1)."""
    scaling: Scaling = "none"
    factor: float = 1.0
    original_context: int = 0
    attn_factor: float = 1.0
    """Multiplies cos and sin."""
    use_factors: bool = True
    """Whether the file's frequency-factor tensors, if there are any, divide these angles."""


@dataclass(frozen=True)
class LayerConfig:
    """What may differ from layer to layer.

    `window` in tokens (0 = full attention), `rope` = index of `ropes`.
    """

    window: int = 0
    rope: int = 0


@dataclass(frozen=True)
class Sizes:
    """The keys that every architecture shares, read and checked by `read_sizes`."""

    arch: str
    name: str
    n_layers: int
    dim: int
    ffn_dim: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    norm_eps: float
    tied: bool
    """True: the output head is the token embedding."""


@dataclass(frozen=True)
class ModelConfig(Sizes):
    """Everything the forward step needs to know besides the weights.

    Sizes are in elements, positions in tokens.
    """

    attn_scale: float
    ropes: tuple[RopeConfig, ...]
    layers: tuple[LayerConfig, ...]
    attn_softcap: float = 0.0
    final_softcap: float = 0.0
    embed_scale: float = 1.0
    qk_norm: bool = False

    @property
    def q_width(self) -> int:
        """Elements of all query heads of a row: n_heads * head_dim."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of all key heads of a row: n_kv_heads * head_dim."""
        return self.n_kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Width of a row of the joint q, k, v buffer."""
        return self.q_width + 2 * self.kv_width


def read_sizes(f: GGUFFile) -> Sizes:
    """Reads the shared keys of `general.architecture`.

    Raises GGUFError for a missing required key or a wrong type, ModelError for values that cannot run here.
    """
    a = f.get("general.architecture", str)
    n_experts = f.get(f"{a}.expert_count", int, 0)
    if n_experts:
        raise ModelError(
            f"{a}.expert_count = {n_experts}: mixture-of-experts models are not supported; expected a dense "
            f"model (expert_count absent or 0)"
        )
    n_layers = _positive(f, f"{a}.block_count", limit=4096)
    dim = _positive(f, f"{a}.embedding_length")
    n_heads = _positive(f, f"{a}.attention.head_count", limit=4096)
    n_kv_heads = _positive(f, f"{a}.attention.head_count_kv", default=n_heads, limit=4096)
    if f"{a}.attention.key_length" not in f.metadata and dim % n_heads:
        raise ModelError(
            f"{a}.attention.head_count = {n_heads} does not divide {a}.embedding_length = {dim}, and there "
            f"is no {a}.attention.key_length that states the head size"
        )
    head_dim = _positive(f, f"{a}.attention.key_length", default=dim // n_heads)
    value_dim = _positive(f, f"{a}.attention.value_length", default=head_dim)
    if value_dim != head_dim:
        raise ModelError(
            f"{a}.attention.value_length = {value_dim}: expected the same as {a}.attention.key_length = "
            f"{head_dim}; unequal head sizes are not supported"
        )
    if head_dim % 4 or head_dim > MAX_HEAD_DIM:
        raise ModelError(f"{a}.attention.key_length = {head_dim}: expected a multiple of 4 and at most {MAX_HEAD_DIM}")
    if n_heads % n_kv_heads:
        raise ModelError(
            f"{a}.attention.head_count_kv = {n_kv_heads}: expected a divisor of {a}.attention.head_count = {n_heads}"
        )
    eps = f.get(f"{a}.attention.layer_norm_rms_epsilon", float)
    if not 0 <= eps < 1:
        raise ModelError(f"{a}.attention.layer_norm_rms_epsilon = {eps}: expected a number from 0 to 1")
    embd = f.tensors.get("token_embd.weight")
    if embd is None:
        raise ModelError("tensor token_embd.weight is missing: the file holds no model weights")
    if len(embd.shape) != 2:
        raise ModelError(
            f"token_embd.weight has shape {tuple(embd.shape)}; expected two dimensions (vocabulary, {dim})"
        )
    return Sizes(
        arch=a,
        name=f.get("general.name", str, ""),
        n_layers=n_layers,
        dim=dim,
        ffn_dim=_positive(f, f"{a}.feed_forward_length"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=int(embd.shape[0]),
        context_length=_positive(f, f"{a}.context_length"),
        norm_eps=eps,
        tied="output.weight" not in f.tensors,
    )


def read_rope(f: GGUFFile, s: Sizes, neox: bool) -> RopeConfig:
    """Reads the rope keys shared by all architectures; the scaling type defaults to linear with factor 1."""
    a = s.arch
    n_rot = f.get(f"{a}.rope.dimension_count", int, s.head_dim)
    if n_rot < 0 or n_rot % 2 or n_rot > s.head_dim:
        raise ModelError(f"{a}.rope.dimension_count = {n_rot}: expected an even number from 0 to {s.head_dim}")
    base = f.get(f"{a}.rope.freq_base", float, 10000.0)
    if not base > 1 or not math.isfinite(base):
        raise ModelError(f"{a}.rope.freq_base = {base}: expected a finite number above 1")
    old_factor = f.get(f"{a}.rope.scale_linear", float, 1.0)
    factor = f.get(f"{a}.rope.scaling.factor", float, old_factor) or 1.0
    if not factor > 0 or not math.isfinite(factor):
        raise ModelError(f"{a}.rope.scaling.factor = {factor}: expected a finite number above 0")
    kind = f.get(f"{a}.rope.scaling.type", str, "linear")
    scaling: Scaling
    if kind == "none":
        scaling, factor = "none", 1.0
    elif kind == "linear":
        scaling = "linear"
    elif kind == "yarn":
        scaling = "yarn"
    elif kind == "longrope":
        scaling = "longrope"
    else:
        raise ModelError(f"{a}.rope.scaling.type = {kind!r}: expected one of none, linear, yarn, longrope")
    original = f.get(f"{a}.rope.scaling.original_context_length", int, s.context_length)
    if original <= 0:
        raise ModelError(f"{a}.rope.scaling.original_context_length = {original}: expected a positive number")
    return RopeConfig(
        base=base,
        n_rot=n_rot,
        neox=neox,
        scaling=scaling,
        factor=factor,
        original_context=original,
        attn_factor=f.get(f"{a}.rope.scaling.attn_factor", float, 1.0),
    )


def read_window(f: GGUFFile, s: Sizes, default: int) -> int:
    """The sliding window in tokens, the row's own position included; 0 = none."""
    key = f"{s.arch}.attention.sliding_window"
    window = f.get(key, int, default)
    if not 0 <= window <= 1 << 24:
        raise ModelError(f"{key} = {window}: expected a number from 0 (none) to {1 << 24}")
    return window


def full_layers(s: Sizes) -> tuple[LayerConfig, ...]:
    """Layers that all see the whole context and share the one set of angles."""
    return (LayerConfig(),) * s.n_layers


def make_config(
    s: Sizes,
    ropes: tuple[RopeConfig, ...],
    layers: tuple[LayerConfig, ...],
    *,
    attn_scale: float | None = None,
    attn_softcap: float = 0.0,
    final_softcap: float = 0.0,
    embed_scale: float = 1.0,
    qk_norm: bool = False,
    tied: bool | None = None,
) -> ModelConfig:
    """Joins the shared sizes with what one architecture adds. `attn_scale` None = 1/sqrt(head_dim)."""
    shared = {**vars(s), "tied": s.tied if tied is None else tied}
    return ModelConfig(
        **shared,
        attn_scale=1.0 / math.sqrt(s.head_dim) if attn_scale is None else attn_scale,
        ropes=ropes,
        layers=layers,
        attn_softcap=attn_softcap,
        final_softcap=final_softcap,
        embed_scale=embed_scale,
        qk_norm=qk_norm,
    )


def _positive(f: GGUFFile, key: str, default: int | None = None, limit: int = 1 << 24) -> int:
    value = f.get(key, int) if default is None else f.get(key, int, default)
    if not 0 < value <= limit:
        raise ModelError(f"{key} = {value}: expected a number from 1 to {limit}")
    return value
