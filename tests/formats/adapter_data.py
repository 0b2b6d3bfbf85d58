"""Random adapters, and files of adapters right or wrong, for tests of adapters. Not for: models (tests/models)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flux_vk.formats.adapter import Adapter, LoraPair

SHAPES = {
    "attn_q": (32, 24), "attn_k": (16, 24), "attn_v": (16, 24), "attn_output": (24, 32),
    "ffn_gate": (40, 24), "ffn_up": (40, 24), "ffn_down": (24, 40),
}  # fmt: skip
HEADS = (4, 2)
Stored: TypeAlias = "tuple[str, npt.NDArray[Any]]"
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


def random_pair(rng: np.random.Generator, shape: tuple[int, int], rank: int) -> LoraPair:
    """Factors of a change about as large as a weight of 1 / sqrt(in)."""
    a = rng.standard_normal((rank, shape[1]), np.float32) / np.float32(np.sqrt(shape[1]))
    return LoraPair(a, rng.standard_normal((shape[0], rank), np.float32) / np.float32(np.sqrt(rank)))


def random_adapter(
    rng: np.random.Generator, arch: str = "llama", rank: int = 4, layers: int = 2, **more: Any
) -> Adapter:
    """One that changes everything in SHAPES (of phi3: what it has)."""
    shapes: Mapping[str, tuple[int, int]] = SHAPES
    if arch == "phi3":
        shapes = {"attn_qkv": (64, 24), "attn_output": (24, 32), "ffn_up": (80, 24), "ffn_down": (24, 40)}
    names = {f"blk.{i}.{part}.weight": shape for i in range(layers) for part, shape in shapes.items()}
    pairs = {name: random_pair(rng, shape, rank) for name, shape in names.items()}
    return Adapter(arch, more.pop("alpha", 8.0), pairs, **more)


def assert_same(found: Adapter, want: Adapter) -> None:
    """Every field, and every bit of every factor."""
    for field in ("arch", "alpha", "rslora", "dropout", "name", "base_model", "alphas"):
        assert getattr(found, field) == getattr(want, field), field
    assert set(found.tensors) == set(want.tensors)
    for name, pair in want.tensors.items():
        for mine, other in ((found.tensors[name].a, pair.a), (found.tensors[name].b, pair.b)):
            assert mine.dtype == np.float32 and mine.shape == other.shape
            assert mine.tobytes() == np.ascontiguousarray(other).tobytes(), name


def safetensors_bytes(tensors: Mapping[str, Stored], header: Mapping[str, str] | None = None) -> bytes:
    """A .safetensors file of (type, stored values), written by hand: the package's NumPy side has no bf16."""
    entries: dict[str, Any] = {"__metadata__": dict(header)} if header else {}
    data = b""
    for name, (kind, values) in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        entries[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def q_tensors(rank: int = 4, layers: Iterable[int] = (0,), module: str = "self_attn.q_proj") -> dict[str, Stored]:
    """lora_A and lora_B of one module as PEFT names them, of ones."""
    found: dict[str, Stored] = {}
    for i in layers:
        place = f"base_model.model.model.layers.{i}.{module}"
        found[f"{place}.lora_A.weight"] = ("F32", np.ones((rank, 24), np.float32))
        found[f"{place}.lora_B.weight"] = ("F32", np.ones((32, rank), np.float32))
    return found


def peft_folder(
    folder: Path, tensors: Mapping[str, Stored] | None = None, config: Any = None, **keys: Any
) -> Path:
    """A folder with these tensors and CONFIG changed by `keys`; config: other contents of the JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(q_tensors() if tensors is None else tensors))
    text = config if isinstance(config, str) else json.dumps({**CONFIG, **keys} if config is None else config)
    (folder / "adapter_config.json").write_text(text)
    return folder
