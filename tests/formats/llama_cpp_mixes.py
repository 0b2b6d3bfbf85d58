"""Writes llama_cpp_mixes.json: which type llama.cpp's own quantiser gives each tensor of small made-up models.

python -m tests.formats.llama_cpp_mixes libllama.so       needs a build of llama.cpp; the tests only read the JSON
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GOLDEN = Path(__file__).with_name("llama_cpp_mixes.json")
TYPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11,
    "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18,
    "IQ4_NL": 25, "IQ4_XS": 30,
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A model of `layers` layers whose matrices have two rows: only names, row lengths and metadata count."""

    arch: str
    layers: int = 16
    dim: int = 256
    ffn: int = 512
    heads: int = 8
    kv_heads: int = 2
    experts: int = 0
    tied: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of all tensors in the order of a converted file."""
        yield "token_embd.weight", (2, self.dim)
        for i in range(self.layers):
            yield f"blk.{i}.attn_norm.weight", (self.dim,)
            fused = ("attn_qkv",) if self.arch in ("phi3", "falcon") else ("attn_q", "attn_k", "attn_v")
            for part in (*fused, "attn_output"):
                yield f"blk.{i}.{part}.weight", (2, self.dim)
            if self.arch == "qwen2":
                yield f"blk.{i}.attn_v.bias", (2 * self.dim,)
            if self.experts:
                yield f"blk.{i}.ffn_gate_inp.weight", (self.experts, self.dim)
            gated = ("ffn_up", "ffn_down") if self.arch in ("phi3", "falcon") else ("ffn_gate", "ffn_up", "ffn_down")
            for part in gated:
                k = self.ffn if part == "ffn_down" else self.dim
                name = f"blk.{i}.{part}{'_exps' if self.experts else ''}.weight"
                yield name, (self.experts, 2, k) if self.experts else (2, k)
        yield "output_norm.weight", (self.dim,)
        if not self.tied:
            yield "output.weight", (2, self.dim)


MODELS = {
    "llama": Made("llama"),
    "llama tied, 8 kv heads": Made("llama", kv_heads=8, tied=True),
    "llama 3 layers": Made("llama", layers=3),
    "llama rows of 288": Made("llama", layers=8, dim=288, ffn=768, heads=9, kv_heads=3),
    "llama 70B": Made("llama", layers=80, kv_heads=1),
    "llama 8 experts": Made("llama", layers=8, experts=8),
    "llama 4 experts": Made("llama", layers=8, experts=4),
    "qwen2": Made("qwen2", layers=24, dim=896, ffn=4864, heads=14, tied=True),
    "qwen2 untied": Made("qwen2", layers=28),
    "qwen3": Made("qwen3", layers=28, tied=True),
    "gemma2": Made("gemma2", layers=26, tied=True),
    "gemma3": Made("gemma3", layers=18, dim=640, ffn=2048, heads=4, kv_heads=1, tied=True),
    "phi3": Made("phi3", layers=32, heads=8, kv_heads=8),
    "phi3 tied": Made("phi3", layers=10, heads=8, kv_heads=2, tied=True),
    "falcon": Made("falcon", layers=32, heads=8, kv_heads=1),
}


class _Params(ctypes.Structure):
    """llama_model_quantize_params of llama.cpp's llama.h, October 2026."""

    _fields_ = (
        *((n, ctypes.c_int) for n in ("nthread", "ftype", "output_type", "embedding_type")),
        *((n, ctypes.c_bool) for n in ("requantize", "output", "copy", "pure", "keep_split", "dry_run")),
        *((n, ctypes.c_void_p) for n in ("imatrix", "overrides", "tensor_types", "prune")),
        ("more", ctypes.c_uint64 * 8),
    )


def write(made: Made, path: Path) -> None:
    """The model as an F32 GGUF file."""
    import gguf
    import numpy as np

    w = gguf.GGUFWriter(path, made.arch)
    w.add_block_count(made.layers)
    w.add_context_length(128)
    w.add_embedding_length(made.dim)
    w.add_feed_forward_length(made.ffn)
    w.add_head_count(made.heads)
    w.add_head_count_kv(made.kv_heads)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_layer_norm_eps(1e-6)
    w.add_sliding_window(64)
    w.add_rope_dimension_count(made.dim // made.heads)
    w.add_vocab_size(2)
    if made.experts:
        w.add_expert_count(made.experts)
        w.add_expert_used_count(2)
    for name, shape in made.tensors():
        w.add_tensor(name, np.ones(shape, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main(library: str) -> None:
    llama = ctypes.CDLL(library)
    llama.llama_model_quantize_default_params.restype = _Params
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Params)]
    llama.llama_backend_init()
    from flux_vk.formats.gguf import open_gguf

    found: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.gguf", Path(folder) / "out.gguf"
        for label, made in MODELS.items():
            write(made, source)
            for kind, number in TYPES.items():
                for pure in (False, True) if kind in ("Q4_K_M", "Q6_K") else (False,):
                    params = llama.llama_model_quantize_default_params()
                    params.ftype, params.nthread, params.pure = number, 1, pure
                    code = llama.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params))
                    if code:
                        raise SystemExit(f"{label} {kind}: llama.cpp refuses it ({code})")
                    with open_gguf(target) as f:
                        types = {n: t.type for n, t in f.tensors.items()}
                    found.setdefault(label, {})[kind + (" pure" if pure else "")] = folded(types)
    GOLDEN.write_text(as_text(found))


ORIGIN = "llama_model_quantize of llama.cpp b11739, by tests/formats/llama_cpp_mixes.py"


def as_text(found: dict[str, dict[str, dict[str, str]]]) -> str:
    """JSON with a line for each model and file type."""
    models = []
    for label, kinds in found.items():
        lines = ",\n".join(f"{json.dumps(kind)}: {json.dumps(types)}" for kind, types in kinds.items())
        models.append(f"{json.dumps(label)}: {{\n{lines}}}")
    return f'{{"origin": {json.dumps(ORIGIN)}, "types": {{\n' + ",\n".join(models) + "}}\n"


def folded(types: dict[str, str]) -> dict[str, str]:
    """Name -> type, with the layers of a part in one entry: "blk.*.attn_v.weight" -> "q6_k*2 q4_k q6_k ..."."""
    parts: dict[str, list[str]] = {}
    for name, kind in sorted(types.items(), key=lambda t: _layer(t[0])):
        label = "blk.*." + name.split(".", 2)[2] if name.startswith("blk.") else name
        parts.setdefault(label, []).append(kind)
    return {label: _runs(kinds) for label, kinds in parts.items() if kinds.count("f32") < len(kinds)}


def _layer(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def _runs(kinds: list[str]) -> str:
    """["a", "a", "b"] -> "a*2 b"."""
    runs: list[tuple[str, int]] = []
    for kind in kinds:
        if runs and runs[-1][0] == kind:
            runs[-1] = kind, runs[-1][1] + 1
        else:
            runs.append((kind, 1))
    return " ".join(kind + (f"*{n}" if n > 1 else "") for kind, n in runs)


if __name__ == "__main__":
    main(sys.argv[1])
