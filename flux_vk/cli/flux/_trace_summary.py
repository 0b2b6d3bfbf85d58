"""A whole trace in numbers: whose favourites won, who agrees with whom, who trapped. Not for: printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flux_vk.flux.trace import Trace, TracedToken


@dataclass(frozen=True)
class AgentSummary:
    """One agent over all tokens that were voted on.

    won: at how many tokens its favourite (its best score among the recorded candidates, the lowest id of several) was
    the token drawn; alone: at how many of these nobody else had that favourite; traps: candidates on which it trapped;
    trap: the largest trap code; trust: at the first and the last token.
    """

    name: str
    won: int
    alone: int
    traps: int
    trap: int
    trust: tuple[float, float]


@dataclass(frozen=True)
class TraceSummary:
    """tokens in all, those voted on, those at which the consensus' first candidate was drawn; agents; agreement: share
    of voted tokens at which two agents have the same favourite."""

    tokens: int
    voted: int
    first: int
    agents: tuple[AgentSummary, ...]
    agreement: tuple[tuple[float, ...], ...]


def favourite(token: TracedToken, agent: int) -> int:
    """Id of the agent's best among the recorded candidates."""
    return min(token.candidates, key=lambda c: (-c.score[agent], c.id)).id


def summarise(trace: Trace) -> TraceSummary:
    """The whole trace."""
    voted = [t for t in trace.tokens if t.candidates]
    count = len(trace.header.agents)
    liked = [[favourite(t, a) for a in range(count)] for t in voted]
    agents = tuple(_agent(trace, voted, liked, a) for a in range(count))
    agreement = tuple(
        tuple(sum(row[a] == row[b] for row in liked) / max(len(liked), 1) for b in range(count)) for a in range(count)
    )
    first = sum(t.candidates[0].id == t.id for t in voted)
    return TraceSummary(len(trace.tokens), len(voted), first, agents, agreement)


def _agent(trace: Trace, voted: Sequence[TracedToken], liked: Sequence[Sequence[int]], agent: int) -> AgentSummary:
    won = [i for i, t in enumerate(voted) if liked[i][agent] == t.id]
    alone = sum(list(liked[i]).count(liked[i][agent]) == 1 for i in won)
    facts = [t.agents[agent] for t in voted]
    trust = (facts[0].trust, facts[-1].trust) if facts else (1.0, 1.0)
    return AgentSummary(
        trace.header.agents[agent].name, len(won), alone, sum(f.traps for f in facts),
        max((f.trap for f in facts), default=0), trust,
    )  # fmt: skip
