"""The matrix products of training: LoRA's on floats, and through quantised weights forward and backward.

matmul_train and matmul_backward are timed as devices take them: where a device has another kernel for them, the line
has no variant.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.cli import random_blocks
from flux_vk.cli.bench_cases import CHECKED_ROWS, Array, Buffers, Case, Check, Prepared, Sizes, same
from flux_vk.formats import blocks
from flux_vk.gpu import Chain, kernels
from flux_vk.gpu.gemm import gemm
from flux_vk.gpu.matmul_backward import matmul_backward
from flux_vk.gpu.matmul_train import matmul_train
from flux_vk.gpu.reference import reference

if TYPE_CHECKING:
    from flux_vk.gpu import Device

RANK = 32
FEWEST = 32
"""Training has at least as many rows at once."""
PARTS = 4

Form = tuple[str, int, int, int, bool, bool]


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """Row counts below FEWEST are left out; where no other is asked for, FEWEST it is."""
    for t in [r for r in rows if r >= FEWEST] or [FEWEST]:
        for form in lora(t, sizes.dim, sizes.dim):
            label = f"{form[0]}, {t} x {sizes.dim}, rank {RANK}"
            yield Case("gemm", label, partial(_gemm, False, form))
            yield Case("gemm_tile", label, partial(_gemm, True, form))
        for dtype in types:
            unit = blocks.runnable(dtype).weights
            for n, k in dict.fromkeys(((sizes.dim, sizes.dim), (sizes.ffn, sizes.dim), (sizes.dim, sizes.ffn))):
                if k % unit == 0:
                    yield Case("matmul_train", f"{t} x {k} -> {n} {dtype}", partial(_forward, dtype, (n, k), t))
                    yield Case("matmul_backward", f"{t} x {n} -> {k} {dtype}", partial(_backward, dtype, (n, k), t))
    yield Case("gemm_sum", f"{PARTS} x {RANK} x {sizes.dim}", partial(_sum, (PARTS, RANK, sizes.dim)))


def lora(t: int, width: int, out: int) -> Iterator[Form]:
    """The products of one adapted matrix [out, width]: name, m, n, k and how the operands are stored."""
    yield "x A^T", t, RANK, width, False, True
    yield "u B^T", t, out, RANK, False, True
    yield "g B", t, RANK, out, False, False
    yield "du^T x", RANK, width, t, True, False
    yield "g^T u", out, RANK, t, True, False
    yield "du A", t, width, RANK, False, False


def _gemm(tile: bool, form: Form, device: Device, rng: np.random.Generator) -> Prepared:
    """tile: the kernel of GPUs, on any device; the other one only where the front takes it."""
    _, m, n, k, ta, tb = form
    a = rng.standard_normal((k, m) if ta else (m, k), dtype=np.float32)
    b = rng.standard_normal((n, k) if tb else (k, n), dtype=np.float32)
    buffers = {"a": device.array(a), "b": device.array(b), "c": device.filled((m, n), "f32", 0xFF)}

    def append(chain: Chain, at: Buffers) -> object:
        if tile or not kernels.made_for(device, "gemm"):
            return chain.gemm_tile(
                **at, M=m, N=n, K=k, lda=a.shape[1], ldb=b.shape[1], ldc=n, k_split=k,
                TA=int(ta), TB=int(tb),
            )  # fmt: skip
        return gemm(chain, a=at["a"], b=at["b"], c=at["c"], m=m, n=n, k=k, ta=ta, tb=tb)

    def want() -> list[Check]:
        return [("c", same, reference("gemm")(a, b, ta=ta, tb=tb))]

    return Prepared(buffers, append, want, kernels.contract("gemm").nmse, 4 * (a.size + b.size + m * n), 2 * m * n * k)


def _forward(dtype: str, shape: tuple[int, int], t: int, device: Device, rng: np.random.Generator) -> Prepared:
    n, k = shape
    raw = np.concatenate([part.reshape(-1) for part in random_blocks.chunks(rng, dtype, shape)])
    x = rng.standard_normal((t, k), dtype=np.float32)
    buffers = {"w": device.weight(raw, dtype, shape), "x": device.array(x), "y": device.filled((t, n), "f32", 0xFF)}

    def want() -> list[Check]:
        w = blocks.dequantize(raw, dtype, shape)
        return [("y", partial(_rows, CHECKED_ROWS), reference("matmul_train")(w, x[:CHECKED_ROWS]))]

    moved = buffers["w"].nbytes + 4 * t * (n + k)
    limit = kernels.contract("matmul_train" if device.family == "cpu" else "matmul_tile").nmse
    return Prepared(buffers, _append_forward, want, limit, moved, 2 * n * k * t)


def _append_forward(chain: Chain, at: Buffers) -> object:
    return matmul_train(chain, w=at["w"], x=at["x"], y=at["y"])


def _backward(dtype: str, shape: tuple[int, int], t: int, device: Device, rng: np.random.Generator) -> Prepared:
    n, k = shape
    raw = np.concatenate([part.reshape(-1) for part in random_blocks.chunks(rng, dtype, shape)])
    g = rng.standard_normal((t, n), dtype=np.float32)
    buffers = {"w": device.weight(raw, dtype, shape), "g": device.array(g), "dx": device.filled((t, k), "f32", 0xFF)}

    def want() -> list[Check]:
        w = blocks.dequantize(raw, dtype, shape)
        return [("dx", partial(_rows, CHECKED_ROWS), reference("matmul_backward")(w, g[:CHECKED_ROWS]))]

    moved = buffers["w"].nbytes + 4 * t * (n + k)
    limit = kernels.contract("matmul_backward").nmse
    return Prepared(buffers, _append_backward, want, limit, moved, 2 * n * k * t)


def _append_backward(chain: Chain, at: Buffers) -> object:
    return matmul_backward(chain, w=at["w"], g=at["g"], dx=at["dx"])


def _rows(most: int, a: Array) -> Array:
    return a[:most]


def _sum(shape: tuple[int, int, int], device: Device, rng: np.random.Generator) -> Prepared:
    parts = rng.standard_normal(shape, dtype=np.float32)
    buffers = {"parts": device.array(parts), "c": device.filled(shape[1:], "f32", 0xFF)}

    def append(chain: Chain, at: Buffers) -> object:
        return chain.gemm_sum(**at, ldc=shape[2])

    return Prepared(buffers, append, [("c", same, reference("gemm_sum")(parts))], kernels.contract("gemm_sum").nmse)
