"""NumPy reference of the sampling kernels: the same integers, the same float32 operations, hence the same tokens.

`distribution` is the plain float64 definition that the draws must follow. Not for production sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

CAP = 512  # length of the short list in shaders/include/sample_collect.glsl
ONE = 1 << 40  # mass of the most likely token
KEY_NEG_INF = 0x007FFFFF


def philox4x32_10(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Four random 32-bit words for a 4-word counter and a 2-word key (Salmon et al. 2011)."""
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & mask, (p0 >> 32) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


def draw_bits(seed: int, position: int) -> int:
    """The 64 random bits that choose the token at `position`."""
    words = philox4x32_10((position, 0, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    return words[0] | words[1] << 32


def key_of(x: F32) -> U32:
    """Ordered keys: larger float, larger key; NaN as -inf, +inf as the largest finite float, -0 as +0."""
    bits = np.where(x == 0, np.float32(0), x).astype(np.float32).view(np.uint32)
    key = np.where(bits >> 31 != 0, ~bits, bits | np.uint32(0x80000000))
    key = np.where(np.isposinf(x), np.uint32(0xFF7FFFFF), key)
    return np.where(np.isnan(x), np.uint32(KEY_NEG_INF), key).astype(np.uint32)


def value_of(key: U32) -> F32:
    """Inverse of `key_of` on clean values."""
    bits = np.where(key >> 31 != 0, key & np.uint32(0x7FFFFFFF), ~key)
    return np.asarray(bits, np.uint32).view(np.float32)


def exp_neg(x: F32) -> F32:
    """exp(x) for x <= 0, operation by operation as shaders/include/sample_math.glsl does it."""
    f = np.float32
    c = np.maximum(x, f(-30)).astype(np.float32)
    n = np.floor(c * f(1.44269504) + f(0.5)).astype(np.float32)
    r = c - n * f(0.693359375)
    r = r - n * f(-2.12194440e-4)
    e = np.full_like(r, f(1.98412698e-4))
    for term in (1.38888889e-3, 8.33333333e-3, 4.16666667e-2, 1.66666667e-1, 0.5, 1.0, 1.0):
        e = e * r + f(term)
    e = e * ((n.astype(np.int32) + 127) << 23).astype(np.int32).view(np.float32)
    return np.where(x < f(-30), f(0), e).astype(np.float32)


def mass(d: F32) -> I64:
    """Integer mass of exp(d) in units of 2^-40, rounded down."""
    return (exp_neg(d).astype(np.float64) * ONE).astype(np.int64)


def adjust_row(
    logits: F32,
    *,
    logit_bias: Mapping[int, float] | None = None,
    history: Sequence[int] = (),
    repeat_last_n: int = 64,
    repeat_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
) -> F32:
    """float32[V] after bias and penalties over the last `repeat_last_n` tokens of `history`."""
    f = np.float32
    x = logits.astype(np.float32).copy()
    for token, bias in (logit_bias or {}).items():
        x[token] = x[token] + f(bias)
    recent = list(history)[-repeat_last_n:] if repeat_last_n else []
    repeat, inverse = f(repeat_penalty), f(1.0 / repeat_penalty)
    for token in sorted(set(recent)):
        y = x[token] * inverse if x[token] > 0 else x[token] * repeat
        x[token] = y - (f(recent.count(token)) * f(frequency_penalty) + f(presence_penalty))
    return x


def pick_row(
    logits: F32,
    *,
    inverse_temperature: float,
    top_k: int = 0,
    top_p_share: int | None = None,
    ln_min_p: float = -np.inf,
    seed: int = 0,
    position: int = 0,
) -> int | None:
    """Token for `position` from float32[V] adjusted logits; None where no logit is finite.

    The parameters are what the kernel gets: inverse_temperature 0 is greedy, top_p_share has 2^32 for 1 (None: off).
    """
    key = key_of(logits)
    if key.max() <= KEY_NEG_INF:
        return None
    if inverse_temperature == 0:
        return int(np.argmax(key))
    with np.errstate(over="ignore", invalid="ignore"):
        below = (value_of(key) - value_of(key.max(keepdims=True))).astype(np.float32)
        tempered = mass((below * np.float32(inverse_temperature)).astype(np.float32))
        least = value_of(key.max(keepdims=True)) + np.float32(ln_min_p)
    order = np.argsort(~key, kind="stable")
    if top_k:
        order = order[:top_k]
    if top_p_share is not None:
        masses = mass(below[order])
        target = max(-(-int(masses.sum()) * top_p_share // 2**32), 1)
        order = order[np.cumsum(masses) - masses < target]
    order = order[key[order] >= key_of(least)[0]]
    inside = np.zeros(len(key), np.int64)
    inside[order] = tempered[order]
    cumulative = np.cumsum(inside)
    target = int(cumulative[-1]) * draw_bits(seed, position) >> 64
    return int(np.searchsorted(cumulative, target, side="right"))


def top_row(logits: F32, n: int) -> tuple[float, list[tuple[int, float]]]:
    """logsumexp, and the n best (id, log-probability) of softmax(logits), in float64."""
    x = value_of(key_of(logits)).astype(np.float64)
    lse = float(x.max() + np.log(np.exp(x - x.max()).sum()))
    order = np.argsort(~key_of(logits), kind="stable")[:n]
    return lse, [(int(i), float(x[i] - lse)) for i in order]


def distribution(
    logits: npt.ArrayLike, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> npt.NDArray[np.float64]:
    """float64[V] probabilities that the draws follow, from the definitions (temperature > 0)."""
    x = np.asarray(logits, np.float64)
    order = np.argsort(-x, kind="stable")
    if top_k:
        order = order[:top_k]
    p = np.exp(x[order] - x.max())
    p /= p.sum()
    if top_p < 1:
        order = order[np.cumsum(p) - p < max(top_p - 2**-20, 1e-300)]
    if min_p > 0:
        order = order[x[order] >= x.max() + np.log(min_p)]
    kept = np.exp((x[order] - x.max()) / temperature)
    result = np.zeros(len(x))
    result[order] = kept / kept.sum()
    return result
