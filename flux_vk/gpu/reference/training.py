"""References of backward kernels outside attention and products: gated units, cross entropy, embedding; float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .elementwise import _sigmoid

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Ids = npt.NDArray[np.uint32]

IGNORED = 0xFFFFFFFF
"""The label of a row that does not count (-100 elsewhere)."""


def swiglu_backward(x: Floats, g: Floats) -> Array:
    """x [R, 2F] (gate | up), g [R, F] -> the gradient of sum(g * swiglu(x)) by x, [R, 2F]."""
    gate, up = np.split(x.astype(np.float64), 2, axis=-1)
    s = _sigmoid(gate)
    return np.concatenate([g * up * s * (1 + gate * (1 - s)), g * gate * s], axis=-1)


def geglu_backward(x: Floats, g: Floats) -> Array:
    """x [R, 2F] (gate | up), g [R, F] -> the gradient of sum(g * geglu(x)) by x, [R, 2F]; tanh form of GELU."""
    gate, up = np.split(x.astype(np.float64), 2, axis=-1)
    c = np.clip(gate, -40, 40)  # beyond it tanh is 1 and its slope 0 in 64 bits
    root = np.sqrt(2.0 / np.pi)
    t = np.tanh(root * (c + 0.044715 * c**3))
    slope = 0.5 * (1 + t) + 0.5 * c * (1 - t * t) * root * (1 + 3 * 0.044715 * c * c)
    return np.concatenate([g * up * slope, g * 0.5 * gate * (1 + t)], axis=-1)


def cross_entropy(logits: Floats, labels: Ids, *, softcap: float = 0.0, grad: int = 1) -> tuple[Array, Array]:
    """logits [R, V] before the cap, labels [R] -> (gradient of the sum of losses by logits, or logits; losses [R]).

    Capped logits are softcap * tanh(logits / softcap). Ignored rows give zeros. A label outside the vocabulary, a NaN,
    a +Inf and a row of -Inf alone give NaN.
    """
    x = logits.astype(np.float64)
    z = softcap * np.tanh(x / softcap) if softcap else x
    rows, size = x.shape
    loss, d = np.zeros(rows), x.copy()
    for r in range(rows):
        label = int(labels[r])
        if label == IGNORED:
            d[r] = 0
            continue
        if label >= size or np.isnan(x[r]).any() or np.isposinf(x[r]).any() or np.isneginf(z[r]).all():
            loss[r], d[r] = np.nan, np.nan
            continue
        e = np.exp(z[r] - z[r].max())
        loss[r] = z[r].max() - z[r, label] + np.log(e.sum())
        d[r] = e / e.sum()
        d[r, label] -= 1
        if softcap:
            d[r] *= 1 - (z[r] / softcap) ** 2
    return (d if grad else x), loss


def embed_backward(ids: Ids, g: Floats, dw: Floats, *, scale: float = 1.0) -> Array:
    """ids [T], g [T, D], dw [V, D] -> dw with scale * g added by id; ids outside the table are left out."""
    result: Array = dw.astype(np.float64)
    inside = ids < len(dw)
    np.add.at(result, ids[inside], float(np.float32(scale)) * g[inside].astype(np.float64))
    return result
