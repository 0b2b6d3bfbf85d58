"""What the kernel `flux_fitness` should compute: the reference VM, then a softmax in float64.

Not for speed, and not used at run time: it is what tests and `bench --check` compare with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..program import GPU_STEPS, Program, Trap
from ..reference import U32, run_candidate
from .scoring import LEAST, NO_PICK

LARGEST = float(np.finfo(np.float32).max)


def flux_fitness(
    row_info: U32,
    cand: U32,
    programs: Sequence[Program | None],
    target: U32,
    base: npt.NDArray[np.float32],
    max_steps: int = GPU_STEPS,
    least: float = LEAST,
) -> tuple[npt.NDArray[np.float64], U32, U32]:
    """The kernel: (loglik f64[P, M], pick u32[P, M], traps u32[P, M, 2]); None where there is no program."""
    shape = (len(programs), len(row_info))
    loglik, pick = np.full(shape, np.float64(least)), np.full(shape, NO_PICK, np.uint32)
    traps = np.zeros((*shape, 2), np.uint32)
    for a, m in np.ndindex(shape):
        program, row = programs[a], row_info[m]
        n = min(int(row[0]), cand.shape[1])
        if program is None or n == 0:
            continue
        # Agent 0 for all, so that a program's random bits do not depend on its place in the population.
        found = [run_candidate(program, row, cand[m, i], i, 0, max_steps) for i in range(n)]
        trapped = [trap for _, trap, _ in found if trap != Trap.NONE]
        traps[a, m] = len(trapped), max(trapped, default=0)
        score = np.clip([s for s, _, _ in found], -LARGEST, LARGEST)
        pick[a, m] = cand[m, :n, 0][score == score.max()].min()
        own = 0.0
        if target[m] < n:
            own = score[target[m]] - score.max() - np.log(np.exp(score - score.max()).sum())
        loglik[a, m] = max(float(base[m]) + own, least)
    return loglik, pick, traps
