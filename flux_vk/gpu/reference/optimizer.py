"""References of the optimiser's kernels in float64: norm, clipping, AdamW, SGD. knobs and stats: gpu/optimizer.py."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]


def grad_norm(g: Floats, *, n: int) -> Array:
    """g [P] -> sums of squares [n] of runs of ceil(ceil(P / 4) / n) vectors of four."""
    vectors = -(-len(g) // 4)
    run = 4 * max(1, -(-vectors // n))
    parts: Array = np.zeros(n)
    for i in range(n):
        with np.errstate(over="ignore"):
            parts[i] = (g[i * run : (i + 1) * run].astype(np.float64) ** 2).sum()
    return parts


def grad_clip(parts: Floats, knobs: Floats) -> Array:
    """parts of grad_norm, knobs [16] -> stats [4]: norm of the mean gradient, factor, 1 where finite, 0."""
    max_norm, inverse = float(knobs[4]), float(knobs[5])
    norm = float(np.sqrt(parts.astype(np.float64).sum())) * inverse
    if not np.isfinite(norm):
        return np.array([norm, 0, 0, 0])
    return np.array([norm, inverse * (min(1, max_norm / (norm + 1e-6)) if max_norm > 0 else 1), 1, 0])


def _rest(knobs: Array, beta: int, place: int) -> float:
    return float(knobs[place] or 1 - knobs[beta])


def adamw(
    params: Floats, grads: Floats, m: Floats, v: Floats, knobs: Floats, stats: Floats
) -> tuple[Array, Array, Array, Array]:
    """One step of AdamW (Loshchilov and Hutter 2019): (params, grads, m, v) afterwards, grads 0."""
    p, mean, square, k = (a.astype(np.float64) for a in (params, m, v, knobs))
    if stats[2]:
        g = grads.astype(np.float64) * stats[1]
        mean += (g - mean) * _rest(k, 6, 10)
        square = k[7] * square + _rest(k, 7, 11) * g * g
        p = p * (1 - k[0] * k[1]) - k[0] / k[2] * mean / (np.sqrt(square) / np.sqrt(k[3]) + k[8])
    return p, np.zeros_like(p), mean, square


def sgd(params: Floats, grads: Floats, m: Floats, knobs: Floats, stats: Floats) -> tuple[Array, Array, Array]:
    """One step of SGD with momentum and coupled weight decay: (params, grads, m) afterwards, grads 0."""
    p, velocity, k = (a.astype(np.float64) for a in (params, m, knobs))
    if stats[2]:
        velocity = k[9] * velocity + (grads.astype(np.float64) * stats[1] + k[1] * p)
        p = p - k[0] * velocity
    return p, np.zeros_like(p), velocity
