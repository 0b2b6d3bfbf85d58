"""Rotary angles: base, linear and YaRN scaling, frequency factors, LongRoPE; in float64 on the CPU.

Not for: the rotation itself, which the kernels `rope` and `rope_store` do from these tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flux_vk.errors import ModelError
from flux_vk.models.config import ModelConfig, RopeConfig

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile

YARN_BETA_FAST = 32.0
YARN_BETA_SLOW = 1.0
FREQ_FACTORS = "rope_freqs.weight"
LONG_FACTORS = "rope_factors_long.weight"
SHORT_FACTORS = "rope_factors_short.weight"


@dataclass(frozen=True)
class RopeTable:
    """What the kernels take. `turns` uint32[n_rot/2]: angle of pair i per position, in units of 2^-32 turns.

    A model without rotation has one entry that is never read.
    """

    turns: npt.NDArray[np.uint32]
    mscale: float
    """Multiplies cos and sin."""


def frequencies(rope: RopeConfig, factors: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
    """Angular frequencies in radians per position, float64[n_rot/2], with all scaling folded in.

    YaRN: Peng et al. 2023, arXiv 2309.00071. `factors` divide the frequencies (Llama 3.1, LongRoPE arXiv
    2402.13753).
    """
    i = np.arange(rope.n_rot // 2, dtype=np.float64)
    w = rope.base ** (-2.0 * i / max(rope.n_rot, 1))
    if factors is not None:
        w = w / factors
    if rope.scaling != "yarn":
        return w / rope.factor
    low, high = yarn_range(rope)
    extrapolated = 1.0 - np.clip((i - low) / max(0.001, high - low), 0.0, 1.0)
    return w * ((1.0 - extrapolated) / rope.factor + extrapolated)


def yarn_range(rope: RopeConfig) -> tuple[float, float]:
    """The pair indices between which YaRN goes over from the file's frequencies to the divided ones."""

    def pair_of(rotations: float) -> float:
        length = rope.original_context / (2.0 * math.pi * rotations)
        return rope.n_rot * math.log(length) / (2.0 * math.log(rope.base))

    low = max(0.0, math.floor(pair_of(YARN_BETA_FAST)))
    high = min(rope.n_rot - 1.0, math.ceil(pair_of(YARN_BETA_SLOW)))
    return low, high


def magnitude(rope: RopeConfig) -> float:
    """The factor on cos and sin: attn_factor, and YaRN's 1 + 0.1 ln(factor)."""
    yarn = 1.0 + 0.1 * math.log(rope.factor) if rope.scaling == "yarn" else 1.0
    return rope.attn_factor * yarn


def to_turns(w: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    """round(2^32 * frac(w / 2 pi)) as uint32.

    Position * turns mod 2^32 is then the exact angle at any position.
    """
    turns = np.rint(np.mod(w / (2.0 * np.pi), 1.0) * 2.0**32)
    return (turns.astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def read_factors(f: GGUFFile, rope: RopeConfig, context: int) -> npt.NDArray[np.float64] | None:
    """The file's frequency factors for a session of `context` tokens, or None.

    Long factors are taken iff the session's context is larger than the original one: one choice for the
    session.
    """
    if not rope.use_factors:
        return None
    name = FREQ_FACTORS
    if name not in f.tensors:
        name = LONG_FACTORS if context > rope.original_context else SHORT_FACTORS
        if name not in f.tensors:
            return None
    info = f.tensors[name]
    if info.type != "f32" or tuple(info.shape) != (rope.n_rot // 2,):
        raise ModelError(
            f"tensor {name} is {info.type} of shape {tuple(info.shape)}; expected f32 of shape ({rope.n_rot // 2},)"
        )
    factors = f.raw(name).view(np.float32).astype(np.float64)
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ModelError(f"tensor {name} holds a factor that is not a positive number")
    return factors


def rope_tables(f: GGUFFile, cfg: ModelConfig, context: int) -> list[RopeTable]:
    """One table for each of `cfg.ropes`, for a session of `context` tokens."""
    tables = []
    for rope in cfg.ropes:
        turns = to_turns(frequencies(rope, read_factors(f, rope, context)))
        tables.append(RopeTable(turns if turns.size else np.zeros(1, np.uint32), magnitude(rope)))
    return tables
