"""Random weights straight in ggml's block formats: random quants, and scales that give a wanted spread.

Quantising gigabytes of normal numbers would take minutes; this takes seconds. Block layouts as ggml defines
them. Not for: weights that mean anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from flux_vk.errors import InputError
from flux_vk.formats import blocks

Bytes = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.float32]

CHUNK = 16 << 20
"""Bytes made at a time."""


def chunks(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], std: float = 0.02
) -> Iterator[Bytes]:
    """The bytes of a tensor (last dimension of `shape` = K) in runs of whole blocks of about CHUNK bytes.

    Weights are finite, of mean about 0 and standard deviation about `std`. InputError where K does not fit.
    """
    kind = blocks.runnable(name)
    if shape[-1] % kind.weights:
        raise InputError(f"{name}: found rows of {shape[-1]}, expected a multiple of {kind.weights}")
    left = int(np.prod(shape, dtype=np.int64)) // kind.weights
    most = max(1, CHUNK // kind.nbytes)
    while left:
        n = min(left, most)
        yield _FILL[name](rng, n, kind.nbytes, std)
        left -= n


def _noise(rng: np.random.Generator, n: int, size: int) -> Bytes:
    """n blocks of random bytes."""
    total = n * size
    words = rng.integers(0, 1 << 64, -(-total // 8), dtype=np.uint64)
    return words.view(np.uint8)[:total].reshape(n, size)


def _spread(rng: np.random.Generator, n: int, unit: float) -> Scales:
    """n scales around `unit`, between 0.75 and 1.25 of it."""
    return np.float32(unit) * (np.float32(0.75) + rng.random(n, dtype=np.float32) / np.float32(2))


def _signed(rng: np.random.Generator, n: int, unit: float) -> Scales:
    """Scales of random sign: cancels the half step by which quants without a minimum are off centre."""
    return np.where(rng.random(n, dtype=np.float32) < 0.5, -1, 1).astype(np.float32) * _spread(rng, n, unit)


def _put(block: Bytes, at: int, values: Scales) -> None:
    block[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _signed_type(at: int, quant_std: float) -> Callable[[np.random.Generator, int, int, float], Bytes]:
    """Types of one scale d at byte `at`: w = d * q, q of standard deviation quant_std."""

    def fill(rng: np.random.Generator, n: int, size: int, std: float) -> Bytes:
        out = _noise(rng, n, size)
        _put(out, at, _signed(rng, n, std / quant_std))
        return out

    return fill


def _minimum_type(quant_std: float, mean: float) -> Callable[[np.random.Generator, int, int, float], Bytes]:
    """q4_1, q5_1: w = d * q + m with d, m first; m puts the mean at zero."""

    def fill(rng: np.random.Generator, n: int, size: int, std: float) -> Bytes:
        out = _noise(rng, n, size)
        d = _spread(rng, n, std / quant_std)
        _put(out, 0, d)
        _put(out, 2, -np.float32(mean) * d)
        return out

    return fill


def _k_scales(quant_std: float, mean: float) -> Callable[[np.random.Generator, int, int, float], Bytes]:
    """q4_k, q5_k: w = d * sc * q - dmin * m; sc = m in 32..63, of eight groups, in 12 bytes."""

    def fill(rng: np.random.Generator, n: int, size: int, std: float) -> Bytes:
        out = _noise(rng, n, size)
        sc = (_noise(rng, n, 8) & np.uint8(31)) | np.uint8(32)
        low, high = sc[:, :4], sc[:, 4:]
        packed = low | (high >> np.uint8(4) << np.uint8(6))
        out[:, 4:8] = packed
        out[:, 8:12] = packed
        out[:, 12:16] = (high & np.uint8(15)) * np.uint8(17)
        d = _spread(rng, n, std / (quant_std * 48.4))
        _put(out, 0, d)
        _put(out, 2, np.float32(mean) * d)
        return out

    return fill


def _q2_k(rng: np.random.Generator, n: int, size: int, std: float) -> Bytes:
    """scales 16 (low nibble scale, high nibble minimum: the same, 8..15), qs 64, d, dmin."""
    out = _noise(rng, n, size)
    out[:, :16] = ((out[:, :16] & np.uint8(7)) | np.uint8(8)) * np.uint8(17)
    d = _spread(rng, n, std / (1.118 * 11.7))
    _put(out, 80, d)
    _put(out, 82, np.float32(1.5) * d)
    return out


def _normal(rng: np.random.Generator, n: int, std: float) -> Scales:
    return rng.standard_normal(n, dtype=np.float32) * np.float32(std)


def _f32(rng: np.random.Generator, n: int, size: int, std: float) -> Bytes:
    return _normal(rng, n, std).view(np.uint8)


def _f16(rng: np.random.Generator, n: int, size: int, std: float) -> Bytes:
    return _normal(rng, n, std).astype("<f2").view(np.uint8)


def _bf16(rng: np.random.Generator, n: int, size: int, std: float) -> Bytes:
    return (_normal(rng, n, std).view(np.uint32) >> np.uint32(16)).astype("<u2").view(np.uint8)


_IQ4_STD = float(blocks.IQ4_VALUES.std())
_FILL: dict[str, Callable[[np.random.Generator, int, int, float], Bytes]] = {
    "f32": _f32,
    "f16": _f16,
    "bf16": _bf16,
    "q8_0": _signed_type(0, 73.9),
    "q4_0": _signed_type(0, 4.64),
    "q5_0": _signed_type(0, 9.25),
    "q4_1": _minimum_type(4.61, 7.5),
    "q5_1": _minimum_type(9.23, 15.5),
    "iq4_nl": _signed_type(0, _IQ4_STD),
    "q2_k": _q2_k,
    "q3_k": _signed_type(108, 2.345 * 18.5),
    "q4_k": _k_scales(4.61, 7.5),
    "q5_k": _k_scales(9.23, 15.5),
    "q6_k": _signed_type(208, 18.5 * 73.9),
    "iq4_xs": _signed_type(0, _IQ4_STD * 18.5),
}
