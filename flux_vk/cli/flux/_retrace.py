"""Running agents again from what a trace recorded: registers on entry, every step, and whether the score is the same.

Not for: reading traces (flux_vk/flux/trace.py), printing (explain.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flux_vk.flux.abi import Candidate, random_bits, score
from flux_vk.flux.program import GPU_STEPS, Program, Trap
from flux_vk.flux.reference import exp_bits
from flux_vk.flux.trace import Trace, TracedCandidate, TracedToken
from flux_vk.flux.vm import State, Step, run

EXACT, BOUND, DIFFERS = "equal", "within the float bound", "different"
RELATIVE = 1e-5
"""Scores of a device and of the reference VM that differ by more, relative to the larger, are called different.

Only divisions may differ at all (by 2.5 units in the last place, see docs/flux-gpu.md); what a program makes of that
depends on the program."""


@dataclass(frozen=True)
class Rerun:
    """One agent's run for one candidate. `verdict` compares `score` with what the trace recorded."""

    program: Program
    gp: dict[int, int]
    fp: dict[int, float]
    steps: tuple[Step, ...]
    state: State
    score: float
    trap: Trap
    recorded: float
    verdict: str


def entry(trace: Trace, token: TracedToken, candidate: TracedCandidate, agent: int) -> Candidate:
    """What the ABI told the agent of the candidate."""
    with np.errstate(over="ignore", invalid="ignore"):
        difference = np.float32(candidate.logit) - np.float32(token.logsumexp)
    return Candidate(
        logit=candidate.logit, position=token.position, count=candidate.count, token=candidate.id, rank=candidate.rank,
        candidates=token.n, probability=float(exp_bits(difference)[()]), distance=candidate.distance, best=token.best,
        entropy=token.entropy, random=random_bits(trace.header.seed, token.position, agent, candidate.id),
    )  # fmt: skip


def rerun(
    trace: Trace, token: TracedToken, candidate: TracedCandidate, agent: int, max_steps: int = GPU_STEPS
) -> Rerun:
    """Run the agent that voted on this token for one candidate, on the reference VM as the GPU runs it."""
    program = trace.programs(token.index)[agent].program
    gp, fp = entry(trace, token, candidate, agent).registers()
    steps: list[Step] = []
    state = run(program, gp, fp, max_steps=max_steps, memory="gpu", trace=steps)
    value, trap = score(program, state, candidate.logit)
    recorded = candidate.score[agent]
    return Rerun(program, gp, fp, tuple(steps), state, value, trap, recorded, verdict(value, recorded))


def verdict(value: float, recorded: float) -> str:
    """How a score compares with the recorded one."""
    if value == recorded:
        return EXACT
    near = math.isclose(value, recorded, rel_tol=RELATIVE, abs_tol=1e-30)
    return BOUND if near else DIFFERS
