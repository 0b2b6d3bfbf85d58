"""Tiny GGUF models of every architecture with float32 weights, adapters for them, and the two merged.

The same seed gives the same bits with every version of NumPy (raw words of PCG64, not its distributions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.formats import blocks
from flux_vk.formats.adapter import Adapter, LoraPair
from flux_vk.formats.gguf import open_gguf
from flux_vk.formats.gguf_writer import TensorOut, Value, typed, write_gguf
from flux_vk.models import ModelConfig, read_config
from flux_vk.models.tensors import model_tensors

ARCHITECTURES = ("llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3")
VOCAB = 264
SIZES = {"dim": 64, "ffn": 96, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}
F32 = npt.NDArray[np.float32]


def noise(seed: Sequence[int], shape: tuple[int, ...], size: float) -> F32:
    """Numbers spread evenly over -size .. size."""
    words = np.random.PCG64(list(seed)).random_raw(int(np.prod(shape)))
    even = (words >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0
    return (even * size).astype(np.float32).reshape(shape)


def write_tiny(path: Path, arch: str, seed: int = 1, **sizes: int) -> ModelConfig:
    """A random model of the architecture with a vocabulary of bytes; its configuration. sizes: others than SIZES."""
    s = {**SIZES, **sizes}
    keys = {
        "general.architecture": Value("str", arch),
        "general.name": Value("str", f"tiny {arch}"),
        f"{arch}.context_length": Value("u32", 256),
        f"{arch}.embedding_length": Value("u32", s["dim"]),
        f"{arch}.block_count": Value("u32", s["layers"]),
        f"{arch}.feed_forward_length": Value("u32", s["ffn"]),
        f"{arch}.attention.head_count": Value("u32", s["heads"]),
        f"{arch}.attention.head_count_kv": Value("u32", s["kv_heads"]),
        f"{arch}.attention.key_length": Value("u32", s["head_dim"]),
        f"{arch}.attention.value_length": Value("u32", s["head_dim"]),
        f"{arch}.attention.layer_norm_rms_epsilon": Value("f32", 1e-5),
        f"{arch}.rope.dimension_count": Value("u32", s["head_dim"]),
        f"{arch}.rope.freq_base": Value("f32", 10000.0),
        **({f"{arch}.attention.sliding_window": Value("u32", 8)} if arch.startswith("gemma") else {}),
        **_vocabulary(),
    }
    embedding = TensorOut("token_embd.weight", "f32", (VOCAB, s["dim"]), noise((seed, 0), (VOCAB, s["dim"]), 1.0))
    write_gguf(path, keys, [embedding])
    with open_gguf(path) as f:
        cfg = read_config(f)
    outs = [embedding]
    for i, spec in enumerate(model_tensors(cfg)):
        if spec.name != embedding.name:
            outs.append(TensorOut(spec.name, "f32", spec.shape, _weight((seed, i + 1), spec.shape, spec.name)))
    write_gguf(path, keys, outs)
    return cfg


def _weight(seed: tuple[int, int], shape: tuple[int, ...], name: str) -> F32:
    if name.endswith(".bias"):
        return noise(seed, shape, 0.2)
    if len(shape) == 1:
        return 1 + noise(seed, shape, 0.2)
    return noise(seed, shape, (3 / shape[1]) ** 0.5)


def _vocabulary() -> dict[str, Value]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += [f"t{i}" for i in range(VOCAB - len(tokens))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (VOCAB - 259)
    return {
        "tokenizer.ggml.model": Value("str", "llama"),
        "tokenizer.ggml.tokens": Value("array[str]", tokens),
        "tokenizer.ggml.scores": Value("array[f32]", [0.0] * VOCAB),
        "tokenizer.ggml.token_type": Value("array[i32]", kinds),
        "tokenizer.ggml.bos_token_id": Value("u32", 1),
        "tokenizer.ggml.eos_token_id": Value("u32", 2),
        "tokenizer.ggml.unknown_token_id": Value("u32", 0),
        "tokenizer.ggml.add_bos_token": Value("bool", False),
        "tokenizer.ggml.add_eos_token": Value("bool", False),
        "tokenizer.ggml.add_space_prefix": Value("bool", False),
    }


def linear_names(cfg: ModelConfig, parts: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """Shapes of the model's linear layers, or of those whose name has one of these parts."""
    specs = {spec.name: spec.shape for spec in model_tensors(cfg) if len(spec.shape) == 2}
    found = {name: (shape[0], shape[1]) for name, shape in specs.items() if name.startswith("blk.")}
    return {name: s for name, s in found.items() if not parts or name.split(".")[2] in parts}


def adapter_for(
    cfg: ModelConfig, rank: int = 4, seed: int = 7, parts: Sequence[str] = (), alpha: float = 8.0, **more: Any
) -> Adapter:
    """An adapter whose change is about as large as the weights. parts: "attn_q" ...; default: all linear layers."""
    pairs = {}
    for i, (name, (rows, columns)) in enumerate(linear_names(cfg, parts).items()):
        a = noise((seed, i, 1), (rank, columns), (3 / columns) ** 0.5)
        pairs[name] = LoraPair(a, noise((seed, i, 2), (rows, rank), 0.5 / rank**0.5))
    return Adapter(cfg.arch, alpha, pairs, **more)


def write_merged(base: Path, path: Path, adapters: Sequence[tuple[Adapter, float]]) -> None:
    """The model with scale * s * B A added to its weights, all matrices as f32. A changed tied head becomes its own."""
    with open_gguf(base) as f:
        outs = []
        wanted = {name: name for name in f.tensors}
        if any("output.weight" in adapter.tensors for adapter, _ in adapters):
            wanted.setdefault("output.weight", "token_embd.weight")
        for name, source in wanted.items():
            info = f.tensors[source]
            values = blocks.dequantize(f.raw(source), info.type, info.shape).astype(np.float64)
            for adapter, scale in adapters:
                if name in adapter.tensors:
                    pair = adapter.tensors[name]
                    values += scale * adapter.scale(name) * (pair.b.astype(np.float64) @ pair.a.astype(np.float64))
            outs.append(TensorOut(name, "f32", info.shape, values.astype(np.float32)))
        write_gguf(path, typed(f.metadata, f.types), outs)


def weights_of(path: Path) -> Mapping[str, F32]:
    """All tensors of an f32 model."""
    with open_gguf(path) as f:
        return {name: f.raw(name).view(np.float32).reshape(info.shape).copy() for name, info in f.tensors.items()}
