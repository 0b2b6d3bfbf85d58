"""LoRA adapters: what one is, the checks every one passes, and reading one whatever its file format.

Hu et al., arXiv:2106.09685; rsLoRA: Kalajdzievski, arXiv:2312.03732. The formats stand in adapter_peft.py (folders of
PEFT and MLX, .safetensors) and adapter_gguf.py (GGUF, as llama.cpp loads it). Not for: applying one (flux_vk.models).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from flux_vk.errors import AdapterError

F32Array = npt.NDArray[np.float32]

MAX_RANK = 4096
"""Largest rank that is read: far above any in use, and a damaged file's numbers end here."""

_USUAL = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
_FUSED = {"qkv_proj": "attn_qkv", "o_proj": "attn_output", "gate_up_proj": "ffn_up", "down_proj": "ffn_down"}

PEFT_NAMES: Mapping[str, Mapping[str, str]] = {
    "llama": _USUAL,
    "qwen2": _USUAL,
    "qwen3": _USUAL,
    "gemma2": _USUAL,
    "gemma3": _USUAL,
    "phi3": _FUSED,
}
"""For each architecture: the names of its linear layers in PEFT, and the part of the GGUF name that stands for each."""

def peft_names(arch: str) -> Mapping[str, str]:
    """PEFT_NAMES of an architecture; those that are not listed there (registered by a caller) have the usual ones."""
    return PEFT_NAMES.get(arch, _USUAL)


def gguf_part(arch: str, module: str) -> str:
    """The part of a GGUF name for a PEFT target name, "q_proj" -> "attn_q". AdapterError lists those there are.

    Of an unknown architecture ("") it may be any of those in PEFT_NAMES.
    """
    names = peft_names(arch) if arch else _USUAL | _FUSED
    if module not in names:
        raise AdapterError(
            f"target {module!r}: {arch or 'no architecture'} has no such linear layer; "
            f"expected one of {', '.join(names)}"
        )
    return names[module]


@dataclass(frozen=True)
class LoraPair:
    """The two factors of one weight's change: float32, a [rank, in] and b [out, rank].

    Rows of b stand in the order of the GGUF tensor (which for q and k of `llama` is not PEFT's).
    """

    a: F32Array
    b: F32Array

    @property
    def rank(self) -> int:
        """Columns of b, rows of a."""
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight that is changed."""
        return int(self.b.shape[0]), int(self.a.shape[1])


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: y = x W^T + scale * (x A^T) B^T for each weight in `tensors`.

    arch: `general.architecture` of the model ("" where the file does not say). tensors: by the GGUF name of the weight,
    "blk.0.attn_q.weight". alphas: alpha of those tensors whose own differs from `alpha`.
    Raises AdapterError where shapes, types or numbers are not those of an adapter.
    """

    arch: str
    alpha: float
    tensors: Mapping[str, LoraPair]
    rslora: bool = False
    dropout: float = 0.0
    name: str = ""
    base_model: str = ""
    alphas: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "alphas", MappingProxyType(dict(self.alphas)))
        check_adapter(self)

    @property
    def rank(self) -> int:
        """The largest rank among the tensors."""
        return max(pair.rank for pair in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Numbers in all factors."""
        return sum(pair.a.size + pair.b.size for pair in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all factors as float32."""
        return 4 * self.parameters

    def scale(self, name: str) -> float:
        """alpha / r, or alpha / sqrt(r) of rsLoRA, with the rank and alpha of that tensor."""
        rank = self.tensors[name].rank
        return self.alphas.get(name, self.alpha) / (math.sqrt(rank) if self.rslora else rank)


def check_adapter(adapter: Adapter) -> None:
    """AdapterError naming the first thing that is wrong: no tensors, shapes that do not fit, NaN, a bad alpha."""
    if not adapter.tensors:
        raise AdapterError("adapter: no LoRA tensors; expected lora_A and lora_B of at least one linear layer")
    for name, alpha in (("alpha", adapter.alpha), *((f"alpha of {n}", a) for n, a in adapter.alphas.items())):
        if not math.isfinite(alpha) or alpha <= 0:
            raise AdapterError(f"adapter: {name} = {alpha}; expected a finite number above 0")
    if not 0 <= adapter.dropout < 1:
        raise AdapterError(f"adapter: dropout = {adapter.dropout}; expected a number from 0 to below 1")
    for name in adapter.alphas:
        if name not in adapter.tensors:
            raise AdapterError(f"adapter: alpha of {name}, which is not among its tensors; leave it out")
    for name, pair in adapter.tensors.items():
        check_pair(name, pair)


def check_pair(name: str, pair: LoraPair) -> None:
    """AdapterError unless both factors are float32 matrices of one rank with finite numbers."""
    for half, values in (("lora_A", pair.a), ("lora_B", pair.b)):
        if values.dtype != np.float32:
            raise AdapterError(f"{name}: {half} has type {values.dtype}; expected float32")
        if values.ndim != 2 or 0 in values.shape:
            raise AdapterError(f"{name}: {half} has shape {values.shape}; expected two dimensions, none of them 0")
    if pair.a.shape[0] != pair.b.shape[1]:
        raise AdapterError(
            f"{name}: lora_A has shape {pair.a.shape}, lora_B {pair.b.shape}; expected [rank, in] and [out, rank] "
            f"with the same rank"
        )
    if pair.rank > MAX_RANK:
        raise AdapterError(f"{name}: rank {pair.rank}; expected at most {MAX_RANK}")
    for half, values in (("lora_A", pair.a), ("lora_B", pair.b)):
        if not np.isfinite(values).all():
            raise AdapterError(f"{name}: {half} has NaN or infinite numbers; the training that wrote it went wrong")


def read_adapter(path: str | os.PathLike[str], heads: tuple[int, int] | None = None, *, arch: str = "") -> Adapter:
    """Reads an adapter: a folder (PEFT, or MLX), a .safetensors file beside its config, or a GGUF LoRA file.

    heads: (n_heads, n_kv_heads) of the model, arch: its `general.architecture`. A GGUF LoRA needs neither. PEFT files
    do not say of what architecture they are (those written here do); it is needed to know whether rows of q and k
    change their order, and for `llama` they do, by heads.
    Raises AdapterError (InputError) naming file and tensor or key, also where `arch` is not what the file says.
    """
    from flux_vk.formats import adapter_gguf, adapter_peft

    place = Path(path)
    if place.is_file() and _is_gguf(place):
        adapter = adapter_gguf.read_gguf_adapter(place)
    else:
        adapter = adapter_peft.read_peft(place, heads, arch)
    if arch and adapter.arch not in ("", arch):
        raise AdapterError(f"{place}: an adapter for {adapter.arch}; expected one for {arch}, the model's architecture")
    return adapter


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def write_peft(
    adapter: Adapter, folder: str | os.PathLike[str], heads: tuple[int, int] | None = None
) -> None:
    """Writes a folder that PEFT loads: adapter_config.json and adapter_model.safetensors. See adapter_peft."""
    from flux_vk.formats import adapter_peft

    adapter_peft.write_peft(adapter, folder, heads)


def write_gguf_adapter(adapter: Adapter, path: str | os.PathLike[str]) -> None:
    """Writes a GGUF LoRA that llama.cpp loads. See adapter_gguf."""
    from flux_vk.formats import adapter_gguf

    adapter_gguf.write_gguf_adapter(adapter, path)
