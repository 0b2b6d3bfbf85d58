"""Gradients by central finite differences in float64: what the formulas of backward kernels are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

STEP = 1e-3


def gradient(loss: Callable[[npt.NDArray[Any]], float], x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The gradient of a scalar function at x, element by element, four evaluations each (error of order STEP^4)."""
    at = x.astype(np.float64)
    found = np.zeros_like(at)
    for i in np.ndindex(*at.shape):
        values = []
        for n in (-2, -1, 1, 2):
            moved = at.copy()
            moved[i] += n * STEP
            values.append(loss(moved))
        found[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * STEP)
    return found
