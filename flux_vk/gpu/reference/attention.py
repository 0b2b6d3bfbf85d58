"""float64 references of `rope_store`, `attention` and `softcap`: the kernels' arguments as arrays.

Not for speed: rows, heads and keys are plain loops over the pages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]

F16_MAX = 65504.0


def page_entry(position: int, info: Words, page_size: int) -> int:
    """Entry of the page table that holds a position: `info` = (sink pages, dropped pages, 0, 0)."""
    logical = position // page_size
    return logical - (int(info[1]) if logical >= int(info[0]) else 0)


def rotate(
    x: npt.NDArray[Any], positions: npt.NDArray[Any], turns: Words, *, neox: bool, n_rot: int, mscale: float
) -> F64:
    """Rotates n_rot elements of x[R, ..., D] by positions[R] * turns[i] * 2^-32 turns, times mscale."""
    half = n_rot // 2
    whole = positions.astype(np.uint64)[:, None] * turns[:half].astype(np.uint64)[None, :]
    angle = (whole & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0 * np.pi / 2.0**32)
    angle = angle.reshape(len(x), *[1] * (x.ndim - 2), half)
    cos, sin = np.cos(angle) * mscale, np.sin(angle) * mscale
    first = slice(0, half) if neox else slice(0, n_rot, 2)
    second = slice(half, n_rot) if neox else slice(1, n_rot, 2)
    out = x.astype(np.float64)
    a, b = out[..., first].copy(), out[..., second].copy()
    out[..., first] = a * cos - b * sin
    out[..., second] = a * sin + b * cos
    return out


def rope_store(
    qkv: npt.NDArray[np.float32], pos: Words, slot: Words, pages: Words, slot_info: Words, turns: Words,
    kcache: npt.NDArray[Any], vcache: npt.NDArray[Any], *,
    heads: int, kv_heads: int, head_dim: int, n_rot: int, mscale: float = 1.0,
    eps: float = 0.0, neox: bool = False,
    qnorm: npt.NDArray[np.float32] | None = None, knorm: npt.NDArray[np.float32] | None = None,
) -> tuple[F64, F64, F64]:  # fmt: skip
    """Returns (qkv with q rotated, kcache, vcache) in float64.

    The caches are copies of those given with rows added.
    """
    n_slots, page_size = pages.shape[0], kcache.shape[2]
    out = qkv.astype(np.float64)
    k_out, v_out = kcache.astype(np.float64), vcache.astype(np.float64)
    q_width, kv_width = heads * head_dim, kv_heads * head_dim
    live = np.flatnonzero(slot < n_slots)
    q: F64 = out[live, :q_width].reshape(-1, heads, head_dim)
    k: F64 = out[live, q_width : q_width + kv_width].reshape(-1, kv_heads, head_dim)
    v = out[live, q_width + kv_width : q_width + 2 * kv_width].reshape(-1, kv_heads, head_dim)
    if qnorm is not None:
        q = q / np.sqrt(np.mean(q * q, axis=-1, keepdims=True) + eps) * qnorm.astype(np.float64)
    if knorm is not None:
        k = k / np.sqrt(np.mean(k * k, axis=-1, keepdims=True) + eps) * knorm.astype(np.float64)
    q = rotate(q, pos[live], turns, neox=neox, n_rot=n_rot, mscale=mscale)
    k = rotate(k, pos[live], turns, neox=neox, n_rot=n_rot, mscale=mscale)
    out[live, :q_width] = q.reshape(len(live), q_width)
    limit = F16_MAX if kcache.dtype == np.float16 else np.inf
    for n, row in enumerate(live):
        entry = page_entry(int(pos[row]), slot_info[slot[row]], page_size)
        if entry < pages.shape[1]:
            page, offset = pages[slot[row], entry], int(pos[row]) % page_size
            k_out[page, :, offset] = np.clip(k[n], -limit, limit)
            v_out[page, :, offset] = np.clip(v[n], -limit, limit)
    return out, k_out, v_out


def attention(
    q: npt.NDArray[np.float32], pos: Words, slot: Words, pages: Words, slot_info: Words,
    kcache: npt.NDArray[Any], vcache: npt.NDArray[Any], *, heads: int, kv_heads: int, scale: float,
    softcap: float = 0.0, window: int = 0,
) -> F64:  # fmt: skip
    """y[R, heads * head_dim]: causal attention of every row over the pages that its slot still has."""
    n_slots, page_size, head_dim = pages.shape[0], kcache.shape[2], kcache.shape[3]
    group = heads // kv_heads
    y = np.zeros((len(q), heads, head_dim))
    for row in range(len(q)):
        if slot[row] >= n_slots:
            continue
        position, info = int(pos[row]), slot_info[slot[row]]
        ks, vs = [], []
        for entry in range(page_entry(position, info, page_size) + 1):
            start = (entry if entry < int(info[0]) else entry + int(info[1])) * page_size
            keys: npt.NDArray[np.int64] = np.arange(start, min(start + page_size, position + 1))
            if window:
                keys = keys[position - keys < window]
            ks.append(kcache[pages[slot[row], entry]][:, keys - start])
            vs.append(vcache[pages[slot[row], entry]][:, keys - start])
        k = np.concatenate(ks, axis=1).astype(np.float64)
        v = np.concatenate(vs, axis=1).astype(np.float64)
        heads_q = q[row, : heads * head_dim].astype(np.float64).reshape(kv_heads, group, head_dim)
        s = np.einsum("hgd,hkd->hgk", heads_q, k) * scale
        if softcap:
            s = softcap * np.tanh(s / softcap)
        e = np.exp(s - s.max(axis=-1, keepdims=True))
        y[row] = np.einsum("hgk,hkd->hgd", e / e.sum(axis=-1, keepdims=True), v).reshape(heads, head_dim)
    return y.reshape(len(q), heads * head_dim)


def softcap(x: npt.NDArray[np.float32], *, cap: float) -> F64:
    """cap * tanh(x / cap)."""
    return np.asarray(cap * np.tanh(x.astype(np.float64) / cap))
