"""Central finite differences in float64, for tests of backward kernels and of their references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def gradient(f: Callable[[Array], Any], x: npt.NDArray[Any], step: float = 1e-5) -> Array:
    """d sum(f(x)) / dx for every element of x, by two values of f each; f takes and is worked out in float64."""
    at = x.astype(np.float64)
    found = np.empty_like(at)
    for i in np.ndindex(*at.shape):
        kept = at[i]
        h = step * max(1.0, abs(kept))
        at[i] = kept + h
        above = float(np.sum(f(at)))
        at[i] = kept - h
        found[i] = (above - float(np.sum(f(at)))) / (2 * h)
        at[i] = kept
    return found
