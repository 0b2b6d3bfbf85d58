"""What a program finds in its registers for a candidate, and how its last state becomes a score.

The reference for the kernels that do the same on the device. Not for: running many of them (that is the kernels' work).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..gpu.reference.sampling import philox4x32_10
from .machine import f32
from .program import GPU_STEPS, Q16, Program, Trap
from .vm import State, run

SALT = 0x464C5558
"""The last word of the random counter ("FLUX"); sampling has 0 there."""


@dataclass(frozen=True)
class Candidate:
    """One token that may be drawn, with what agents are told of it. Logits and the like are 32-bit floats."""

    logit: float
    position: int = 0
    count: int = 0
    """How often it occurs in the history window."""
    token: int = 0
    rank: int = 0
    candidates: int = 1
    probability: float = 1.0
    distance: int = -1
    """To its last occurrence; -1 never."""
    best: float | None = None
    """The best logit of the row; by default its own."""
    entropy: float = 0.0
    random: int = 0
    """Unsigned 32 bits, as `random_bits` gives them."""

    def registers(self) -> tuple[dict[int, int], dict[int, float]]:
        """Integer and float registers on entry, by number."""
        bits = self.random - (1 << 32) if self.random >= 1 << 31 else self.random
        gp = {
            0: q16(self.logit), 1: self.position, 2: self.count, 3: self.token, 4: self.rank, 5: self.candidates,
            6: q16(self.probability), 7: self.distance, 10: bits,
        }  # fmt: skip
        best = self.logit if self.best is None else self.best
        fp = {0: self.logit, 1: self.probability, 2: self.position, 3: self.count, 4: best, 5: self.entropy}
        return gp, fp


def q16(value: float) -> int:
    """A 32-bit float as Q16.16: rounded half to even, saturated to int32; NaN is 0."""
    scaled = f32(value) * Q16
    if math.isnan(scaled):
        return 0
    return round(max(-(2.0**31), min(2.0**31 - 1, scaled)))


def random_bits(seed: int, position: int, agent: int, token: int) -> int:
    """The unsigned 32 bits of R10: Philox4x32-10 keyed by the seed's low 64 bits."""
    return philox4x32_10((position, agent, token, SALT), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))[0]


def score(program: Program, state: State, logit: float) -> tuple[float, Trap]:
    """The score that a last state stands for, and the trap that counts.

    A trap gives the candidate's own logit; so does a result that is no finite number, which counts as Trap.OTHER.
    """
    if state.trap != Trap.NONE:
        return f32(logit), state.trap
    value = f32(state.gp[0]) / Q16 if program.result == "R0" else state.fp[0]
    return (value, Trap.NONE) if math.isfinite(value) else (f32(logit), Trap.OTHER)


def score_of(program: Program, candidate: Candidate, max_steps: int = GPU_STEPS) -> tuple[float, Trap, State]:
    """Run a program for a candidate as the GPU does: (score, trap, last state)."""
    state = run(program, *candidate.registers(), max_steps=max_steps, memory="gpu")
    return (*score(program, state, candidate.logit), state)
