"""Appends the agents' vote to a chain: the model's logits become a consensus, and once a token is drawn, trust.

Not for: what samplers do with the consensus (sampling.py) or what the device keeps of a swarm (agents.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..flux.interpreter import interpret
from ..gpu import ops
from ..gpu.buffer import Buffer
from ..gpu.chain import Chain
from .agents import AgentState
from .drawing import Drawing
from .state import SamplerState
from .swarm import MAX_AGENTS, MAX_BORDA, SHORT

_NEG_INF = 0xFF800000
_PADDED = 64  # rows of keys that are sorted begin at multiples of it, which satisfies every device's offset alignment


@dataclass(frozen=True)
class Vote:
    """What a vote leaves in a chain: `consensus` f32[M, V], and what `add_trust` needs. The rest is scratch."""

    state: AgentState
    logits: Buffer
    consensus: Buffer
    row_info: Buffer
    cand: Buffer
    score: Buffer
    traps: Buffer
    tally: Buffer
    votes: Buffer | None


def add_agents(
    chain: Chain, agents: AgentState, sampler: SamplerState, logits: Buffer, row_slot: Buffer, row_pos: Buffer,
    drawing: Drawing,
) -> Vote:  # fmt: skip
    """Let the agents of each row's slot vote: logits f32[M, V] (read only), row_slot and row_pos u32[M].

    drawing.agents: most agents of a slot, drawing.candidates: most candidates (Swarm.drawing has both). The bits do not
    depend on either. Rows of slots without agents, or whose agents have no effective weight, keep their logits.
    Raises InputError where the rows do not fit what the device can bind.
    """
    rows, vocab = logits.shape
    a, c = _room(chain, drawing, rows, vocab)
    s, x = agents, sampler
    width = 64 if chain.device.family == "cpu" else 256
    groups = -(-vocab // 4096)
    parts = chain.scratch((rows, groups, 4), "f32")
    maxima = chain.scratch((rows, 64 * groups), "u32")
    consensus = chain.scratch((rows, vocab), "f32")
    chain.fill(dst=consensus, value=_NEG_INF)
    keys = chain.scratch((rows, -(-vocab // _PADDED) * _PADDED), "u32") if c > SHORT else None
    chain.flux_moments(
        logits=logits, row_slot=row_slot, swarm=s.swarm, weight=s.weight, trust=s.trust_now, maxima=maxima,
        parts=parts, consensus=consensus, keys=keys,
    )  # fmt: skip
    row_info, cand = chain.scratch((rows, 8), "u32"), chain.scratch((rows, c, 4), "u32")
    given = {
        "logits": logits, "row_slot": row_slot, "row_pos": row_pos, "params": x.params, "swarm": s.swarm,
        "parts": parts, "history": x.history, "hist_count": x.hist_count, "row_info": row_info, "cand": cand,
        "WG": width,
    }  # fmt: skip
    if keys is None:
        chain.flux_candidates(maxima=maxima, **given)
    else:
        ranked, ids = _sorted(chain, keys)
        chain.flux_ranked(keys=ranked, ids=ids, **given)

    score, traps = chain.scratch((rows, a, c), "f32"), chain.scratch((rows, a, 2), "u32")
    chain.fill(dst=traps)
    interpret(chain, row_info=row_info, cand=cand, code=s.code, score=score, traps=traps)
    tally = chain.scratch((rows, a, 4), "u32")
    chain.flux_tally(row_info=row_info, cand=cand, score=score, swarm=s.swarm, tally=tally, WG=width)
    votes = chain.scratch((rows, c), "f32") if drawing.trace else None
    chain.flux_vote(
        row_info=row_info, cand=cand, score=score, tally=tally, swarm=s.swarm, weight=s.weight, trust=s.trust_now,
        consensus=consensus, votes=votes,
    )  # fmt: skip
    return Vote(s, logits, consensus, row_info, cand, score, traps, tally, votes)


def add_trust(chain: Chain, vote: Vote, picked: Buffer) -> None:
    """Behind the draw: the trace where the chain has one, then trust. picked u32[M, 2]: token, 1 if none."""
    s = vote.state
    given = {
        "row_info": vote.row_info, "cand": vote.cand, "score": vote.score, "tally": vote.tally, "logits": vote.logits,
        "picked": picked, "swarm": s.swarm, "trust": s.trust_now,
    }  # fmt: skip
    if vote.votes is not None:
        # The more threads, the fewer candidates each: llvmpipe ends the loops of a thread after 65,535 turns.
        width = 64 if vote.cand.shape[1] <= MAX_BORDA else 256
        chain.flux_trace(votes=vote.votes, weight=s.weight, trace_ring=s.trace_ring, WG=width, **given)
    chain.flux_trust(traps=vote.traps, trust_ring=s.trust_ring, trap_ring=s.trap_ring, **given)


def row_bytes(drawing: Drawing, vocab: int) -> int:
    """Bytes that a row takes in the largest of a vote's buffers; 0 where nobody votes."""
    if not drawing.agents:
        return 0
    a, c = _sizes(drawing, vocab)
    return max(4 * vocab, 4 * a * c, 16 * c)


def _sizes(drawing: Drawing, vocab: int) -> tuple[int, int]:
    """Places for agents and candidates in a chain."""
    if not 1 <= drawing.agents <= MAX_AGENTS:
        raise InputError(f"drawing.agents is {drawing.agents}; expected 1 to {MAX_AGENTS}")
    return drawing.agents, SHORT if drawing.candidates <= SHORT else min(drawing.candidates, vocab)


def _room(chain: Chain, drawing: Drawing, rows: int, vocab: int) -> tuple[int, int]:
    """The same, once it is known that the device can bind them."""
    a, c = _sizes(drawing, vocab)
    most = rows * row_bytes(drawing, vocab)
    if most > chain.device.max_range:
        raise InputError(
            f"{rows} rows with {a} agents and {c} candidates take {most} bytes; the device binds "
            f"{chain.device.max_range}: use fewer candidates, or fewer sequences at a time"
        )
    return a, c


def _sorted(chain: Chain, keys: Buffer) -> tuple[Buffer, Buffer]:
    """Keys u32[M, N] in falling order, and where they were; equal ones in the order of their ids."""
    rows, n = keys.shape
    ranked, ids = chain.scratch((rows, n), "u32"), chain.scratch((rows, n), "u32")
    for row in range(rows):
        one, key, at = (b.rows(row, row + 1).reshape(n) for b in (keys, ranked, ids))
        ops.sort(chain, keys=one, keys_out=key, values_out=at, descending=True)
    return ranked, ids
