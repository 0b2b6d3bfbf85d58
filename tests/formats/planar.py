"""A second, slow reading of the planar row layout, written from its description alone, to check the packer.

Deliberately shares no code with flux_vk.formats.layout and no idea of the GGUF blocks.
"""

from __future__ import annotations

import numpy as np

# (plane, bytes, weights that these bytes are for), in the order of the row
PLANES: dict[str, tuple[tuple[str, int, int], ...]] = {
    "f32": (("w", 128, 32),),
    "f16": (("w", 64, 32),),
    "bf16": (("w", 64, 32),),
    "q8_0": (("qs", 32, 32), ("d", 2, 32)),
    "q4_0": (("qs", 16, 32), ("d", 2, 32)),
    "iq4_nl": (("qs", 16, 32), ("d", 2, 32)),
    "q4_1": (("qs", 16, 32), ("dm", 4, 32)),
    "q5_0": (("qs", 16, 32), ("qh", 4, 32), ("d", 2, 32)),
    "q5_1": (("qs", 16, 32), ("qh", 4, 32), ("dm", 4, 32)),
    "q4_k": (("qs", 16, 32), ("sm", 2, 32), ("dm", 4, 256)),
    "q5_k": (("qs", 16, 32), ("qh", 4, 32), ("sm", 2, 32), ("dm", 4, 256)),
    "q6_k": (("qs", 16, 32), ("q2", 8, 32), ("sc", 2, 32), ("d", 2, 256)),
    "q2_k": (("q2", 8, 32), ("sm", 2, 32), ("dm", 4, 256)),
    "q3_k": (("q2", 8, 32), ("qh", 4, 32), ("sc", 2, 32), ("d", 2, 256)),
    "iq4_xs": (("qs", 16, 32), ("sc", 1, 32), ("d", 2, 256)),
}
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def offsets(name: str, k: int) -> tuple[dict[str, tuple[int, int]], int]:
    """plane -> (offset, bytes), and the row stride, for rows of `k` weights (a multiple of 32)."""
    found = {}
    at = 0
    for plane, size, weights in PLANES[name]:
        nbytes = size * k // weights
        found[plane] = (at, nbytes)
        at += (nbytes + 15) // 16 * 16
    return found, at


def nibbles(qs: np.ndarray) -> np.ndarray:
    """[n, nb, 16] -> [n, nb, 32]"""
    q = np.zeros((*qs.shape[:2], 32), np.int32)
    for j in range(16):
        q[..., j] = qs[..., j] & 15
        q[..., j + 16] = qs[..., j] >> 4
    return q


def pairs(q2: np.ndarray) -> np.ndarray:
    """[n, nb, 8] -> [n, nb, 32]"""
    q = np.zeros((*q2.shape[:2], 32), np.int32)
    for i in range(4):
        for j in range(8):
            q[..., 8 * i + j] = q2[..., j] >> (2 * i) & 3
    return q


def high_bits(qh: np.ndarray) -> np.ndarray:
    """[n, nb, 4] -> [n, nb, 32]"""
    q = np.zeros((*qh.shape[:2], 32), np.int32)
    for g in range(8):
        for k in range(4):
            q[..., 4 * g + k] = qh[..., k] >> g & 1
    return q


def values(packed: np.ndarray, name: str, k: int) -> np.ndarray:
    """Packed rows [n, stride] -> float32 [n, k]."""
    where, stride = offsets(name, k)
    assert packed.shape[1] == stride
    n, nb = len(packed), k // 32
    p = {}
    for plane, size, weights in PLANES[name]:
        at, nbytes = where[plane]
        p[plane] = packed[:, at : at + nbytes].copy().reshape(n, k // weights, size)

    def halves(plane: str, index: int) -> np.ndarray:
        """[n, nb, 1]: the index-th half of the plane, repeated for every 32 weights."""
        half = p[plane][..., 2 * index : 2 * index + 2].copy().view("<f2").astype(np.float32)
        return np.repeat(half, nb // half.shape[1], axis=1)

    f = np.float32
    twice = lambda x: np.repeat(x.astype(f), 16, axis=2)  # noqa: E731
    if name in ("f32", "f16"):
        out = p["w"].view("<f4" if name == "f32" else "<f2").astype(f)
    elif name == "bf16":
        out = (p["w"].view("<u2").astype(np.uint32) << 16).view(f)
    elif name == "q8_0":
        out = halves("d", 0) * p["qs"].view(np.int8).astype(f)
    elif name == "q4_0":
        out = halves("d", 0) * (nibbles(p["qs"]) - 8).astype(f)
    elif name == "iq4_nl":
        out = halves("d", 0) * IQ4[nibbles(p["qs"])]
    elif name == "q4_1":
        out = halves("dm", 0) * nibbles(p["qs"]).astype(f) + halves("dm", 1)
    elif name == "q5_0":
        out = halves("d", 0) * (nibbles(p["qs"]) + 16 * high_bits(p["qh"]) - 16).astype(f)
    elif name == "q5_1":
        out = halves("dm", 0) * (nibbles(p["qs"]) + 16 * high_bits(p["qh"])).astype(f) + halves("dm", 1)
    elif name in ("q4_k", "q5_k"):
        q = nibbles(p["qs"]) + (16 * high_bits(p["qh"]) if name == "q5_k" else 0)
        scale, minimum = p["sm"][..., 0:1].astype(f), p["sm"][..., 1:2].astype(f)
        assert p["sm"].max() < 64
        out = (halves("dm", 0) * scale) * q.astype(f) - halves("dm", 1) * minimum
    elif name == "q6_k":
        q = nibbles(p["qs"]) + 16 * pairs(p["q2"]) - 32
        out = (halves("d", 0) * twice(p["sc"].view(np.int8))) * q.astype(f)
    elif name == "q2_k":
        scale, minimum = twice(p["sm"] & 15), twice(p["sm"] >> 4)
        out = (halves("dm", 0) * scale) * pairs(p["q2"]).astype(f) - halves("dm", 1) * minimum
    elif name == "q3_k":
        q = pairs(p["q2"]) - 4 * (1 - high_bits(p["qh"]))
        out = (halves("d", 0) * twice(p["sc"].view(np.int8))) * q.astype(f)
    else:
        assert name == "iq4_xs"
        out = (halves("d", 0) * p["sc"].view(np.int8).astype(f)) * IQ4[nibbles(p["qs"])]
    return out.reshape(n, k)
