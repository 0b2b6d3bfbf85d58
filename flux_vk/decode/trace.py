"""What the device tells about a vote, made ready for the trace file.

Not for: the file's format, writer and reader (flux_vk/flux/trace.py, which rooms below this one can use too).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..flux.trace import (
    VOTES,
    Replacement,
    TracedAgent,
    TracedCandidate,
    TracedProgram,
    TracedToken,
    TraceHeader,
)
from .swarm import MAX_AGENTS, Agent, Swarm

# In the order of the constants in shaders/flux_trace.comp.
_HEAD = 16
_ENTRIES = _HEAD + 2 * MAX_AGENTS
_ENTRY = 8 + 2 * MAX_AGENTS
LEADING = 16
"""Candidates that are told of every token, best first; the chosen one is the 17th where it is not among them."""
TRACE_WORDS = _ENTRIES + (LEADING + 1) * _ENTRY


@dataclass(frozen=True)
class RowVotes:
    """The vote for the token at `position`; docs/agents.md has the meaning of each number.

    weight, trust: of each agent, trust before this token. seed: 64 bits. leading: the best by consensus, then the
    chosen one where it is not among them, without their texts; none where nobody voted.
    """

    position: int
    n: int
    best: float
    entropy: float
    logsumexp: float
    seed: int
    vote: str
    chosen: int
    weight: tuple[float, ...]
    trust: tuple[float, ...]
    leading: tuple[TracedCandidate, ...]


def row_votes(words: npt.NDArray[np.uint32]) -> RowVotes:
    """One entry u32[TRACE_WORDS] of the trace ring."""
    floats = words.view(np.float32)
    agents, entries = int(words[7]), int(words[9])

    def reals(at: int, step: int = 1) -> tuple[float, ...]:
        return tuple(float(x) for x in floats[at : at + step * agents : step])

    def entry(at: int) -> TracedCandidate:
        token, rank, count, distance = (int(words[at + i]) for i in (0, 1, 3, 4))
        return TracedCandidate(
            token, "", rank, float(floats[at + 2]), count, -1 if distance == 0xFFFFFFFF else distance,
            float(floats[at + 5]), float(floats[at + 6]), reals(at + 8), reals(at + 8 + MAX_AGENTS),
        )  # fmt: skip

    return RowVotes(
        position=int(words[0]), n=int(words[1]), best=float(floats[2]), entropy=float(floats[3]),
        logsumexp=float(floats[4]), seed=int(words[5]) | int(words[6]) << 32, vote=VOTES[int(words[8])],
        chosen=int(words[10]), weight=reals(_HEAD, 2), trust=reals(_HEAD + 1, 2),
        leading=tuple(entry(_ENTRIES + _ENTRY * i) for i in range(entries)),
    )  # fmt: skip


def traced_program(agent: Agent) -> TracedProgram:
    """An agent's program as the file keeps it."""
    p = agent.program
    return TracedProgram(agent.name, agent.weight, p.code, p.result, p.gp, p.fp)


def trace_header(swarm: Swarm, model: str, seed: int) -> TraceHeader:
    """The first line of a trace."""
    agents = tuple(traced_program(a) for a in swarm.agents)
    candidates = 0 if swarm.candidates == "all" else int(swarm.candidates)
    return TraceHeader(agents, model, seed, swarm.vote, candidates, swarm.trust_rate)


def replacement(index: int, agent: int, agents: tuple[Agent, ...]) -> Replacement:
    """The line that says agent number `agent` has another program from token `index` on."""
    return Replacement(index, agent, traced_program(agents[agent]))


def traced_token(
    votes: RowVotes, index: int, text: str, traps: tuple[tuple[int, int], ...], text_of: Callable[[int], str]
) -> TracedToken:
    """The line of one token. text: what it added; text_of: the text of any token alone."""
    agents = tuple(
        TracedAgent(weight, trust, n, code)
        for weight, trust, (n, code) in zip(votes.weight, votes.trust, traps, strict=True)
    )
    leading = tuple(replace(candidate, text=text_of(candidate.id)) for candidate in votes.leading)
    return TracedToken(
        index, votes.position, votes.chosen, text, votes.n, votes.best, votes.entropy, votes.logsumexp, agents, leading
    )
