"""Configurations and tensor checks: defaults, and an error that names the key or tensor for everything unusable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from flux_vk.errors import FluxError, GGUFError, ModelError
from flux_vk.formats.gguf import open_gguf
from flux_vk.models import memory_needed, read_config
from flux_vk.models.config import LayerConfig
from flux_vk.models.rope import rope_tables
from flux_vk.models.tensors import check_tensors, model_tensors, read_floats

Keys = dict[str, Any]
Write = Callable[..., Path]


def keys_of(arch: str) -> Keys:
    """The keys that every architecture needs, for a model of 2 layers."""
    return {
        "general.architecture": arch,
        f"{arch}.block_count": 2,
        f"{arch}.embedding_length": 32,
        f"{arch}.feed_forward_length": 48,
        f"{arch}.attention.head_count": 4,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.context_length": 128,
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a model file of keys and tensor shapes (None: those that the architecture asks for)."""

    def make(keys: Keys, tensors: dict[str, tuple[int, ...]] | None = None) -> Path:
        path = tmp_path / "model.gguf"
        _write(path, keys, tensors or {"token_embd.weight": (40, 32)})
        if tensors is None:
            with open_gguf(path) as f:
                wanted = {spec.name: spec.shape for spec in model_tensors(read_config(f)) if not spec.optional}
            _write(path, keys, wanted)
        return path

    return make


def _write(path: Path, keys: Keys, tensors: dict[str, tuple[int, ...]]) -> None:
    writer = gguf.GGUFWriter(path, keys["general.architecture"])
    for key, value in keys.items():
        if key == "general.architecture" or value is None:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_defaults(write: Write) -> None:
    """What is not in the file: KV heads, head size, rope, head."""
    with open_gguf(write(keys_of("llama"))) as f:
        cfg = read_config(f)
        assert check_tensors(f, cfg)
    assert (cfg.n_kv_heads, cfg.head_dim, cfg.vocab_size, cfg.tied) == (4, 8, 40, True)
    assert cfg.layers == (LayerConfig(),) * 2
    rope = cfg.ropes[0]
    assert (rope.base, rope.n_rot, rope.neox, rope.factor, rope.attn_factor) == (10000.0, 8, False, 1.0, 1.0)
    assert cfg.attn_scale == pytest.approx(8**-0.5)


@pytest.mark.parametrize(
    ("arch", "neox"),
    [("llama", False), ("qwen2", True), ("qwen3", True), ("phi3", True), ("gemma2", True), ("gemma3", True)],
)
def test_every_architecture_opens(write: Write, arch: str, neox: bool) -> None:
    """Rope layout is a property of the architecture; memory can be worked out for each."""
    with open_gguf(write(keys_of(arch))) as f:
        cfg = read_config(f)
        assert cfg.arch == arch and cfg.ropes[0].neox is neox
        need = memory_needed(f, cfg, context=100, kv_type="f16", max_rows=8)
    assert need["kv"] == 128 * 32 * 2 * 2 * 2  # whole pages of 32 tokens, k and v, f16, 2 layers
    assert need["weights"] > 4 * 40 * 32 and need["activations"] > 0


def test_gemma_windows(write: Write) -> None:
    """gemma2: even layers. gemma3: all but every P-th, or a flag for each; without the key none."""
    with open_gguf(write({**keys_of("gemma2"), "gemma2.block_count": 3})) as f:
        assert [layer.window for layer in read_config(f).layers] == [4096, 0, 4096]
        assert read_config(f).embed_scale == np.float32(np.sqrt(32))
        assert (read_config(f).attn_softcap, read_config(f).final_softcap) == (50.0, 30.0)
    keys = {**keys_of("gemma3"), "gemma3.block_count": 7}
    with open_gguf(write(keys)) as f:
        assert {layer.window for layer in read_config(f).layers} == {0}
    keys["gemma3.attention.sliding_window"] = 16
    with open_gguf(write(keys)) as f:
        cfg = read_config(f)
        assert [layer.window for layer in cfg.layers] == [16] * 5 + [0, 16]
        assert [cfg.ropes[layer.rope].base for layer in cfg.layers] == [10000.0] * 7
    keys["gemma3.rope.freq_base"] = 1e6
    keys["gemma3.attention.sliding_window_pattern"] = [True, False, True, False, False, False, True]
    with open_gguf(write(keys)) as f:
        cfg = read_config(f)
        assert [layer.window for layer in cfg.layers] == [16, 0, 16, 0, 0, 0, 16]
        assert [cfg.ropes[layer.rope].base for layer in cfg.layers] == [1e4, 1e6, 1e4, 1e6, 1e6, 1e6, 1e4]


MISTAKES: list[tuple[str, str, Keys, type[FluxError]]] = [
    ("mamba", "general.architecture", {}, ModelError),
    ("llama", "llama.block_count", {"llama.block_count": None}, GGUFError),
    ("llama", "llama.block_count", {"llama.block_count": "two"}, GGUFError),
    ("llama", "llama.block_count", {"llama.block_count": 0}, ModelError),
    ("llama", "llama.block_count", {"llama.block_count": 4_000_000_000}, ModelError),
    ("llama", "llama.expert_count", {"llama.expert_count": 8}, ModelError),
    ("llama", "llama.attention.head_count", {"llama.attention.head_count": 5}, ModelError),
    ("llama", "llama.attention.head_count_kv", {"llama.attention.head_count_kv": 3}, ModelError),
    ("llama", "llama.attention.head_count_kv", {"llama.attention.head_count_kv": [2, 2]}, GGUFError),
    ("llama", "llama.attention.key_length", {"llama.attention.key_length": 6}, ModelError),
    ("llama", "llama.attention.key_length", {"llama.attention.key_length": 512}, ModelError),
    ("llama", "llama.attention.value_length", {"llama.attention.value_length": 16}, ModelError),
    ("llama", "layer_norm_rms_epsilon", {"llama.attention.layer_norm_rms_epsilon": float("nan")}, ModelError),
    ("llama", "llama.rope.dimension_count", {"llama.rope.dimension_count": 10}, ModelError),
    ("llama", "llama.rope.dimension_count", {"llama.rope.dimension_count": 3}, ModelError),
    ("llama", "llama.rope.freq_base", {"llama.rope.freq_base": 0.0}, ModelError),
    ("llama", "llama.rope.scaling.type", {"llama.rope.scaling.type": "ntk"}, ModelError),
    ("llama", "llama.rope.scaling.factor", {"llama.rope.scaling.factor": -1.0}, ModelError),
    ("gemma3", "sliding_window_pattern", {
        "gemma3.attention.sliding_window": 8, "gemma3.attention.sliding_window_pattern": [True]}, ModelError),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "named", "change", "kind"), MISTAKES)
def test_a_bad_key_is_named(write: Write, arch: str, named: str, change: Keys, kind: type[FluxError]) -> None:
    """Each message holds the key."""
    keys = {**keys_of(arch), **change}
    with open_gguf(write(keys, {"token_embd.weight": (40, 32)})) as f, pytest.raises(kind, match=named):
        read_config(f)


def test_unknown_architecture_lists_the_known(write: Write) -> None:
    with (
        open_gguf(write(keys_of("bloom"), {"token_embd.weight": (40, 32)})) as f,
        pytest.raises(ModelError, match="'bloom'.*gemma2, gemma3, llama, phi3, qwen2, qwen3"),
    ):
        read_config(f)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blk.1.attn_q.weight": None}, "blk.1.attn_q.weight is missing"),
        ({"blk.1.attn_q.weight": (32, 16)}, r"blk.1.attn_q.weight has shape \(32, 16\); expected \(32, 32\)"),
        ({"blk.0.ffn_norm.weight": (31,)}, r"blk.0.ffn_norm.weight has shape \(31,\); expected \(32,\)"),
        ({"blk.0.attn_q.bias": (8,)}, r"blk.0.attn_q.bias has shape \(8,\)"),
        ({"output.weight": (41, 32)}, r"output.weight has shape \(41, 32\); expected \(40, 32\)"),
        ({"blk.2.attn_q.weight": (32, 32)}, "blk.2.attn_q.weight is not part"),
        ({"blk.0.ffn_gate_inp.weight": (4, 32)}, "blk.0.ffn_gate_inp.weight is not part"),
    ],
)
def test_a_bad_tensor_is_named(write: Write, change: dict[str, tuple[int, ...] | None], message: str) -> None:
    """Missing, of another shape, or not part of the architecture."""
    keys = keys_of("llama")
    with open_gguf(write(keys)) as f:
        shapes = {name: tuple(info.shape) for name, info in f.tensors.items()}
    changed = {name: shape for name, shape in {**shapes, **change}.items() if shape is not None}
    with open_gguf(write(keys, changed)) as f, pytest.raises(ModelError, match=message):
        check_tensors(f, read_config(f))


def test_no_embedding(write: Write) -> None:
    with (
        open_gguf(write(keys_of("llama"), {"output_norm.weight": (32,)})) as f,
        pytest.raises(ModelError, match="token_embd.weight is missing"),
    ):
        read_config(f)


def test_frequency_factors(write: Write) -> None:
    """LongRoPE takes one of two tables by the session's context; a table of the wrong length or sign is named."""
    keys = {**keys_of("phi3"), "phi3.rope.scaling.original_context_length": 64}
    with open_gguf(write(keys)) as f:
        shapes = {name: tuple(info.shape) for name, info in f.tensors.items()}
        plain = rope_tables(f, read_config(f), 128)[0].turns
    shapes |= {"rope_factors_long.weight": (4,), "rope_factors_short.weight": (3,)}
    with open_gguf(write(keys, shapes)) as f:
        cfg = read_config(f)
        assert check_tensors(f, cfg)
        assert np.array_equal(rope_tables(f, cfg, 65)[0].turns, plain)  # the factors written here are ones
        with pytest.raises(ModelError, match="rope_factors_short.weight"):
            rope_tables(f, cfg, 64)
        assert read_floats(f, "rope_factors_long.weight").tolist() == [1.0] * 4


def test_unsupported_models(reference_dir: Path) -> None:
    """Real mixture-of-experts and other files are refused with one clear line."""
    for name, word in [("llama-moe", "mixture-of-experts"), ("olmo2", "'olmo2'"), ("gpt2", "'gpt2'")]:
        with (
            open_gguf(reference_dir / "golden" / f"{name}.f32.gguf") as f,
            pytest.raises(ModelError, match=word),
        ):
            read_config(f)
