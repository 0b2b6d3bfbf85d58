"""Appends the interpreter to a chain, with as many candidates for an invocation as suit the device.

Not for: what the words of its buffers mean (docs/flux-gpu.md), or what happens to the scores (flux_vk.decode).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .program import GPU_STEPS

if TYPE_CHECKING:
    from ..gpu import Buffer, Chain

CPU_WAVES = 4
"""Candidates that an invocation runs one after the other on a CPU driver; a GPU has invocations enough."""


def interpret(
    chain: Chain, *, row_info: Buffer, cand: Buffer, code: Buffer, score: Buffer, traps: Buffer,
    state: Buffer | None = None, max_steps: int = GPU_STEPS,
) -> Chain:  # fmt: skip
    """Run every agent of `code` for every candidate.

    row_info u32[M, 8], cand u32[M, C, 4], code u32[S, A, W] (lower.py), score f32[M, A, C] (written for candidates that
    there are), traps u32[M, A, 2] (added to: fill it with zeros before), state u32[M, A, C, 36] for traces.
    Raises ArgumentError where shapes do not fit.
    """
    waves = CPU_WAVES if chain.device.family == "cpu" else 1
    return chain.dispatch(
        "flux_interpret", row_info=row_info, cand=cand, code=code, score=score, traps=traps, state=state,
        max_steps=max_steps, WAVES=waves, STATE=int(state is not None),
    )  # fmt: skip


__all__ = ["CPU_WAVES", "interpret"]
