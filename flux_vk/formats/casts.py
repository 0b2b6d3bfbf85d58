"""Float32 numbers as the stored bytes of f32, f16 and bf16: rounded to nearest, ties to even (IEEE 754-2019).

Not for: quantised types (the kernel `quantize`), and not for reading, which is `blocks.dequantize`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flux_vk.errors import InputError

U8Array = npt.NDArray[np.uint8]


def encode(values: npt.NDArray[np.float32], kind: str) -> U8Array:
    """float32 of any shape, all finite -> its bytes in `kind` (f32, f16, bf16), uint8 [nbytes].

    InputError where a number is beyond the largest float16, which would become infinite.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if kind == "f32":
        return flat.view(np.uint8)
    if kind == "bf16":
        bits = flat.view(np.uint32)
        return ((bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)).astype(
            np.uint16
        ).view(np.uint8)
    with np.errstate(over="ignore"):
        halves = flat.astype(np.float16)
    if np.isinf(halves).any():
        raise InputError(
            f"found a number of {np.abs(flat).max():.4g}, expected at most 65504, the largest of f16; use bf16 or f32"
        )
    return halves.view(np.uint8)
