"""Training's kernels around attention, over four packed sequences: rotation, norm, attention, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flux_vk.cli.bench_cases import MAX_ELEMENTS, Array, Case, Check, Prepared, Sizes, dispatch, plain, same
from flux_vk.gpu import Chain, kernels
from flux_vk.gpu.attention_train import attention_forward, shape_for
from flux_vk.gpu.reference import reference

if TYPE_CHECKING:
    from flux_vk.gpu import Device

SEQUENCES = 4
CHECKED = 1024
"""Rows up to which the outcome is compared: the reference keeps rows x rows numbers a head."""


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """For each row count; attention's rows are those of `SEQUENCES` sequences of equal length."""
    heads = {"heads": sizes.heads, "kv_heads": sizes.kv_heads, "head_dim": sizes.head_dim}
    width = sizes.heads * sizes.head_dim
    for r in rows:
        yield plain("rms_norm_backward", f"{r} x {sizes.dim}", {"R": r, "D": sizes.dim, "eps": 1e-5, "accumulate": 0})
        rotation = {"R": r, **heads, "n_rot": sizes.head_dim, "mscale": 1.0, "eps": 1e-5, "NEOX": 1, "WIDE": 1}
        for kernel in ("qk_rope", "qk_rope_backward"):
            yield plain(kernel, f"{r} x {sizes.heads} + {sizes.kv_heads} heads of {sizes.head_dim}", rotation)
        delta = {"T": r, "heads": sizes.heads, "HEAD_DIM": sizes.head_dim}
        yield plain("attention_delta", f"{r} x {sizes.heads} heads of {sizes.head_dim}", delta)
        if r * width <= MAX_ELEMENTS:
            label = f"{r} rows in {min(r, SEQUENCES)} sequences, {sizes.heads} / {sizes.kv_heads} heads"
            for kernel in ("attention_train", "attention_back_q", "attention_back_kv"):
                yield Case(kernel, label, partial(_attention, sizes, r, kernel))


def packed(rows: int, sequences: int) -> tuple[Array, Array]:
    """(first, last) of rows in sequences of about equal length."""
    ends = np.linspace(0, rows, min(rows, sequences) + 1).astype(np.uint32)
    lengths = np.diff(ends)
    return np.repeat(ends[:-1], lengths), np.repeat(ends[1:], lengths)


def _attention(s: Sizes, rows: int, kernel: str, device: Device, rng: np.random.Generator) -> Prepared:
    """One of attention's three kernels, after all that comes before it has run."""
    heads: dict[str, Any] = {"heads": s.heads, "kv_heads": s.kv_heads}
    sizes = {**heads, "scale": s.head_dim**-0.5}
    first, last = packed(rows, SEQUENCES)
    width = {"qk": s.heads + s.kv_heads, "qkv": s.heads + 2 * s.kv_heads, "dy": s.heads}
    given = {name: rng.standard_normal((rows, n * s.head_dim), np.float32) for name, n in width.items()}
    b = {name: device.array(a) for name, a in {**given, "first": first, "last": last}.items()}
    b |= {"y": device.filled(given["dy"].shape, "f32", 0xFF), "lse": device.empty((rows, s.heads))}
    b |= {"dqk": device.filled(given["qk"].shape, "f32", 0xFF), "dqkv": device.zeros(given["qkv"].shape)}
    b["delta"] = device.empty((rows, s.heads))
    forward = kernel == "attention_train"
    if not forward:
        chain = attention_forward(
            Chain(device), qk=b["qk"], qkv=b["qkv"], first=b["first"], y=b["y"], lse=b["lse"], **sizes,
            head_dim=s.head_dim,
        )  # fmt: skip
        chain.attention_delta(y=b["y"], dy=b["dy"], delta=b["delta"], heads=s.heads, HEAD_DIM=s.head_dim).run()
    q, v = s.heads * s.head_dim, s.kv_heads * s.head_dim

    def checks() -> list[Check]:
        if rows > CHECKED:
            return []
        state = (given["qk"], given["qkv"], first)
        if forward:
            return [("y", same, reference("attention_train")(*state, **sizes, head_dim=s.head_dim)[0])]
        dqk, dv = reference("attention_backward")(*state, given["dy"], **sizes, head_dim=s.head_dim)
        if kernel == "attention_back_q":
            return [("dqk", lambda a: a[:, :q], dqk[:, :q])]
        return [("dqk", lambda a: a[:, q:], dqk[:, q:]), ("dqkv", lambda a: a[:, -v:], dv)]

    bound = {binding.name for binding in kernels.contract(kernel).bindings}
    scalars = {**sizes, **shape_for(device, kernel, rows, **heads, head_dim=s.head_dim)}
    append = partial(dispatch, kernel, scalars)
    products = {"attention_train": 4, "attention_back_q": 6, "attention_back_kv": 8}[kernel]
    seen = float((np.arange(rows) - first.astype(np.int64) + 1).sum())
    buffers = {name: buffer for name, buffer in b.items() if name in bound}
    return Prepared(
        buffers, append, checks, kernels.contract(kernel).nmse, flops=products * seen * s.heads * s.head_dim
    )  # fmt: skip
