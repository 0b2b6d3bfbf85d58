"""Random weights of any block type, as GGUF bytes and as numbers. Not for the device layout."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flux_vk.formats import blocks

HALF_AT = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_k": (80, 82), "q3_k": (108,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,), "iq4_xs": (0,),
}  # fmt: skip
"""Where the float16 scales of a block are; everything else in it may be any bits."""


def random_raw(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """GGUF bytes of a weight matrix [N, K]: floats, or blocks of any bits with scales of a sensible size."""
    n, k = shape
    if dtype == "f32":
        return rng.standard_normal(shape).astype(np.float32).view(np.uint8).reshape(-1)
    if dtype == "f16":
        return rng.standard_normal(shape).astype(np.float16).view(np.uint8).reshape(-1)
    if dtype == "bf16":
        high = rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16
        return high.astype(np.uint16).view(np.uint8).reshape(-1)
    kind = blocks.runnable(dtype)
    count = n * k // kind.weights
    raw = rng.integers(0, 256, (count, kind.nbytes), dtype=np.uint8)
    for at in HALF_AT[dtype]:
        d = (0.002 + 0.02 * rng.random(count)) * rng.choice([-1.0, 1.0], count)
        raw[:, at : at + 2] = d.astype("<f2").view(np.uint8).reshape(count, 2)
    return raw.reshape(-1)


def values(raw: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The weights those bytes stand for, float64 [N, K]."""
    return blocks.dequantize(raw, dtype, shape).astype(np.float64)
