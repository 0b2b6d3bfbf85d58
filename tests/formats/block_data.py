"""Random weights in GGUF block formats, and their values by the gguf package. Not for the device layout."""

from __future__ import annotations

import gguf
import numpy as np

from flux_vk.formats import blocks

HALVES = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_k": (80, 82),
    "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,), "iq4_xs": (0,),
}  # fmt: skip
"""Where the half-precision scales of a block stand, by ggml's structures."""


def random_blocks(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Raw GGUF bytes of random weights: every quant and small scale at random, half-precision scales sane."""
    kind = blocks.BY_NAME[name]
    n = int(np.prod(shape)) // kind.weights
    if kind.weights == 1:
        values = rng.standard_normal(n).astype(np.float32)
        if name == "bf16":
            return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
        return values.astype("<f4" if name == "f32" else "<f2").view(np.uint8)
    raw = rng.integers(0, 256, (n, kind.nbytes), dtype=np.uint8)
    for at in HALVES[name]:
        scale = rng.uniform(1e-3, 0.1, n) * rng.choice([-1, 1], n)
        raw[:, at : at + 2] = scale.astype("<f2").view(np.uint8).reshape(n, 2)
    return raw.reshape(-1)


def reference(raw: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 values of the blocks by the gguf package."""
    kind = gguf.GGMLQuantizationType[name.upper()]
    rows = raw.reshape(-1, blocks.BY_NAME[name].row_bytes(shape[-1]))
    if name in ("f32", "f16"):
        rows = rows.view("<f4" if name == "f32" else "<f2")
    return gguf.quants.dequantize(rows, kind).astype(np.float32).reshape(shape)
