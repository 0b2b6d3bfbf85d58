"""The order of an epoch: a permutation by seed and epoch, the same on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def permutation(n: int, seed: int, epoch: int) -> npt.NDArray[np.uint32]:
    """u32[n]: each of 0 .. n - 1 once."""
    generator = np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), epoch]))
    return generator.permutation(n).astype(np.uint32)
