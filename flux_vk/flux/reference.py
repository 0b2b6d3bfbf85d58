"""What the kernel `flux_interpret` should compute: the reference VM on the registers that candidates enter with.

Integers and scores agree in every bit, floats as docs/flux-gpu.md says. Not for speed, and not used at run time: it is
what tests and `bench --check` compare with, and it runs single candidates again for a trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .abi import q16, random_bits
from .abi import score as score_of_state
from .program import GPU_STEPS, Program, Trap
from .vm import State, run

U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]


def exp_bits(x: npt.ArrayLike) -> F32:
    """exp of numbers up to 0 as shaders/include/exp_bits.glsl has it, in every bit: 0 below -87, and for NaN."""
    given = np.asarray(x, np.float32)
    f = np.float32
    with np.errstate(invalid="ignore"):
        c = np.where(given >= f(-87), np.minimum(given, f(0)), f(-87)).astype(f)
        n = np.floor(c * f(1.44269504) + f(0.5)).astype(f)
        r = (c - n * f(0.693359375)).astype(f)
        r = (r - n * f(-2.12194440e-4)).astype(f)
        e = np.full_like(r, f(1.98412698e-4))
        for term in (1.38888889e-3, 8.33333333e-3, 4.16666667e-2, 1.66666667e-1, 0.5, 1.0, 1.0):
            e = (e * r + f(term)).astype(f)
        e = (e * ((n.astype(np.int32) + 127) << 23).view(f)).astype(f)
        return np.where(given >= f(-87), e, f(0)).astype(f)


def entry_registers(row: U32, cand: U32, rank: int, agent: int) -> tuple[dict[int, int], dict[int, float]]:
    """The registers that the ABI fills, for one candidate.

    row: the 8 words of `row_info`; cand: its 4 words; rank: its index. Returns (integers, floats) by number.
    """
    best, entropy, lse = (float(v) for v in row[1:4].view(np.float32))
    logit = cand[1:2].view(np.float32)[0]
    with np.errstate(invalid="ignore"):
        share = exp_bits(np.float32(logit) - np.float32(lse))[()]
    token, position = int(cand[0]), int(row[4])
    draw = random_bits(int(row[5]) | int(row[6]) << 32, position, agent, token)
    given = (q16(float(logit)), position, int(cand[2]), token, rank, int(row[0]), q16(float(share)), int(cand[3]))
    gp = {number: int(np.uint32(value & 0xFFFFFFFF).view(np.int32)) for number, value in enumerate(given)}
    gp[10] = int(np.uint32(draw).view(np.int32))
    counts = (float(np.float32(position)), float(np.float32(int(cand[2]))))
    return gp, dict(enumerate((float(logit), float(share), *counts, best, entropy)))


def run_candidate(
    program: Program, row: U32, cand: U32, rank: int, agent: int, max_steps: int = GPU_STEPS
) -> tuple[float, Trap, State]:
    """One candidate: its score, its trap (OTHER for a result that is no finite number), and the VM's last state."""
    gp, fp = entry_registers(row, cand, rank, agent)
    state = run(program, gp, fp, max_steps=max_steps, memory="gpu")
    return (*score_of_state(program, state, float(cand[1:2].view(np.float32)[0])), state)


def state_words(state: State, trap: Trap) -> U32:
    """A state as the kernel writes it: R0-15, F0-15, flags, trap, steps, pc."""
    words = np.zeros(36, np.uint32)
    words[:16] = np.array(state.gp, np.int32).view(np.uint32)
    words[16:32] = np.array(state.fp, np.float32).view(np.uint32)
    words[32:] = state.flags.word, trap, state.steps, state.pc
    return words


def flux_interpret(
    row_info: U32, cand: U32, programs: Sequence[Sequence[Program | None]], max_steps: int = GPU_STEPS
) -> tuple[F32, U32, U32]:
    """The kernel: (score f32[M, A, C], traps u32[M, A, 2], state u32[M, A, C, 36]).

    programs: by slot and agent; None where there is no agent. Scores and states that the kernel leaves alone are NaN
    (all bits set).
    """
    rows, most = cand.shape[:2]
    agents = len(programs[0])
    score = np.full((rows, agents, most), 0xFFFFFFFF, np.uint32).view(np.float32)
    state = np.full((rows, agents, most, 36), 0xFFFFFFFF, np.uint32)
    traps = np.zeros((rows, agents, 2), np.uint32)
    for m, row in enumerate(row_info):
        slot = int(row[7])
        for a, program in enumerate(programs[slot] if slot < len(programs) else ()):
            for i in range(min(int(row[0]), most) if program else 0):
                assert program
                score[m, a, i], trap, last = run_candidate(program, row, cand[m, i], i, a, max_steps)
                state[m, a, i] = state_words(last, trap)
                traps[m, a] += np.array([trap != Trap.NONE, 0], np.uint32)
                traps[m, a, 1] = max(int(traps[m, a, 1]), trap)
    return score, traps, state
