"""The kernels at the sizes of real models: inputs, what should come out, bytes and operations. Not for: timing.

More of them are in the modules of kernel_cases/, each with a function `cases` like the one here: that is where a new
kernel gets its case. Every contract has one (a test says which are missing).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flux_vk.cli import random_blocks
from flux_vk.errors import InputError
from flux_vk.formats import blocks, layout
from flux_vk.gpu import Buffer, Chain, Device, expressions, kernels
from flux_vk.gpu.matmul import matmul
from flux_vk.gpu.matmul_tile import matmul_tile
from flux_vk.gpu.reference import reference
from flux_vk.models.step import attention_shape, heads_per_workgroup

if TYPE_CHECKING:
    from flux_vk.gpu.contract import Contract

Array = npt.NDArray[Any]
Buffers = Mapping[str, Buffer]
Append = Callable[..., Chain]
Check = tuple[str, Callable[[Array], Array], Array]
MAX_ELEMENTS = 1 << 24
"""Cases with larger activations than this are left out."""
PAGE = 32
"""Tokens of a page of the cache."""
CHECKED_ROWS = 1024
"""Of a larger matrix only the first and last rows are compared."""


@dataclass(frozen=True)
class Sizes:
    """A model's shape, as far as kernels see it."""

    dim: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


SHAPES = {
    "qwen2.5-0.5b": Sizes(896, 4864, 14, 2, 64, 151_936),
    "llama-3.2-1b": Sizes(2048, 8192, 32, 8, 64, 128_256),
    "llama-3.1-8b": Sizes(4096, 14_336, 32, 8, 128, 128_256),
    "demo": Sizes(256, 768, 8, 4, 32, 2048),
}


@dataclass
class Prepared:
    """A case on a device. `append` adds one call to a chain.

    checks: (output, the part to compare, its value), or a function that works them out when they are wanted.
    bytes, flops: what one call moves and does, where the contract's own cost is not the whole truth.
    """

    buffers: dict[str, Buffer]
    append: Callable[[Chain, Buffers], object]
    checks: Sequence[Check] | Callable[[], Sequence[Check]]
    nmse: float
    bytes: float | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Case:
    """One line of the table: `make` uploads data and computes the reference."""

    kernel: str
    label: str
    make: Callable[[Device, np.random.Generator], Prepared] = field(repr=False)


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """All cases of these row counts, weight types and (for attention) context: those here and those of kernel_cases."""
    from flux_vk.cli import kernel_cases

    for r in rows:
        yield from _activations(sizes, r)
        yield from _attention(sizes, r, context)
        for t in types:
            yield from _products(sizes, r, t)
    for t in types:
        if sizes.dim % blocks.runnable(t).weights == 0:
            label = f"{sizes.ffn} x {sizes.dim} {t}"
            yield Case("dequantize", label, partial(_dequantize, t, (sizes.ffn, sizes.dim)))
            if any(v.types.get("y") == t for v in kernels.contract("quantize").variants):
                yield Case("quantize", label, partial(_quantize, t, (sizes.ffn, sizes.dim)))
    yield from kernel_cases.cases(sizes, rows, types, context)


def missing(sizes: Sizes) -> list[str]:
    """Kernels that have a contract and no case: empty, or a kernel was added and cannot be measured."""
    found = {c.kernel for c in cases(sizes, [1, 64], list(blocks.RUNNABLE), 512)}
    return sorted(set(kernels.contracts()) - found)


def _activations(s: Sizes, r: int) -> Iterator[Case]:
    eps = {"eps": 1e-5}
    width = s.heads * s.head_dim
    for kernel in ("rms_norm", "add_rms_norm", "layer_norm"):
        yield plain(kernel, f"{r} x {s.dim}", {"R": r, "D": s.dim, **eps})
    for kernel in ("swiglu", "geglu"):
        yield plain(kernel, f"{r} x {s.ffn}", {"R": r, "F": s.ffn})
    yield plain("add", f"{r} x {s.dim}", {"R": r, "Rb": r, "D": s.dim})
    yield plain("mul", f"{r} x {s.dim}, 1 row", {"R": r, "Rb": 1, "D": s.dim})
    yield plain("gather", f"{r} x {s.dim}", {"R": r, "M": r, "D": s.dim}, idx=lambda g: below(g, r, (r,)))
    yield plain("reduce", f"{r} x {s.ffn}", {"R": r, "D": s.ffn})
    yield plain("softmax", f"{r} x {s.ffn}", {"R": r, "D": s.ffn})
    strides = {"rows": r, "cols": s.dim, "x_stride": s.dim, "y_stride": s.dim, "x_offset": 0, "y_offset": 0}
    yield plain("copy_strided", f"{r} x {s.dim}", strides)
    turns = {"stride": width, "offset": 0, "heads": s.heads, "head_dim": s.head_dim, "n_rot": s.head_dim}
    yield plain("rope", f"{r} x {s.heads} x {s.head_dim}", {"R": r, **turns}, pos=lambda g: below(g, 4096, (r,)))
    slots = {"slot": lambda g: below(g, r, (r,))}
    yield _rope_store(s, r, "f16")
    yield plain("fetch_rows", f"{r}", {"R": r, "S": r}, **slots)
    yield _cast(r * s.ffn)
    if r * s.vocab <= MAX_ELEMENTS:
        yield plain("argmax", f"{r} x {s.vocab}", {"R": r, "D": s.vocab})
        yield plain("softcap", f"{r} x {s.vocab}", {"M": r, "V": s.vocab, "cap": 30.0})


def below(rng: np.random.Generator, limit: int, shape: tuple[int, ...]) -> Array:
    return rng.integers(0, limit, shape).astype(np.uint32)


def random_array(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype in ("f32", "f16"):
        return rng.standard_normal(shape, dtype=np.float32).astype({"f32": "f4", "f16": "f2"}[dtype])
    return rng.integers(0, 1 << 32, shape, dtype=np.uint64).astype(np.uint32)


def plain(
    kernel: str, label: str, values: Mapping[str, int | float], **given: Callable[[np.random.Generator], Array]
) -> Case:
    """A kernel whose buffers follow from its contract: random inputs, but those `given`."""
    return Case(kernel, label, lambda device, rng: prepare(device, rng, kernel, values, given, {}))


def _rope_store(s: Sizes, r: int, kv: str) -> Case:
    """Rotation of q and k, and k and v into `kv` pages of one slot."""
    pages = -(-r // PAGE)
    sizes = {"heads": s.heads, "kv_heads": s.kv_heads, "head_dim": s.head_dim, "n_rot": s.head_dim}
    width = (s.heads + 2 * s.kv_heads) * s.head_dim
    symbols = {"R": r, "W": width, "S": 1, "P": pages, "NP": pages, "half": s.head_dim // 2, "PS": PAGE}
    cache = (pages, s.kv_heads, PAGE, s.head_dim)
    given: dict[str, Callable[[np.random.Generator], Array]] = {
        "pos": lambda g: np.arange(r, dtype=np.uint32),
        "slot": lambda g: np.zeros(r, np.uint32),
        "pages": lambda g: g.permutation(pages).astype(np.uint32)[None, :],
        "slot_info": lambda g: np.zeros((1, 4), np.uint32),
    }
    for name in ("kcache", "vcache"):
        given[name] = lambda g: np.zeros(cache, {"f16": "f2", "f32": "f4"}[kv])
    types = {"kcache": kv, "vcache": kv}
    values = {**symbols, **sizes}
    make = partial(prepare, kernel="rope_store", values=values, given=given, types=types)
    return Case("rope_store", f"{r} x {width} {kv}", make)


def _cast(n: int) -> Case:
    types = {"x": "f32", "y": "f16"}
    return Case("cast", f"{n} f32 to f16", lambda device, rng: prepare(device, rng, "cast", {"N": n}, {}, types))


def prepare(
    device: Device,
    rng: np.random.Generator,
    kernel: str,
    values: Mapping[str, int | float],
    given: Mapping[str, Callable[[np.random.Generator], Array]],
    types: Mapping[str, str],
) -> Prepared:
    """Inputs for a kernel as its contract wants them; `values`: symbols, push and specialization constants."""
    c = kernels.contract(kernel)
    env = {s.name: s.default for s in c.spec} | dict(values)
    arrays: dict[str, Array] = {}
    buffers: dict[str, Buffer] = {}
    for b in c.bindings:
        if b.optional or b.same_as:
            continue
        shape = tuple(int(expressions.evaluate(e, env)) for e in b.shape)
        dtype = types.get(b.name, b.type)
        if b.reads or b.name in given:
            arrays[b.name] = given[b.name](rng) if b.name in given else random_array(rng, dtype, shape)
            buffers[b.name] = device.array(arrays[b.name])
        else:
            buffers[b.name] = device.filled(shape, dtype, 0xFF)
    passed = {p.name for p in c.push if p.value is None} | {s.name for s in c.spec}
    scalars = {k: v for k, v in values.items() if k in passed}
    written = [b.name for b in c.bindings if b.writes and not b.optional]
    known = {**arrays, **{k.lower(): v for k, v in scalars.items()}, "source": types.get("x"), "target": types.get("y")}

    def checks() -> list[Check]:
        return [(name, same, want) for name, want in zip(written, expected(c, known), strict=True)]

    return Prepared(buffers, partial(dispatch, kernel, scalars), checks, c.nmse)


def dispatch(kernel: str, scalars: Mapping[str, Any], chain: Chain, buffers: Buffers) -> object:
    """Append one call of the kernel to the chain."""
    args: dict[str, Any] = {**buffers, **scalars}
    return chain.dispatch(kernel, **args)


def expected(c: Contract, known: Mapping[str, Any]) -> list[Array]:
    """The reference's results, called with those of the known names that it takes."""
    function = reference(c.name)
    takes = inspect.signature(function).parameters
    result = function(**{k: v for k, v in known.items() if k in takes})
    return list(result) if isinstance(result, tuple) else [result]


def same(a: Array) -> Array:
    """The whole output is compared."""
    return a


# -- weights ------------------------------------------------------------------------------------------------------


def _products(s: Sizes, r: int, t: str) -> Iterator[Case]:
    unit = blocks.runnable(t).weights
    for n, k in ((s.dim, s.dim), (s.ffn, s.dim), (s.dim, s.ffn)):
        if k % unit == 0:
            yield Case("matmul", f"{r} x {k} -> {n} {t}", partial(_matmul, t, (n, k), r))
            if r > 1:
                yield Case("matmul_tile", f"{r} x {k} -> {n} {t}", partial(_matmul, t, (n, k), r, append=matmul_tile))
    if s.dim % unit == 0:
        if r == 1:
            yield Case("matmul", f"{r} x {s.dim} -> {s.vocab} {t}", partial(_matmul, t, (s.vocab, s.dim), r))
        yield Case("embed", f"{r} of {s.vocab} x {s.dim} {t}", partial(_embed, t, (s.vocab, s.dim), r))


def _weights(rng: np.random.Generator, t: str, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.concatenate([part.reshape(-1) for part in random_blocks.chunks(rng, t, shape)])


def _rows(raw: npt.NDArray[np.uint8], t: str, shape: tuple[int, int], first: int, stop: int) -> Array:
    """Rows first..stop of the matrix as numbers."""
    size = blocks.runnable(t).row_bytes(shape[1])
    return blocks.dequantize(raw[first * size : stop * size], t, (stop - first, shape[1]))


def _matmul(
    t: str, shape: tuple[int, int], r: int, device: Device, rng: np.random.Generator, append: Append = matmul
) -> Prepared:
    n, k = shape
    raw = _weights(rng, t, shape)
    x = rng.standard_normal((r, k), dtype=np.float32)
    buffers = {"w": device.weight(raw, t, shape), "x": device.array(x), "y": device.filled((r, n), "f32", 0xFF)}

    def checks() -> list[Check]:
        ends = {(0, min(n, CHECKED_ROWS)), (max(0, n - CHECKED_ROWS), n)}
        wanted = ((a, b, reference("matmul")(_rows(raw, t, shape, a, b), x)) for a, b in ends)
        return [("y", partial(_columns, a, b), want) for a, b, want in wanted]

    moved = buffers["w"].nbytes + 4 * r * (n + k)
    limit = kernels.contract(append.__name__).nmse
    return Prepared(buffers, lambda c, b: append(c, w=b["w"], x=b["x"], y=b["y"]), checks, limit, moved, 2 * n * k * r)


def _columns(first: int, stop: int, a: Array) -> Array:
    return a[:, first:stop]


def _embed(t: str, shape: tuple[int, int], r: int, device: Device, rng: np.random.Generator) -> Prepared:
    raw = _weights(rng, t, shape)
    ids = below(rng, shape[0], (r,))
    size = blocks.runnable(t).row_bytes(shape[1])
    want = blocks.dequantize(np.concatenate([raw[i * size : (i + 1) * size] for i in ids]), t, (r, shape[1]))
    buffers = {
        "ids": device.array(ids), "w": device.weight(raw, t, shape), "y": device.filled((r, shape[1]), "f32", 0xFF),
    }  # fmt: skip
    moved = r * buffers["w"].row_bytes + 4 * r * shape[1]
    return Prepared(buffers, partial(dispatch, "embed", {"scale": 1.0}), [("y", same, want)], 1e-12, moved)


def _dequantize(t: str, shape: tuple[int, int], device: Device, rng: np.random.Generator) -> Prepared:
    raw = _weights(rng, t, shape)
    buffers = {"w": device.weight(raw, t, shape), "y": device.filled(shape, "f32", 0xFF)}
    moved = buffers["w"].nbytes + buffers["y"].nbytes

    def checks() -> list[Check]:
        return [("y", same, blocks.dequantize(raw, t, shape))]

    return Prepared(buffers, partial(dispatch, "dequantize", {}), checks, 1e-12, moved)


# Relative errors that normally distributed weights may have: a tenth above what llama.cpp's quantiser leaves.
_QUANTISED = {
    "q2_k": 0.325, "q3_k": 0.167, "q4_k": 0.078, "q5_k": 0.0399, "q6_k": 0.0195, "q8_0": 0.0059, "q4_0": 0.095,
    "q4_1": 0.086, "q5_0": 0.0467, "q5_1": 0.0415,
}  # fmt: skip


def _quantize(t: str, shape: tuple[int, int], device: Device, rng: np.random.Generator) -> Prepared:
    """The error in the table is that of the quantisation itself."""
    x = 0.02 * rng.standard_normal(shape, dtype=np.float32)
    y = device.filled((layout.packed_nbytes(t, shape),), "u8", 0xFF)
    y = replace(y, dtype=t, shape=shape, row_bytes=layout.row_stride(t, shape[1]))

    def values(packed: Array) -> Array:
        rows = packed.reshape(shape[0], -1)
        return blocks.dequantize(layout.unpack(rows, t, shape), t, shape)

    limit, moved = _QUANTISED[t] ** 2, x.nbytes + y.nbytes
    buffers = {"x": device.array(x), "y": y}
    return Prepared(buffers, partial(dispatch, "quantize", {}), [("y", values, x)], limit, moved)


# -- attention ----------------------------------------------------------------------------------------------------


def _attention(s: Sizes, r: int, context: int) -> Iterator[Case]:
    if r > context:
        return
    for kv in ("f16", "f32"):
        yield Case("attention", f"{r} x {context} keys {kv}", partial(_attend, s, r, context, kv))


def _attend(s: Sizes, r: int, context: int, kv: str, device: Device, rng: np.random.Generator) -> Prepared:
    pages = -(-context // PAGE)
    width = s.heads * s.head_dim
    cache = (pages, s.kv_heads, PAGE, s.head_dim)
    arrays: dict[str, Array] = {
        "q": rng.standard_normal((r, width), dtype=np.float32),
        "pos": np.arange(context - r, context, dtype=np.uint32),
        "slot": np.zeros(r, np.uint32),
        "pages": rng.permutation(pages).astype(np.uint32)[None, :],
        "slot_info": np.zeros((1, 4), np.uint32),
        "kcache": random_array(rng, kv, cache),
        "vcache": random_array(rng, kv, cache),
    }
    scalars = {"heads": s.heads, "kv_heads": s.kv_heads, "scale": s.head_dim**-0.5}
    spec = {"HEAD_DIM": s.head_dim, "PS": PAGE, "GROUP": heads_per_workgroup(s.heads // s.kv_heads)}
    spec |= attention_shape(device, s.head_dim, kv)
    buffers = {name: device.array(a) for name, a in arrays.items()} | {"y": device.filled((r, width), "f32", 0xFF)}
    c = kernels.contract("attention")

    def checks() -> list[Check]:
        return [("y", same, expected(c, {**arrays, **scalars, "head_dim": s.head_dim})[0])]

    moved = buffers["kcache"].nbytes * 2 + 8 * r * width
    flops = 4.0 * width * float((arrays["pos"].astype(np.float64) + 1).sum())
    append = partial(dispatch, "attention", {**scalars, **spec})
    return Prepared(buffers, append, checks, c.nmse, moved, flops)


def chosen(all_cases: Iterator[Case], names: list[str]) -> list[Case]:
    """The cases of the kernels named (all of them without names). InputError for a name that no kernel has."""
    known = kernels.contracts()
    for name in names:
        if name not in known:
            raise InputError(f"--kernel {name}: there is no such kernel; expected one of {', '.join(sorted(known))}")
    return [c for c in all_cases if not names or c.kernel in names]
