"""Small GGUF files for the tests of quantising and merging: random weights, a few of everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flux_vk.formats import casts
from flux_vk.formats.gguf import GGUFFile, open_gguf
from flux_vk.formats.gguf_writer import TensorOut, Value, write_gguf

METADATA = {
    "general.architecture": Value("str", "llama"),
    "general.name": Value("str", "made for a test"),
    "general.file_type": Value("u32", 0),
    "llama.block_count": Value("u32", 3),
    "llama.attention.head_count": Value("u32", 4),
    "llama.attention.head_count_kv": Value("u32", 2),
    "tokenizer.ggml.tokens": Value("array[str]", ["<s>", "a", "b\udcff"]),
    "tokenizer.ggml.scores": Value("array[f32]", [0.0, -1.5, float("-inf")]),
    "other.nothing": Value("array[u8]", []),
}


def shapes(dim: int = 256, ffn: int = 288, layers: int = 3) -> dict[str, tuple[int, ...]]:
    """Name -> shape; rows of `ffn` are no whole blocks of 256."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (7, dim)}
    for i in range(layers):
        found[f"blk.{i}.attn_norm.weight"] = (dim,)
        found[f"blk.{i}.attn_v.weight"] = (16, dim)
        found[f"blk.{i}.attn_v.bias"] = (16,)
        found[f"blk.{i}.ffn_down.weight"] = (9, ffn)
    return found | {"experts.weight": (2, 3, dim), "odd.weight": (5, 33), "output.weight": (7, dim)}


def write(path: Path, rng: np.random.Generator, kind: str = "f32") -> dict[str, np.ndarray]:
    """The file, matrices of type `kind` (a float type); returns the float32 values that it holds."""
    outs, values = [], {}
    for name, shape in shapes().items():
        stored = kind if len(shape) > 1 else "f32"
        x = (0.05 * rng.standard_normal(shape)).astype(np.float32)
        raw = casts.encode(x, stored)
        values[name] = {"f32": x, "f16": x.astype(np.float16).astype(np.float32)}[stored]
        outs.append(TensorOut(name, stored, shape, raw))
    write_gguf(path, METADATA, outs)
    return values


def everything(path: Path) -> tuple[dict[str, object], dict[str, str], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Metadata, its types, and (type, shape, bytes) of every tensor: what two files can be compared by."""
    with open_gguf(path) as f:
        tensors = {n: (t.type, t.shape, f.raw(n).tobytes()) for n, t in f.tensors.items()}
        return {k: _plain(v) for k, v in f.metadata.items()}, dict(f.types), tensors


def values(f: GGUFFile, name: str) -> np.ndarray:
    """A tensor's float32 values."""
    from flux_vk.formats.blocks import dequantize

    t = f.tensors[name]
    return dequantize(f.raw(name), t.type, t.shape).reshape(t.shape)


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value
