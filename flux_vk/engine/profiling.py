"""Device times of a model's steps by kernel. Not for: benchmarks over a whole text (flux_vk.cli)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..decode import Drawing, SamplingParams, Swarm

if TYPE_CHECKING:
    from ..gpu import Profile
    from .model import Model


def profile_model(
    model: Model, prompt_tokens: int, repeat: int, params: SamplingParams | None, agents: Swarm | None
) -> tuple[Profile, Profile]:
    """Of a prefill step of that many tokens, and of a decode step behind it with what params and agents make of it."""
    runner, params = model.runner, params or SamplingParams(seed=0)
    rows = max(1, min(prompt_tokens, runner.limits.max_rows, model.context - 2 - 2 * repeat))
    drawing = Drawing(logprobs=params.logprobs > 0, complete=params.complete)
    sequence = runner.open_sequence()
    try:
        breakers = model.breakers(tuple(params.dry_sequence_breakers)) if params.dry else None
        runner.set_sampling(sequence, params, [0] * rows, breakers=breakers)
        with runner.lock:
            if agents is None:
                runner.buffers.clear_agents(sequence.slot)
            else:
                runner.buffers.agents.set_slot(sequence.slot, agents)
                drawing = Drawing.joined((drawing, agents.drawing(model.config.vocab_size)))
        runner.prefill(sequence, [0] * rows, sample=True)
        decode = runner.profile_decode(sequence, repeat, drawing)
        return runner.profile_prefill(sequence, rows, repeat), decode
    finally:
        runner.close_sequence(sequence)
