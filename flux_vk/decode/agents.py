"""What the device keeps of the slots' swarms: programs, weights, trust, and the rings the host reads votes from.

Not for: swarms as users make them (swarm.py) or the chain that counts votes (voting.py).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..flux.lower import CODE_WORDS, lower
from ..flux.program import Program
from ..flux.trace import VOTES
from ..gpu.buffer import Buffer
from ..gpu.device import BaseDevice
from .swarm import MAX_AGENTS, Agent, Swarm
from .trace import TRACE_WORDS, RowVotes, row_votes

SWARM_WORDS = 8
TRACE_RING = 16


class AgentState:
    """Swarms of `slots` sequences over a vocabulary of `vocab` tokens. A slot without one is left alone.

    ring, trace_ring: tokens the host may lag behind. Trust and traps at position p stand at p % ring, votes at
    p % trace_ring. What writes to a slot is called while no step that uses it is in flight.
    """

    def __init__(self, dev: BaseDevice, slots: int, vocab: int, ring: int = 256, trace_ring: int = TRACE_RING) -> None:
        self.device, self.slots, self.vocab, self.ring_size, self.trace_size = dev, slots, vocab, ring, trace_ring
        self.code = dev.zeros((slots, MAX_AGENTS, CODE_WORDS), "u32")
        self.weight = dev.zeros((slots, MAX_AGENTS), "f32")
        self.trust_now = dev.zeros((slots, MAX_AGENTS), "f32")
        self.swarm = dev.zeros((slots, SWARM_WORDS), "u32")
        self.trust_ring = dev.host((slots, ring, MAX_AGENTS), "f32")
        self.trap_ring = dev.host((slots, ring, MAX_AGENTS, 2), "u32")
        self.trace_ring = dev.host((slots, trace_ring, TRACE_WORDS), "u32")
        for host in (self.trust_ring, self.trap_ring, self.trace_ring):
            host.view()[...] = 0
        self._programs: dict[tuple[int, int], Program] = {}
        self._agents = [0] * slots

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All buffers, for memory reports."""
        return (
            self.code, self.weight, self.trust_now, self.swarm, self.trust_ring, self.trap_ring, self.trace_ring,
        )  # fmt: skip

    def set_slot(
        self, slot: int, swarm: Swarm, trust: tuple[float, ...] | None = None, agents: tuple[Agent, ...] | None = None
    ) -> None:
        """Give a slot to a swarm, with its trust or another. Raises InputError where something does not fit.

        agents: the swarm's at a moment that the caller knows, since another thread may change them; None: now.
        """
        self._check(slot)
        agents = swarm.agents if agents is None else agents
        trust = tuple(a.trust for a in agents) if trust is None else trust
        if len(trust) != len(agents):
            raise InputError(f"trust has {len(trust)} numbers; expected {len(agents)}, one an agent")
        words = np.zeros((1, SWARM_WORDS), np.uint32)
        words[0, :2] = len(agents), VOTES.index(swarm.vote)
        words.view(np.float32)[0, 2] = swarm.trust_rate
        words[0, 3] = swarm.most_candidates(self.vocab)
        self.swarm.rows(slot, slot + 1).write(words)
        self._agents[slot] = len(agents)
        for index in range(len(agents), MAX_AGENTS):
            if self._programs.pop((slot, index), None) is not None:
                self._code(slot, index).write(np.zeros((1, CODE_WORDS), np.uint32))
        self._write(self.trust_now, slot, trust)
        self.refresh(slot, agents)

    def refresh(self, slot: int, agents: tuple[Agent, ...]) -> list[int]:
        """Bring weights and programs of a slot up to date; the agents that have another program than before."""
        self._check(slot)
        if len(agents) != self._agents[slot]:
            raise InputError(
                f"slot {slot} has {self._agents[slot]} agents; expected the same number, not {len(agents)}"
            )
        self._write(self.weight, slot, [a.weight for a in agents])
        changed = [i for i, a in enumerate(agents) if self._programs.get((slot, i)) != a.program]
        for i in changed:
            self.swap(slot, i, agents[i].program)
        return changed

    def swap(self, slot: int, index: int, program: Program) -> None:
        """Give one agent of a slot another program: an upload of some kilobytes."""
        self._check(slot)
        if not 0 <= index < MAX_AGENTS:
            raise InputError(f"agent is {index}; expected 0 to {MAX_AGENTS - 1}")
        self._code(slot, index).write(lower(program)[None])
        self._programs[slot, index] = program

    def clear_slot(self, slot: int) -> None:
        """Nobody votes for this slot's tokens any more."""
        self._check(slot)
        self.swarm.rows(slot, slot + 1).write(np.zeros((1, SWARM_WORDS), np.uint32))
        self._agents[slot] = 0

    def trust(self, slot: int, position: int) -> tuple[float, ...]:
        """Trust of the slot's agents after the token at a position, once its step is done."""
        found = self.trust_ring.view()[slot, position % self.ring_size, : self._agents[slot]]
        return tuple(float(t) for t in found)

    def traps(self, slot: int, position: int) -> tuple[tuple[int, int], ...]:
        """For each agent on how many candidates for the token at a position it trapped, and the largest trap's code."""
        found = self.trap_ring.view()[slot, position % self.ring_size, : self._agents[slot]]
        return tuple((int(n), int(code)) for n, code in found)

    def trace(self, slot: int, position: int) -> RowVotes:
        """The vote for the token at a position, from a chain that traces. InputError where it is not there any more."""
        words = self.trace_ring.view()[slot, position % self.trace_size].copy()
        if words[0] != position:
            raise InputError(f"slot {slot} has no trace of position {position}; the last {self.trace_size} are kept")
        return row_votes(words)

    def _code(self, slot: int, index: int) -> Buffer:
        return self.code.rows(slot, slot + 1).reshape(MAX_AGENTS, CODE_WORDS).rows(index, index + 1)

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise InputError(f"slot is {slot}; expected 0 to {self.slots - 1}")

    def _write(self, buffer: Buffer, slot: int, values: npt.ArrayLike) -> None:
        found = np.asarray(values, np.float32)
        row = np.zeros((1, MAX_AGENTS), np.float32)
        row[0, : len(found)] = found
        buffer.rows(slot, slot + 1).write(row)
