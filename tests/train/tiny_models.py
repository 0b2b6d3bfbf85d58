"""Tiny models of every architecture with weights from a fixed rule: the same file on every machine and NumPy.

Each has what sets its architecture apart (windows shorter than the sequences, fused tensors, soft-caps, biases).
Not for: real shapes (bench/make_model.py); there is no tokenizer in these files.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
BLOCKS = {"q8_0": (32, 34), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210)}
"""Values and bytes of a block."""


@dataclass(frozen=True)
class Tiny:
    """A model's sizes (in elements) and traits; the defaults are those of llama."""

    name: str
    arch: str
    layers: int = 2
    dim: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    ffn: int = 96
    vocab: int = 97
    context: int = 128
    eps: float = 2.0**-10
    """Large, so that it shows where it is left out; a float32."""
    rope_base: float = 10000.0
    n_rot: int = 16
    neox: bool = True
    """Rope pairs half of the rotated elements apart (llama: neighbours)."""
    rope_factors: bool = False
    """LongRoPE: tensors of factors that divide the frequencies."""
    rope_mscale: float = 1.0
    local_base: float = 0.0
    """Rope base of windowed layers, 0 = the same."""
    window: int = 0
    local: tuple[bool, ...] = ()
    """Which layers see the window only."""
    attn_softcap: float = 0.0
    final_softcap: float = 0.0
    embed_scale: float = 1.0
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    fused: bool = False
    """attn_qkv holds q, k, v and ffn_up the gate, then up."""
    gelu: bool = False
    tied: bool = False
    types: Mapping[str, str] = field(default_factory=dict)
    """Block type by the part of a weight's name ("attn_q"); "" = every matrix not named, F32 without it."""

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    def type_of(self, part: str) -> str:
        return self.types.get(part, self.types.get("", "f32"))


_GEMMA = {"tied": True, "gelu": True, "post_norms": True, "embed_scale": 8.0, "window": 5}
_K_MIX = {
    "": "q4_k", "attn_v": "q6_k", "attn_output": "q5_k", "ffn_up": "q8_0", "ffn_down": "q6_k",
    "token_embd": "q8_0", "output": "q6_k",
}  # fmt: skip
MODELS = {
    m.name: m
    for m in (
        Tiny("llama", "llama", neox=False),
        Tiny("qwen2", "qwen2", qkv_bias=True, tied=True, rope_base=1e6),
        Tiny("qwen3", "qwen3", head_dim=32, n_rot=32, qk_norm=True, tied=True, rope_base=1e6),
        Tiny("gemma2", "gemma2", local=(True, False), attn_softcap=4.0, final_softcap=3.0, **_GEMMA),
        Tiny("gemma3", "gemma3", layers=3, head_dim=32, n_rot=32, local=(True, False, True), qk_norm=True,
             rope_base=1e6, local_base=1e3, **_GEMMA),
        Tiny("phi3", "phi3", ffn=80, n_rot=12, fused=True, rope_factors=True, rope_mscale=1.125),
        Tiny("qwen2-q8_0", "qwen2", qkv_bias=True, tied=True, types={"": "q8_0"}),
        Tiny("llama-k", "llama", dim=256, head_dim=64, n_rot=64, ffn=256, neox=False, types=_K_MIX),
    )
}  # fmt: skip
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")


def raw_bits(key: str, n: int) -> npt.NDArray[np.uint64]:
    """n numbers of the PCG64 stream that `key` names: NumPy keeps this stream (not its distributions) for ever."""
    return np.random.PCG64(np.random.SeedSequence(zlib.crc32(key.encode()))).random_raw(n)


def uniform(key: str, shape: tuple[int, ...], half_width: float, centre: float = 0.0) -> F32:
    """float32, evenly from centre - half_width to centre + half_width."""
    u = (raw_bits(key, int(np.prod(shape))) >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0
    return (centre + half_width * u).astype(np.float32).reshape(shape)


def linears(m: Tiny) -> dict[str, tuple[int, int]]:
    """(rows, columns) = (out, in) of every weight that an adapter may be put on, by its name, in layer order."""
    parts = {
        **({"attn_qkv": (m.q_width + 2 * m.kv_width, m.dim)} if m.fused else
           {"attn_q": (m.q_width, m.dim), "attn_k": (m.kv_width, m.dim), "attn_v": (m.kv_width, m.dim)}),
        "attn_output": (m.dim, m.q_width),
        **({} if m.fused else {"ffn_gate": (m.ffn, m.dim)}),
        "ffn_up": (2 * m.ffn if m.fused else m.ffn, m.dim),
        "ffn_down": (m.dim, m.ffn),
    }  # fmt: skip
    return {f"blk.{i}.{part}.weight": shape for i in range(m.layers) for part, shape in parts.items()}


def matrices(m: Tiny) -> dict[str, tuple[int, int]]:
    """All matrices: the linear layers, the embedding and, where it is not tied, the head."""
    head = {} if m.tied else {"output.weight": (m.vocab, m.dim)}
    return {"token_embd.weight": (m.vocab, m.dim), **linears(m), **head}


def part_of(name: str) -> str:
    """"blk.0.attn_q.weight" -> "attn_q"."""
    return name.removesuffix(".weight").split(".")[-1]


def vectors(m: Tiny) -> Iterator[tuple[str, F32]]:
    """Norm weights around 1, biases around 0, LongRoPE's factors (from 1 on): float32."""

    def norm(name: str, n: int) -> tuple[str, F32]:
        return f"{name}.weight", uniform(f"{m.name}/{name}", (n,), 0.3, 1.0)

    for i in range(m.layers):
        b = f"blk.{i}"
        yield norm(f"{b}.attn_norm", m.dim)
        yield norm(f"{b}.ffn_norm", m.dim)
        if m.qk_norm:
            yield norm(f"{b}.attn_q_norm", m.head_dim)
            yield norm(f"{b}.attn_k_norm", m.head_dim)
        if m.post_norms:
            yield norm(f"{b}.post_attention_norm", m.dim)
            yield norm(f"{b}.post_ffw_norm", m.dim)
        for part, n in (("q", m.q_width), ("k", m.kv_width), ("v", m.kv_width)):
            if m.qkv_bias:
                yield f"{b}.attn_{part}.bias", uniform(f"{m.name}/{b}.attn_{part}.bias", (n,), 0.5)
    yield norm("output_norm", m.dim)
    if m.rope_factors:
        yield "rope_factors_short.weight", np.linspace(1.0, 1.5, m.n_rot // 2).astype(np.float32)
        yield "rope_factors_long.weight", np.linspace(1.0, 9.0, m.n_rot // 2).astype(np.float32)


def blocks(key: str, kind: str, rows: int, columns: int, std: float) -> npt.NDArray[np.uint8]:
    """Random blocks uint8[rows, bytes of a row] whose values have about this standard deviation and mean 0."""
    values, size = BLOCKS[kind]
    n = rows * columns // values
    out = raw_bits(key, -(-n * size // 8)).view(np.uint8)[: n * size].reshape(n, size).copy()
    unit = {"q8_0": 73.9, "q4_k": 258.0, "q5_k": 540.0, "q6_k": 1365.0}[kind]  # std of the values where d = 1
    d = uniform(f"{key}/d", (n, 1), 0.25, 1.0) * np.float32(std / unit)
    at = 208 if kind == "q6_k" else 0
    out[:, at : at + 2] = d.astype("<f2").view(np.uint8)
    if kind in ("q4_k", "q5_k"):  # value = d scale q - dmin min: the mean goes where dmin = d * mean of q
        out[:, 2:4] = (d * np.float32(7.5 if kind == "q4_k" else 15.5)).astype("<f2").view(np.uint8)
    return out.reshape(rows, -1)


def stored(m: Tiny) -> Iterator[tuple[str, str, npt.NDArray[Any]]]:
    """(name, type, data) of every tensor as the file holds it: float32, or blocks as uint8[rows, row bytes]."""
    for name, (rows, columns) in matrices(m).items():
        part, key = part_of(name), f"{m.name}/{name}"
        std = {"token_embd": _embedding_std(m), "output": 2.0 / m.dim**0.5}.get(part, 1.5 / columns**0.5)
        kind = m.type_of(part)
        if kind == "f32":
            yield name, kind, uniform(key, (rows, columns), 3.0**0.5 * std)
        else:
            yield name, kind, blocks(key, kind, rows, columns, std)
    for name, values in vectors(m):
        yield name, "f32", values


def _embedding_std(m: Tiny) -> float:
    """Small where the head is the embedding, for logits that do not name one token each."""
    return 1.0 / m.embed_scale if m.embed_scale > 1.0 or not m.tied else 0.25


def float_tensors(m: Tiny) -> dict[str, F32]:
    """Every tensor as float32 values, quantised ones dequantised by the `gguf` package."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return {
        name: data if kind == "f32" else dequantize(data, GGMLQuantizationType[kind.upper()])
        for name, kind, data in stored(m)
    }


def lora_tensors(m: Tiny, targets: str = "all", rank: int = 4, zero_b: bool = False) -> dict[str, tuple[F32, F32]]:
    """(A [rank, in], B [out, rank]) by weight name.

    A is drawn as PEFT draws it (evenly within 1/sqrt(in)); B from -0.25 to 0.25, or zeros as where training begins.
    targets: "all", or "qv": q and v alone (phi3: the fused q, k, v).
    """
    parts = ("attn_q", "attn_v", "attn_qkv")
    pairs = {}
    for name, (rows, columns) in linears(m).items():
        if targets == "all" or part_of(name) in parts:
            a = uniform(f"{m.name}/{name}/lora_a", (rank, columns), columns**-0.5)
            b = uniform(f"{m.name}/{name}/lora_b", (rows, rank), 0.0 if zero_b else 0.25)
            pairs[name] = (a, b)
    return pairs


def write_tiny(m: Tiny, path: Path) -> Path:
    """Write the model as GGUF (through the `gguf` package); returns the path."""
    from gguf import GGMLQuantizationType, GGUFWriter

    partial = path.with_name(path.name + ".part")
    writer = GGUFWriter(partial, m.arch)
    writer.add_name(f"tiny {m.name}")
    writer.add_block_count(m.layers)
    writer.add_context_length(m.context)
    writer.add_embedding_length(m.dim)
    writer.add_feed_forward_length(m.ffn)
    writer.add_head_count(m.heads)
    writer.add_head_count_kv(m.kv_heads)
    writer.add_key_length(m.head_dim)
    writer.add_value_length(m.head_dim)
    writer.add_layer_norm_rms_eps(m.eps)
    writer.add_rope_freq_base(m.rope_base)
    writer.add_rope_dimension_count(m.n_rot)
    writer.add_vocab_size(m.vocab)
    _traits(writer, m)
    for name, kind, data in stored(m):
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[kind.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return partial.replace(path)


def _traits(writer: Any, m: Tiny) -> None:
    """Keys that one architecture has and others have not."""
    if m.rope_factors:
        writer.add_string(f"{m.arch}.rope.scaling.type", "longrope")
        writer.add_float32(f"{m.arch}.rope.scaling.attn_factor", m.rope_mscale)
        writer.add_uint32(f"{m.arch}.rope.scaling.original_context_length", m.context)
    if m.window:
        writer.add_sliding_window(m.window)
    if m.attn_softcap:
        writer.add_attn_logit_softcapping(m.attn_softcap)
    if m.final_softcap:
        writer.add_final_logit_softcapping(m.final_softcap)
    if m.local_base:
        writer.add_float32(f"{m.arch}.rope.freq_base_swa", m.local_base)
        writer.add_array(f"{m.arch}.attention.sliding_window_pattern", list(m.local))
