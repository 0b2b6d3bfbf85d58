"""Kernels that stand for several others, made by the passes over chains as a model's step makes them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flux_vk.cli import random_blocks
from flux_vk.cli.bench_cases import PAGE, Array, Buffers, Case, Check, Prepared, Sizes, random_array, same
from flux_vk.errors import ArgumentError
from flux_vk.formats import blocks
from flux_vk.gpu.fusion import fuse
from flux_vk.gpu.matmul import matmul
from flux_vk.gpu.reference import reference
from flux_vk.gpu.steps import Dispatch
from flux_vk.models.step import attention_shape, heads_per_workgroup

if TYPE_CHECKING:
    from flux_vk.gpu import Chain, Device

F16_NMSE = 1e-6
"""Keys and values pass through float16 on their way, in the kernel as in the reference, but may round apart."""


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """One row of a decode step, whatever the row counts; the weights of q, k and v are of one type."""
    width = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    for t in types:
        if sizes.dim % blocks.runnable(t).weights == 0:
            label = f"1 x {sizes.dim} -> {width} {t}, {context} keys"
            yield Case("matmul_attention", label, partial(_attention, sizes, t, None, context))
            behind = f"{label}, attention behind it"
            yield Case("matmul_rope", behind, partial(_attention, sizes, t, f"{t}.sub", context))


def _attention(
    s: Sizes, t: str, variant: str | None, context: int, device: Device, rng: np.random.Generator
) -> Prepared:
    shape = ((s.heads + 2 * s.kv_heads) * s.head_dim, s.dim)
    raw = np.concatenate([part.reshape(-1) for part in random_blocks.chunks(rng, t, shape)])
    pages = -(-context // PAGE)
    cache = (pages, s.kv_heads, PAGE, s.head_dim)
    given: dict[str, Array] = {
        "pos": np.array([context - 1], np.uint32), "slot": np.zeros(1, np.uint32),
        "pages": rng.permutation(pages).astype(np.uint32)[None, :], "slot_info": np.zeros((1, 4), np.uint32),
        "turns": rng.integers(0, 1 << 32, s.head_dim // 2, dtype=np.uint64).astype(np.uint32),
        "kcache": random_array(rng, "f16", cache), "vcache": random_array(rng, "f16", cache),
    }  # fmt: skip
    x = rng.standard_normal((1, s.dim), dtype=np.float32)
    buffers = {name: device.array(a) for name, a in given.items()}
    buffers |= {"w": device.weight(raw, t, shape), "x": device.array(x)}
    buffers |= {"counters": device.zeros((64,), "u32"), "out": device.filled((1, s.heads * s.head_dim), "f32", 0xFF)}

    def checks() -> list[Check]:
        heads = {"heads": s.heads, "kv_heads": s.kv_heads}
        qkv = reference("matmul")(blocks.dequantize(raw, t, shape), x).astype(np.float32)
        rotated, keys, values = reference("rope_store")(qkv, **given, **heads, head_dim=s.head_dim, n_rot=s.head_dim)
        place = {name: given[name] for name in ("pos", "slot", "pages", "slot_info")}
        caches = {"kcache": keys.astype(np.float16), "vcache": values.astype(np.float16)}
        want = reference("attention")(rotated, **place, **caches, **heads, scale=s.head_dim**-0.5)
        return [("out", same, want)]

    moved = buffers["w"].nbytes + buffers["kcache"].nbytes * 2 + 4 * (s.dim + s.heads * s.head_dim)
    flops = 2.0 * shape[0] * s.dim + 4.0 * s.heads * s.head_dim * context
    return Prepared(buffers, partial(_append, s, variant), checks, F16_NMSE, moved, flops)


def _append(s: Sizes, variant: str | None, chain: Chain, b: Buffers) -> object:
    """Product, rope_store and attention, and the pass that makes them one, or two with a variant made for GPUs.

    ArgumentError where they stay three.
    """
    start, place = len(chain), {name: b[name] for name in ("pos", "slot", "pages", "slot_info", "kcache", "vcache")}
    heads: dict[str, Any] = {"heads": s.heads, "kv_heads": s.kv_heads, "PS": PAGE}
    qkv = chain.scratch((1, b["w"].shape[0]))
    matmul(chain, w=b["w"], x=b["x"], y=qkv, variant=variant)
    chain.rope_store(
        qkv=qkv, turns=b["turns"], head_dim=s.head_dim, n_rot=s.head_dim, mscale=1.0, eps=0.0, NEOX=0, WG=16, **place,
        **heads,
    )  # fmt: skip
    chain.attention(
        q=qkv, y=b["out"], scale=s.head_dim**-0.5, softcap=0.0, window=0, context=1, counters=b["counters"],
        HEAD_DIM=s.head_dim, GROUP=heads_per_workgroup(s.heads // s.kv_heads), **place, **heads,
        **attention_shape(chain.device, s.head_dim, "f16"),
    )  # fmt: skip
    fuse(chain, start, passes=("attention",))
    names = {s.contract.name for s in chain.steps[start:] if isinstance(s, Dispatch)}
    if not names & {"matmul_attention", "matmul_rope"}:
        raise ArgumentError("product, rope_store and attention stay three kernels on this device")
    return chain
