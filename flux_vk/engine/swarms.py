"""A stream's swarm in the engine: what its chains need, its place on the device, and what comes of each vote.

Not for: swarms themselves, or how votes are counted (flux_vk.decode).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..decode.trace import replacement, trace_header, traced_token
from ..flux.trace import TracedToken, TraceWriter

if TYPE_CHECKING:
    from ..decode import AgentState, Drawing, Swarm
    from ..decode.swarm import Agent


class StreamSwarm:
    """One stream's use of a swarm. Trust is the stream's own: two streams with one swarm do not disturb each other.

    trace: a file that tells of every vote. Raises InputError where the swarm does not fit the vocabulary, or the file
    cannot be made.
    """

    def __init__(
        self, swarm: Swarm, vocab: int, text_of: Callable[[int], str], trace: str | Path | None, model: str, seed: int
    ) -> None:
        self.swarm = swarm
        self.drawing: Drawing = swarm.drawing(vocab, trace is not None)
        self._text_of = text_of
        self._trust = swarm.trust
        self._version = swarm.version
        self._agents: tuple[Agent, ...] = swarm.agents
        self._told = self._agents  # as the trace knows them
        self._writer = TraceWriter(trace, trace_header(swarm, model, seed)) if trace is not None else None

    @property
    def stale(self) -> bool:
        """Whether the swarm was changed since the device got its programs."""
        return self.swarm.version != self._version

    def begin(self, state: AgentState, slot: int) -> None:
        """Give a slot to the swarm as it is now. No step that uses the slot is in flight."""
        self._version = self.swarm.version  # first: what is changed meanwhile is seen next time
        self._agents = self.swarm.agents
        state.set_slot(slot, self.swarm, self._trust, self._agents)

    def take(self, state: AgentState, slot: int, position: int, index: int) -> TracedToken | None:
        """What the vote for a token left behind: trust goes to the swarm, the vote to the trace."""
        traps = state.traps(slot, position)
        self._trust = state.trust(slot, position)
        self.swarm.record(self._trust, [n for n, _ in traps])
        if self._writer is None:
            return None
        for i, (old, new) in enumerate(zip(self._told, self._agents, strict=True)):
            if old.program != new.program:
                self._writer.replace(replacement(index, i, self._agents))
        self._told = self._agents
        votes = state.trace(slot, position)
        token = traced_token(votes, index, self._text_of(votes.chosen), traps, self._text_of)
        self._writer.token(token)
        return token

    def close(self) -> None:
        """The stream has ended: its trace is complete."""
        if self._writer is not None:
            self._writer.close()
