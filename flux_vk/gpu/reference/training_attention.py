"""float64 references of the training kernels around attention: rotation, norm and attention, forward and backward.

Not for speed, and not for the paged attention of inference (attention.py). Gradients are the textbook formulas; the
tests compare them with finite differences of the forward functions here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .attention import rotate
from .norm import rms_norm

F64 = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


def rms_norm_backward(x: Array, w: Array, g: Array, dx: Array | None = None, *, eps: float, accumulate: int = 0) -> F64:
    """x, g [..., D], w [D] -> the gradient of sum(rms_norm(x) * g) with respect to x, added to dx if asked for."""
    v, h = x.astype(np.float64), g.astype(np.float64) * w.astype(np.float64)
    mean = np.mean(v * v, axis=-1, keepdims=True) + eps
    found: F64 = (h - v * np.mean(v * h, axis=-1, keepdims=True) / mean) / np.sqrt(mean)
    return found + dx.astype(np.float64) if accumulate and dx is not None else found


def _split(rows: Array, *widths: int) -> list[F64]:
    """Columns of rows [T, ...] as parts [T, n, D] with D the last of widths."""
    *counts, dim = widths
    ends = np.cumsum([n * dim for n in counts])
    parts = np.split(rows.astype(np.float64), ends, axis=1)
    return [p.reshape(len(rows), n, dim) for p, n in zip(parts, counts, strict=False)]


def qk_rope(
    qkv: Array, pos: Array, turns: Array, qnorm: Array | None = None, knorm: Array | None = None, *,
    heads: int, kv_heads: int, head_dim: int, n_rot: int, mscale: float = 1.0, eps: float = 0.0, neox: int = 0,
    wide: int = 0,
) -> F64:  # fmt: skip
    """qkv [T, (H + 2 Hkv) D] -> q and k after their norms and rotation, [T, (H + Hkv) D]; behind n_rot it stays."""
    parts = []
    for x, w in zip(_split(qkv, heads, kv_heads, head_dim), (qnorm, knorm), strict=True):
        normed = x if w is None else rms_norm(x, w.astype(np.float64), eps=eps)
        parts.append(rotate(normed, pos, turns, neox=bool(neox), n_rot=n_rot, mscale=mscale).reshape(len(x), -1))
    return np.concatenate(parts, axis=1)


def qk_rope_backward(
    qkv: Array, dqk: Array, pos: Array, turns: Array, qnorm: Array | None = None, knorm: Array | None = None,
    dqkv: Array | None = None, *, heads: int, kv_heads: int, head_dim: int, n_rot: int, mscale: float = 1.0,
    eps: float = 0.0, neox: int = 0, wide: int = 0,
) -> F64:  # fmt: skip
    """dqk [T, (H + Hkv) D] -> the q and k columns of the gradient of qkv; its v columns are dqkv's, else zero."""
    back = (np.uint32(0) - pos.astype(np.uint32)).astype(np.uint32)  # the angle's opposite, modulo a whole turn
    parts = []
    sides = zip(_split(dqk, heads, kv_heads, head_dim), _split(qkv, heads, kv_heads, head_dim), strict=True)
    for (g, x), w in zip(sides, (qnorm, knorm), strict=True):
        turned = rotate(g, back, turns, neox=bool(neox), n_rot=n_rot, mscale=mscale)
        parts.append((turned if w is None else rms_norm_backward(x, w, turned, eps=eps)).reshape(len(x), -1))
    tail = np.zeros((len(qkv), kv_heads * head_dim)) if dqkv is None else dqkv[:, -kv_heads * head_dim :]
    return np.concatenate([*parts, tail.astype(np.float64)], axis=1)


def _seen(first: Array, window: int) -> npt.NDArray[np.bool_]:
    """[T, T]: whether row t sees row u."""
    t = np.arange(len(first))
    oldest = np.maximum(first.astype(np.int64), t - window + 1 if window else 0)
    seen: npt.NDArray[np.bool_] = (t[None, :] <= t[:, None]) & (t[None, :] >= oldest[:, None])
    return seen


def _weights(
    qk: Array, first: Array, heads: int, kv_heads: int, head_dim: int, scale: float, softcap: float, window: int
) -> tuple[F64, F64, F64]:
    """Softmax weights [T, H, T], lse [T, H] and the derivative of the soft-cap [T, H, T]."""
    q, k = _split(qk, heads, kv_heads, head_dim)
    s = np.einsum("thd,uhd->thu", q, np.repeat(k, heads // kv_heads, axis=1)) * scale
    slope = np.ones_like(s)
    if softcap:
        s = softcap * np.tanh(s / softcap)
        slope = 1 - (s / softcap) ** 2
    s = np.where(_seen(first, window)[:, None, :], s, -np.inf)
    top = s.max(axis=-1, keepdims=True)
    e = np.exp(s - top)
    total = e.sum(axis=-1, keepdims=True)
    return e / total, (top + np.log(total))[..., 0], slope


def attention_train(
    qk: Array, qkv: Array, first: Array, *, heads: int, kv_heads: int, head_dim: int, scale: float,
    softcap: float = 0.0, window: int = 0,
) -> tuple[F64, F64]:  # fmt: skip
    """(y [T, H D], lse [T, H]): row t attends to rows max(first[t], t - window + 1) ... t."""
    p, lse, _ = _weights(qk, first, heads, kv_heads, head_dim, scale, softcap, window)
    v = _split(qkv, heads, kv_heads, kv_heads, head_dim)[2]
    y = np.einsum("thu,uhd->thd", p, np.repeat(v, heads // kv_heads, axis=1))
    return y.reshape(len(qk), -1), lse


def attention_delta(y: Array, dy: Array, *, heads: int, head_dim: int) -> F64:
    """[T, H]: sums of y dy over each head."""
    products = (y.astype(np.float64) * dy.astype(np.float64)).reshape(len(y), heads, head_dim)
    found: F64 = products.sum(axis=-1)
    return found


def attention_backward(
    qk: Array, qkv: Array, first: Array, dy: Array, *, heads: int, kv_heads: int, head_dim: int, scale: float,
    softcap: float = 0.0, window: int = 0,
) -> tuple[F64, F64]:  # fmt: skip
    """(dqk [T, (H + Hkv) D], dv [T, Hkv D]): gradients of sum(y dy)."""
    p, _, slope = _weights(qk, first, heads, kv_heads, head_dim, scale, softcap, window)
    rows, group = len(qk), heads // kv_heads
    q, k = _split(qk, heads, kv_heads, head_dim)
    v = _split(qkv, heads, kv_heads, kv_heads, head_dim)[2]
    g = dy.astype(np.float64).reshape(rows, heads, head_dim)
    dp = np.einsum("thd,uhd->thu", g, np.repeat(v, group, axis=1))
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) * slope * scale
    dq = np.einsum("thu,uhd->thd", ds, np.repeat(k, group, axis=1))
    dk = np.einsum("thu,thd->uhd", ds, q).reshape(rows, kv_heads, group, head_dim).sum(axis=2)
    dv = np.einsum("thu,thd->uhd", p, g).reshape(rows, kv_heads, group, head_dim).sum(axis=2)
    return np.concatenate([dq.reshape(rows, -1), dk.reshape(rows, -1)], axis=1), dv.reshape(rows, -1)
