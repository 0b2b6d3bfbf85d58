"""Which tensor gets which type in a file of type Q4_K_M and the like: the rules of llama.cpp's quantiser.

Without an importance matrix. Facts: llama.cpp, src/llama-quant.cpp (build 11739); the tests compare every tensor of
made-up models with what llama.cpp wrote. Not for: quantising, which is `engine/quantize.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.formats import blocks

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile

BASE: dict[str, tuple[str, int]] = {
    "F32": ("f32", 0), "F16": ("f16", 1), "BF16": ("bf16", 32), "Q8_0": ("q8_0", 7),
    "Q4_0": ("q4_0", 2), "Q4_1": ("q4_1", 3), "Q5_0": ("q5_0", 8), "Q5_1": ("q5_1", 9),
    "IQ4_NL": ("iq4_nl", 25), "IQ4_XS": ("iq4_xs", 30),
    "Q2_K": ("q2_k", 10), "Q3_K_S": ("q3_k", 11), "Q3_K_M": ("q3_k", 12), "Q3_K_L": ("q3_k", 13),
    "Q4_K_S": ("q4_k", 14), "Q4_K_M": ("q4_k", 15), "Q5_K_S": ("q5_k", 16), "Q5_K_M": ("q5_k", 17),
    "Q6_K": ("q6_k", 18),
}  # fmt: skip
"""File type -> (the type of most tensors, the number in general.file_type)."""

_FALLBACK = {
    "q2_k": "q4_0", "q3_k": "q4_0", "iq4_xs": "iq4_nl", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0",
}  # fmt: skip
FLOATS = ("f32", "f16", "bf16")
_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "altup", "laurel", "per_layer_model_proj", "ssm_conv1d",
    "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight",
    "time_mix_first.weight", "time_mix_lerp_fused.weight", "time_mix_w0.weight", "time_mix_w1.weight",
    "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
    "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_",
    ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
"""Names with one of these in them keep their type: small, or worth every bit."""
_KEPT_WHOLE = ("position_embd.weight", "token_types.weight")
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_VALUES = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight")


@dataclass(frozen=True)
class Facts:
    """What of a model the rules look at. gqa: query heads per key head. experts: 0 in a dense model."""

    n_layers: int
    arch: str = "llama"
    gqa: int = 1
    experts: int = 0


def facts(f: GGUFFile) -> Facts:
    """Of an open file, whatever its architecture; keys that are not there count as one of each."""
    arch = str(f.metadata.get("general.architecture", ""))
    heads = _number(f, f"{arch}.attention.head_count", 1)
    kv = _number(f, f"{arch}.attention.head_count_kv", heads)
    layers = _number(f, f"{arch}.block_count", 0) or 1 + max((layer_of(name) for name in f.tensors), default=-1)
    return Facts(layers, arch, max(heads // max(kv, 1), 1), _number(f, f"{arch}.expert_count", 0))


def _number(f: GGUFFile, key: str, default: int) -> int:
    """A number, or the first of one number a layer."""
    value = f.metadata.get(key, default)
    if isinstance(value, np.ndarray) and value.size:
        value = int(value[0])
    return int(value) if isinstance(value, int) else default


def layer_of(name: str) -> int:
    """The layer a tensor's name says, -1 without one."""
    parts = name.split(".", 2)
    return int(parts[1]) if parts[0] == "blk" and len(parts) > 2 and parts[1].isdecimal() else -1


def quantisable(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor changes its type at all: matrices named "...weight" that are no norms nor other small things."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) < 2 or not name.endswith("weight") or name in _KEPT_WHOLE:
        return False
    return not any(part in name for part in _KEPT)


def tensor_types(
    file_type: str,
    tensors: Mapping[str, tuple[tuple[int, ...], str]],
    model: Facts,
    *,
    pure: bool = False,
    output_type: str | None = None,
) -> dict[str, str]:
    """The type of every tensor in a file of this type (a key of BASE).

    tensors: name -> (shape, present type). pure: one type for all but for rows that it cannot hold.
    output_type: the type of the output matrix, or of the token embedding where that serves as one.
    """
    base = BASE[file_type][0]
    mix = _Mix(file_type, base, model, "output.weight" not in tensors, output_type)
    mix.values = sum(_is_value(name) for name in tensors)
    found = {}
    for name in sorted(tensors, key=lambda n: (layer_of(n), n)):  # the rules count what came before
        shape, present = tensors[name]
        if not quantisable(name, shape) or (present not in blocks.RUNNABLE and not _quantised(present)):
            found[name] = present
            continue
        chosen = base
        if output_type is not None and name == "output.weight":
            chosen = output_type
        elif base not in FLOATS:
            chosen = base if pure else mix.choose(name, shape[-1])
        found[name] = fallback(chosen, shape[-1])
    return {name: found[name] for name in tensors}


def _quantised(kind: str) -> bool:
    return blocks.BY_NAME[kind].weights > 1


def fallback(kind: str, k: int) -> str:
    """The type instead of `kind` for rows of `k` weights: itself where they are whole blocks."""
    if k % blocks.BY_NAME[kind].weights == 0:
        return kind
    kind = _FALLBACK.get(kind, "f16")
    return kind if k % blocks.BY_NAME[kind].weights == 0 else "f16"


def more_bits(layer: int, n_layers: int) -> bool:
    """Whether attn_v and ffn_down get the higher type: first and last eighth, every third layer between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def _is_value(name: str) -> bool:
    return any(part in name for part in _VALUES)


@dataclass
class _Mix:
    """The rules for one file; counts the tensors of a kind as they come, in the order of layers."""

    file_type: str
    base: str
    model: Facts
    tied: bool
    output_type: str | None
    values: int = 0
    value: int = 0
    down: int = 0

    def choose(self, name: str, k: int) -> str:
        """The type of the next tensor."""
        if name == "output.weight" or (self.tied and name in _EMBEDDINGS):
            return self.output_type or self._head(k)
        if name in _EMBEDDINGS:
            return self.base
        if _is_value(name):
            self.value += 1
            return self._value(self.value - 1)
        if "attn_k.weight" in name:
            return "q8_0" if self.model.experts == 8 else self.base
        if "attn_output.weight" in name:
            return self._output()
        if "ffn_down" in name:
            layer = layer_of(name) if self.model.experts > 1 else self.down
            self.down += 1
            return self._down(layer, self.model.n_layers)
        return self.base

    def _head(self, k: int) -> str:
        if k % blocks.BY_NAME[self.base].weights or self.model.arch == "falcon":
            return "q8_0"
        return self.base if self.base == "q8_0" else "q6_k"

    def _value(self, i: int) -> str:
        if self.model.experts == 8:
            return "q8_0"
        chosen = self._value_by_file(i)
        heads_shared = self.model.arch in ("llama", "qwen2") and self.model.n_layers == 80 and self.model.gqa > 1
        return "q5_k" if heads_shared and chosen in ("q3_k", "q4_k") else chosen

    def _value_by_file(self, i: int) -> str:
        t, shared = self.file_type, self.model.gqa >= 4
        if t == "Q2_K":
            return "q4_k" if shared else "q3_k"
        if t == "Q3_K_M":
            return "q5_k" if i < 2 else "q4_k"
        if t == "Q3_K_L" or (t in ("IQ4_NL", "IQ4_XS") and shared) or (t == "Q4_K_S" and i < 4):
            return "q5_k"
        return "q6_k" if t in ("Q4_K_M", "Q5_K_M") and more_bits(i, self.values) else self.base

    def _output(self) -> str:
        if self.model.arch == "falcon":
            return "q4_k" if self.file_type == "Q3_K_L" else self.base
        if self.model.experts == 8:
            return "q5_k" if self.base in ("q2_k", "q3_k", "q4_k", "iq4_nl", "iq4_xs") and (
                self.file_type != "Q3_K_L"
            ) else self.base
        return {"Q2_K": "q3_k", "Q3_K_M": "q4_k", "Q3_K_L": "q5_k"}.get(self.file_type, self.base)

    def _down(self, i: int, n: int) -> str:
        t, falcon = self.file_type, self.model.arch == "falcon"
        if t == "Q2_K":
            return "q3_k"
        if t == "Q3_K_M":
            if i < n // 16:
                return "q5_k"
            return "q4_k" if not falcon or more_bits(i, n) else "q3_k"
        if t == "Q3_K_L":
            return "q4_k" if falcon else "q5_k"
        if t == "Q4_K_M" and falcon:
            return "q6_k" if i < n // 16 else "q5_k" if more_bits(i, n) else "q4_k"
        if t in ("Q4_K_M", "Q5_K_M"):
            return "q6_k" if more_bits(i, n) else self.base
        early = i < n // 8 and (t in ("IQ4_NL", "IQ4_XS") or (t == "Q4_K_S" and not falcon))
        return "q5_k" if early else self.base
