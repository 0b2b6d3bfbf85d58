"""The permutation of the shuffle kernel, bit for bit, and the mask of dropout; both from philox4x32-10 on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ArgumentError

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

MOST = 1 << 31
"""The longest permutation."""
_MASK = 0xFFFFFFFF
_DOMAIN = 0x53485546  # as in shaders/shuffle.comp


def philox(counter: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike], seed: int) -> U32:
    """philox4x32-10 (Salmon et al. 2011) of counters that broadcast to [N], keyed by 64 bits: words [N, 4]."""
    low, shift = np.uint64(_MASK), np.uint64(32)
    c0, c1, c2, c3 = (np.asarray(c).astype(np.uint64) for c in counter)
    k0, k1 = seed & _MASK, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1 = (p1 >> shift) ^ c1 ^ np.uint64(k0), p1 & low
        c2, c3 = (p0 >> shift) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def permutation(n: int, seed: int, epoch: int, first: int = 0, count: int | None = None) -> U32:
    """Elements first .. first + count (default: all) of a permutation of 0 .. n - 1, keyed by seed and epoch.

    n is at most 2^31, the seed has 64 bits. A Feistel network on pairs of numbers, below ceil(sqrt(n)) and below n
    divided by it; what comes out as n or more goes through again (Black and Rogaway 2002). Every element is worked out
    on its own.
    """
    if not 0 <= n <= MOST:
        raise ArgumentError(f"a permutation of {n} elements; expected 0 to 2^31 = {MOST}")
    count = n - first if count is None else count
    x = np.arange(first, first + count, dtype=np.uint64)
    if n == 0:
        return x.astype(np.uint32)
    keys = philox((np.arange(4), epoch, 0, _DOMAIN), seed & 0xFFFFFFFFFFFFFFFF)
    outside = np.ones(len(x), bool)
    while outside.any():
        x[outside] = _once(x[outside], n, keys)
        outside = x >= n
    return x.astype(np.uint32)


def sides(n: int) -> tuple[int, int]:
    """How many values the halves of the network have: ceil(sqrt(n)), and n divided by it, rounded up."""
    a = int(np.sqrt(float(n)))
    a += (a + 1) ** 2 <= n
    a -= a * a > n
    a += a * a < n
    return a, -(-n // a)


def _once(x: U64, n: int, keys: U32) -> U64:
    a_side, b_side = (np.uint64(s) for s in sides(n))
    a, b = x // b_side, x % b_side
    for k0, k1, k2, k3 in keys:
        a = (a + _mixed(_mixed(b.astype(np.uint32) + k0) ^ k1) % a_side) % a_side
        b = (b + _mixed(_mixed(a.astype(np.uint32) + k2) ^ k3) % b_side) % b_side
    made: U64 = a * b_side + b
    return made


def _mixed(h: Any) -> Any:
    """A bijection of 32 bits with good avalanche (Wellons 2018, "lowbias32")."""
    h = h ^ (h >> np.uint32(16))
    h = h * np.uint32(0x7FEB352D)
    h = h ^ (h >> np.uint32(15))
    h = h * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))


def shuffle(*, n: int, seed_lo: int, seed_hi: int = 0, epoch: int = 0, first: int = 0, total: int = 0) -> U32:
    """The kernel's output of n elements: from `first` on, of a permutation of `total` (0: n)."""
    return permutation(total or n, seed_lo | seed_hi << 32, epoch, first, n)


def dropout(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    counter: U32,
    *,
    site: int,
    rate: float,
    accumulate: int = 0,
) -> npt.NDArray[np.float32]:
    """x [R, D] with elements kept where their word is at least rate * 2^32, times 1 / (1 - rate); added to y or alone.

    counter [4]: seed low, seed high, number of the micro-batch, 0. In float32, as the kernel.
    """
    words = philox((np.arange(-(-x.size // 4)), counter[2], site, 0), int(counter[0]) | int(counter[1]) << 32)
    keep = words.reshape(-1)[: x.size].reshape(x.shape) >= np.ceil(rate * 2**32)
    made = np.where(keep, x * np.float32(1 / (1 - rate)) if rate else x, np.float32(0)).astype(np.float32)
    return y + made if accumulate else made
