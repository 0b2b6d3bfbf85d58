"""Which tensor gets which type when llama.cpp's llama-quantize writes a file as Q4_K_M and the like.

The rules for dense llama and qwen2 models without an importance matrix; rows that are no multiple of 256
fall back to a type of 32-weight blocks. Not for: other architectures, which have exceptions.
"""

from __future__ import annotations

from flux_vk.formats import blocks

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
    "q2_k": "iq4_nl", "q3_k": "iq4_nl", "iq4_xs": "iq4_nl", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0",
}  # fmt: skip
_FLOATS = ("f32", "f16", "bf16")


def more_bits(layer: int, n_layers: int) -> bool:
    """Whether attn_v and ffn_down get the higher type: first and last eighth, every third layer between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def tensor_type(
    file_type: str, name: str, k: int, n_layers: int, *, gqa: int = 1, tied: bool = True, pure: bool = False
) -> str:
    """The type of the matrix `name` (rows of `k` weights) in a file of this type.

    gqa: query heads per key head. tied: no output matrix of its own. pure: one type but for fallbacks.
    """
    base = BASE[file_type][0]
    if base in _FLOATS:
        return base
    chosen = base if pure else _mixed(file_type, base, name, k, n_layers, gqa, tied)
    if k % blocks.BY_NAME[chosen].weights:
        chosen = _FALLBACK.get(chosen, "f16")
    return chosen


def _mixed(file_type: str, base: str, name: str, k: int, n_layers: int, gqa: int, tied: bool) -> str:
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return _head(base, k)
    if not name.startswith("blk."):
        return base
    layer, part = int(name.split(".")[1]), name.split(".")[2]
    if part == "attn_v":
        return _attn_v(file_type, base, layer, n_layers, gqa)
    if part == "ffn_down":
        return _ffn_down(file_type, base, layer, n_layers)
    if part == "attn_output":
        return {"Q2_K": "q3_k", "Q3_K_M": "q4_k", "Q3_K_L": "q5_k"}.get(file_type, base)
    return base


def _head(base: str, k: int) -> str:
    if k % blocks.BY_NAME[base].weights:
        return "q8_0"
    return base if base == "q8_0" else "q6_k"


def _attn_v(file_type: str, base: str, layer: int, n_layers: int, gqa: int) -> str:
    if file_type == "Q2_K":
        return "q4_k" if gqa >= 4 else "q3_k"
    if file_type == "Q3_K_M":
        return "q5_k" if layer < 2 else "q4_k"
    if file_type == "Q3_K_L" or (file_type in ("IQ4_NL", "IQ4_XS") and gqa >= 4):
        return "q5_k"
    if file_type in ("Q4_K_M", "Q5_K_M") and more_bits(layer, n_layers):
        return "q6_k"
    return "q5_k" if file_type == "Q4_K_S" and layer < 4 else base


def _ffn_down(file_type: str, base: str, layer: int, n_layers: int) -> str:
    if file_type == "Q2_K":
        return "q3_k"
    if file_type == "Q3_K_M":
        return "q5_k" if layer < n_layers // 16 else "q4_k"
    if file_type == "Q3_K_L":
        return "q5_k"
    if file_type in ("Q4_K_M", "Q5_K_M") and more_bits(layer, n_layers):
        return "q6_k"
    early = layer < n_layers // 8
    return "q5_k" if early and file_type in ("IQ4_NL", "IQ4_XS", "Q4_K_S") else base
