"""The mixture of types in a file, tensor by tensor against what llama.cpp's quantiser wrote."""

from __future__ import annotations

import json

import pytest

from flux_vk.formats import mixtures
from tests.formats.llama_cpp_mixes import GOLDEN, MODELS, TYPES, Made, folded

WANT = json.loads(GOLDEN.read_text())["types"]


def facts(made: Made) -> mixtures.Facts:
    return mixtures.Facts(made.layers, made.arch, made.heads // made.kv_heads, made.experts)


@pytest.mark.parametrize("label", MODELS)
def test_types_are_those_of_llama_cpp(label: str) -> None:
    made = MODELS[label]
    tensors = {name: (shape, "f32") for name, shape in made.tensors()}
    assert set(WANT[label]) == {*TYPES, "Q4_K_M pure", "Q6_K pure"}
    for case, want in WANT[label].items():
        kind, _, pure = case.partition(" ")
        found = mixtures.tensor_types(kind, tensors, facts(made), pure=bool(pure))
        assert folded(found) == want, case


def test_output_type() -> None:
    """It is that of the output matrix, or of the embedding that serves as one; rows it cannot hold fall back."""
    for label, name in (("llama", "output.weight"), ("qwen3", "token_embd.weight")):
        tensors = {name: (shape, "f32") for name, shape in MODELS[label].tensors()}
        found = mixtures.tensor_types("Q4_K_M", tensors, facts(MODELS[label]), output_type="q8_0")
        plain = mixtures.tensor_types("Q4_K_M", tensors, facts(MODELS[label]))
        assert {n for n in found if found[n] != plain[n]} == {name} and found[name] == "q8_0"
    assert mixtures.fallback("q6_k", 96) == "q8_0" and mixtures.fallback("q4_k", 33) == "f16"


@pytest.mark.parametrize(
    ("name", "shape", "present"),
    [
        ("blk.0.attn_norm.weight", (64,), "f32"), ("blk.0.attn_q.bias", (2, 64), "f32"),
        ("rope_freqs.weight", (32,), "f32"), ("output_norm.weight", (2, 32), "f32"),
        ("blk.0.ffn_gate_inp.weight", (4, 32), "f32"), ("ids.weight", (4, 32), "i32"),
    ],
)  # fmt: skip
def test_what_keeps_its_type(name: str, shape: tuple[int, ...], present: str) -> None:
    assert mixtures.tensor_types("Q8_0", {name: (shape, present)}, mixtures.Facts(1)) == {name: present}
