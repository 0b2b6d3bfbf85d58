"""References of the radix sort's kernels, and the order of floats that sorting and selection share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Uints = npt.NDArray[np.uint32]


def order_key(x: npt.NDArray[np.float32], nan_key: int) -> Uints:
    """float32 as uint32 that compare in the same order, -0 equal to +0, NaN as `nan_key`."""
    bits = (x + np.float32(0)).astype(np.float32).view(np.uint32)  # -0 + 0 is +0
    keys = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    return np.where(np.isnan(x), np.uint32(nan_key), keys).astype(np.uint32)


def _digits(keys: Uints, shift: int, key: int, desc: int) -> Uints:
    ordered = order_key(keys.view(np.float32), 0 if desc else 0xFFFFFFFF) if key else keys
    return ((~ordered if desc else ordered) >> np.uint32(shift)) & np.uint32(15)


def sort_count(keys: Uints, *, shift: int, block: int, key: int = 0, desc: int = 0) -> Uints:
    """keys [N] -> count of each 4-bit digit in each block of `block` keys, flat [16 * blocks], digit-major.

    key 0: unsigned keys, 1: float bits. desc 1: falling order.
    """
    digits = _digits(keys, shift, key, desc)
    counts = [np.bincount(digits[i : i + block], minlength=16) for i in range(0, len(keys), block)]
    return np.array(counts, np.uint32).reshape(-1, 16).T.reshape(-1).copy()


def sort(
    keys: Uints, values: Uints | None = None, *, shift: int | None = None, key: int = 0, desc: int = 0
) -> tuple[Uints, Uints]:
    """keys, values [N] -> both in stable order of one digit, or of the whole key where `shift` is None."""
    if shift is None:
        ordered = order_key(keys.view(np.float32), 0 if desc else 0xFFFFFFFF) if key else keys
        place = np.argsort(~ordered if desc else ordered, kind="stable")
    else:
        place = np.argsort(_digits(keys, shift, key, desc), kind="stable")
    payload = np.arange(len(keys), dtype=np.uint32) if values is None else values
    return keys[place], payload[place]
