"""Writes GGUF models of real shapes with random weights: `python bench/make_model.py qwen2.5-0.5b`.

Shapes, vocabulary size and the mixture of types are those of the real files; the text they write is noise.
For measuring speed and memory, not for checking results (the golden files do that).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from bench import synthetic_vocab
from flux_vk.cli import random_blocks
from flux_vk.errors import FluxError, InputError
from flux_vk.formats import blocks, mixtures

QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; everything else about it is random."""

    name: str
    arch: str
    layers: int
    dim: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    rope_base: float
    eps: float
    pre: str
    special: tuple[str, ...]
    eos: str
    template: str
    bos: str | None = None
    qkv_bias: bool = False
    rope_factors: bool = False
    tied: bool = True

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


_QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA_SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>",
)  # fmt: skip
SHAPES = {
    "qwen2.5-0.5b": Shape(
        "Qwen2.5-0.5B", "qwen2", 24, 896, 4864, 14, 2, 151_936, 32_768, 1e6, 1e-6, "qwen2", _QWEN_SPECIAL,
        "<|im_end|>", QWEN_TEMPLATE, qkv_bias=True,
    ),
    "llama-3.2-1b": Shape(
        "Llama-3.2-1B", "llama", 16, 2048, 8192, 32, 8, 128_256, 131_072, 5e5, 1e-5, "llama-bpe",
        _LLAMA_SPECIAL, "<|eot_id|>", LLAMA_TEMPLATE, bos="<|begin_of_text|>", rope_factors=True,
    ),
    "tiny": Shape(
        "tiny", "llama", 2, 256, 512, 4, 2, 1024, 512, 1e4, 1e-5, "gpt-2", _LLAMA_SPECIAL, "<|eot_id|>",
        LLAMA_TEMPLATE, bos="<|begin_of_text|>",
    ),
}  # fmt: skip


def matrices(s: Shape) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of all weight matrices in the order of a converted file."""
    yield "token_embd.weight", (s.vocab, s.dim)
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    for i in range(s.layers):
        yield f"blk.{i}.attn_q.weight", (q, s.dim)
        yield f"blk.{i}.attn_k.weight", (kv, s.dim)
        yield f"blk.{i}.attn_v.weight", (kv, s.dim)
        yield f"blk.{i}.attn_output.weight", (s.dim, q)
        yield f"blk.{i}.ffn_gate.weight", (s.ffn, s.dim)
        yield f"blk.{i}.ffn_up.weight", (s.ffn, s.dim)
        yield f"blk.{i}.ffn_down.weight", (s.dim, s.ffn)
    if not s.tied:
        yield "output.weight", (s.vocab, s.dim)


def matrix_types(s: Shape, file_type: str, pure: bool = False) -> dict[str, str]:
    """The type of every matrix in a file of this type."""
    model = mixtures.Facts(s.layers, s.arch, s.heads // s.kv_heads)
    return mixtures.tensor_types(file_type, {name: (dims, "f32") for name, dims in matrices(s)}, model, pure=pure)


def vectors(s: Shape, rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Norm weights around 1, biases around 0, and Llama 3's frequency factors; all float32."""
    def near(n: int, centre: float, std: float) -> Any:
        return (centre + std * rng.standard_normal(n)).astype(np.float32)

    for i in range(s.layers):
        yield f"blk.{i}.attn_norm.weight", near(s.dim, 1, 0.1)
        yield f"blk.{i}.ffn_norm.weight", near(s.dim, 1, 0.1)
        if s.qkv_bias:
            yield f"blk.{i}.attn_q.bias", near(s.heads * s.head_dim, 0, 0.1)
            yield f"blk.{i}.attn_k.bias", near(s.kv_heads * s.head_dim, 0, 0.1)
            yield f"blk.{i}.attn_v.bias", near(s.kv_heads * s.head_dim, 0, 0.1)
    yield "output_norm.weight", near(s.dim, 1, 0.1)
    if s.rope_factors:
        yield "rope_freqs.weight", llama3_factors(s.head_dim, s.rope_base)


def llama3_factors(head_dim: int, base: float, factor: float = 32.0, original: int = 8192) -> Any:
    """Divisors of the rotary frequencies of Llama 3.2: `factor` for the low ones, 1 for the high ones.

    Between wavelengths original/4 and original the two are blended. float32 [head_dim / 2].
    """
    wavelength = 2 * np.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    blend = np.clip((original / wavelength - 1.0) / (4.0 - 1.0), 0.0, 1.0)
    return (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)


def write_model(
    shape: Shape, file_type: str, path: Path, seed: int = 0, pure: bool = False
) -> dict[str, int]:
    """Write the file (through a temporary name); same seed, same bytes. Returns tensors by type."""
    gguf = _gguf()
    partial = path.with_name(path.name + f".{os.getpid()}.part")
    writer = gguf.GGUFWriter(partial, shape.arch)
    _metadata(writer, shape, file_type)
    plan: list[tuple[str, str, tuple[int, ...], Any]] = []
    kinds = matrix_types(shape, file_type, pure)
    plan += [(name, kinds[name], dims, None) for name, dims in matrices(shape)]
    rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(shape.name.encode())]))
    plan += [(name, "f32", data.shape, data) for name, data in vectors(shape, rng)]
    for name, kind, dims, _ in plan:
        row = blocks.BY_NAME[kind].row_bytes(dims[-1])
        nbytes = int(np.prod(dims[:-1], dtype=np.int64)) * row
        raw = gguf.GGMLQuantizationType(blocks.BY_NAME[kind].id)
        writer.add_tensor_info(name, (*dims[:-1], row), np.dtype(np.uint8), nbytes, raw_dtype=raw)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        out = writer.fout[0]
        writer.write_padding(out, out.tell())
        for name, kind, dims, data in plan:
            own = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
            for part in [data] if data is not None else random_blocks.chunks(own, kind, dims):
                part.tofile(out)
            writer.write_padding(out, out.tell())
        writer.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    counts: dict[str, int] = {}
    for _, kind, _, _ in plan:
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _metadata(writer: Any, s: Shape, file_type: str) -> None:
    writer.add_name(f"{s.name} shape, random weights")
    writer.add_file_type(mixtures.BASE[file_type][1])
    writer.add_quantization_version(2)
    writer.add_block_count(s.layers)
    writer.add_context_length(s.context)
    writer.add_embedding_length(s.dim)
    writer.add_feed_forward_length(s.ffn)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_rope_freq_base(s.rope_base)
    writer.add_rope_dimension_count(s.head_dim)
    writer.add_layer_norm_rms_eps(s.eps)
    writer.add_vocab_size(s.vocab)
    vocab = synthetic_vocab.make(s.vocab, list(s.special))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(s.pre)
    writer.add_token_list(vocab.tokens)
    writer.add_token_types(vocab.types)
    writer.add_token_merges(vocab.merges)
    writer.add_eos_token_id(vocab.id(s.eos))
    if s.bos is not None:
        writer.add_bos_token_id(vocab.id(s.bos))
    writer.add_add_bos_token(s.bos is not None)
    writer.add_chat_template(s.template)


def _gguf() -> Any:
    try:
        import gguf
    except ModuleNotFoundError:
        raise InputError("the gguf package is missing: pip install 'flux_vk[bench]'") from None
    return gguf


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="make_model.py", description="Write a GGUF model with random weights.")
    p.add_argument("shape", choices=sorted(SHAPES))
    types = sorted(mixtures.BASE)
    p.add_argument("--type", default="Q4_K_M", type=str.upper, choices=types, help="as llama-quantize has it")
    p.add_argument("--pure", action="store_true", help="one type for all matrices, not the mixture")
    p.add_argument("--vocab", type=int, metavar="N", help="another vocabulary size, e.g. 32000")
    p.add_argument("--layers", type=int, metavar="N", help="another number of layers")
    p.add_argument("--untied", action="store_true", help="an output matrix of its own")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--out", type=Path, help="file to write; default SHAPE-TYPE.gguf here")
    return p


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    args = _parser().parse_args(argv)
    shape = SHAPES[args.shape]
    if args.vocab is not None:
        shape = replace(shape, vocab=args.vocab)
    if args.layers is not None:
        shape = replace(shape, layers=args.layers)
    shape = replace(shape, tied=not args.untied)
    out = args.out or Path(f"{args.shape}-{args.type}.gguf")
    started = time.perf_counter()
    try:
        if shape.layers < 1 or shape.vocab < 256 + len(shape.special):
            raise InputError(f"--layers 1 or more and --vocab {256 + len(shape.special)} or more are needed")
        counts = write_model(shape, args.type, out, args.seed, args.pure)
    except (FluxError, OSError) as error:
        print(f"make_model.py: {error}", file=sys.stderr)
        return 2
    shown = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items(), key=lambda c: -c[1]))
    size = out.stat().st_size
    seconds = time.perf_counter() - started
    print(f"{out}: {size / 1e6:.1f} MB, {sum(counts.values())} tensors ({shown}), {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
