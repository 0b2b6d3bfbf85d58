"""The matrix products of GPUs for few tokens: matmul_wide, and quantize_x8 with matmul_dot behind it.

They run on every device, so that their results are checked everywhere; their times mean something on GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.cli import random_blocks
from flux_vk.cli.bench_cases import CHECKED_ROWS, Array, Buffers, Case, Check, Prepared, Sizes
from flux_vk.errors import ArgumentError
from flux_vk.formats import blocks
from flux_vk.gpu import Chain, kernels
from flux_vk.gpu.matmul_dot import dot_able, matmul_dot, quantize_x8, row_words
from flux_vk.gpu.matmul_wide import matmul_wide
from flux_vk.gpu.reference.dot import quantize_x8 as quantized
from flux_vk.gpu.reference.dot import values_x8
from flux_vk.gpu.reference.quant import matmul as product

if TYPE_CHECKING:
    from flux_vk.gpu import Device

FEW = 8
"""Most rows of activations that these kernels are meant for."""


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """The products of a layer, for row counts of at most FEW and, where there is none, for one row."""
    for r in [r for r in rows if r <= FEW] or [1]:
        for k in dict.fromkeys((sizes.dim, sizes.ffn)):
            yield Case("quantize_x8", f"{r} x {k}", partial(_quantize, k, r))
        for t in types:
            unit = blocks.runnable(t).weights
            for n, k in ((sizes.dim, sizes.dim), (sizes.ffn, sizes.dim), (sizes.dim, sizes.ffn)):
                if k % unit:
                    continue
                label = f"{r} x {k} -> {n} {t}"
                yield Case("matmul_wide", label, partial(_product, "matmul_wide", t, (n, k), r))
                if unit > 1:
                    yield Case("matmul_dot", label, partial(_product, "matmul_dot", t, (n, k), r))


def _quantize(k: int, r: int, device: Device, rng: np.random.Generator) -> Prepared:
    """The values that the words stand for are compared."""
    x = rng.standard_normal((r, k), dtype=np.float32)
    buffers = {"x": device.array(x), "x8": device.filled((r, row_words(k)), "u32", 0xFF)}
    checks: list[Check] = [("x8", partial(values_x8, k=k), values_x8(quantized(x), k))]
    limit = kernels.contract("quantize_x8").nmse
    return Prepared(buffers, lambda c, b: quantize_x8(c, x=b["x"], x8=b["x8"]), checks, limit)


def _product(
    kernel: str, t: str, shape: tuple[int, int], r: int, device: Device, rng: np.random.Generator
) -> Prepared:
    n, k = shape
    dot = kernel == "matmul_dot"
    if dot and not dot_able(device, t):
        raise ArgumentError(f"{kernel}: this device has no integer dot product")
    raw = np.concatenate([part.reshape(-1) for part in random_blocks.chunks(rng, t, shape)])
    x = rng.standard_normal((r, k), dtype=np.float32)
    words = quantized(x)
    buffers = {
        "w": device.weight(raw, t, shape), "x": device.array(words if dot else x),
        "y": device.filled((r, n), "f32", 0xFF),
    }  # fmt: skip
    size = blocks.runnable(t).row_bytes(k)
    checks: list[Check] = []
    for first, stop in {(0, min(n, CHECKED_ROWS)), (max(0, n - CHECKED_ROWS), n)}:
        w = blocks.dequantize(raw[first * size : stop * size], t, (stop - first, k))
        checks.append(("y", partial(_columns, first, stop), product(w, values_x8(words, k) if dot else x)))
    moved = buffers["w"].nbytes + buffers["x"].nbytes + 4 * r * n
    append = _dot if dot else _wide
    return Prepared(buffers, append, checks, kernels.contract(kernel).nmse, moved, 2 * n * k * r)


def _wide(chain: Chain, b: Buffers) -> object:
    return matmul_wide(chain, w=b["w"], x=b["x"], y=b["y"])


def _dot(chain: Chain, b: Buffers) -> object:
    return matmul_dot(chain, w=b["w"], x8=b["x"], y=b["y"])


def _columns(first: int, stop: int, a: Array) -> Array:
    return a[:, first:stop]
