"""A swarm: up to eight bytecode agents that vote on every token, with their weights and trust.

Not for: how programs are written and judged (flux_vk/flux), what the device keeps of a swarm (agents.py), or how votes
are counted (voting.py).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..flux.program import Program
from ..flux.stock_agents import DEFAULT_SWARM
from ..flux.trace import VOTES
from .drawing import Drawing
from .state import MAX_VOCAB
from .swarm_parts import (
    FORMAT,
    agent_name,
    check_place,
    closest,
    program_from,
    program_of,
    program_out,
    real,
    unnumbered,
)

MAX_AGENTS = 8
MAX_WEIGHT = 1e30
SHORT = 256
"""Most candidates that are found without sorting the row."""
MAX_BORDA = 1024
"""Most candidates of the vote by ranks, which compares every two of them."""


@dataclass(frozen=True)
class Agent:
    """A program that scores candidates, and how much its score counts: weight times trust.

    `program` may be given as a Program, bytecode, the name of a stock agent or a file's path; in a swarm's `agents` it
    is a Program. `traps`: candidates on which it trapped, since the swarm was made.
    """

    program: Program
    weight: float = 1.0
    name: str = ""
    trust: float = 1.0
    traps: int = 0


Source = Program | bytes | str | Path
Given = Agent | Source | tuple[Source, float]


class Swarm:
    """Agents that vote on every token: `Swarm([("conservative", 0.5), ("mine.flx", 0.3), (program, 0.2)])`.

    Each agent is a name of a stock agent, the path of a file (.flx source, or bytecode), a Program or its bytecode;
    alone (weight 1), in a pair with its weight, or as an Agent. Two of the same name are numbered: greedy, greedy-2.

    vote: "sum" (weighted sum of scores), "prob" (weighted mean of each agent's softmax), "borda" (weighted number of
    candidates that an agent scores lower) or "majority" (weight of the agents whose best it is).
    trust_rate: 0 to 1; after every token trust becomes (1 - rate) trust + rate p, where p is the likelihood that the
    agent's softmax gave to the token divided by that of its best. candidates: how many of the best logits they vote on,
    or "all".

    A generation starts with the swarm's trust and writes it back after every token it gives out; of two at a time each
    goes its own way from the trust at its start, and the swarm keeps what was written last. May be changed from any
    thread while a generation uses it; the change holds from a token soon after.

    Raises InputError naming what was given, what was found and what is expected.
    """

    def __init__(
        self, agents: Iterable[Given], vote: str = "sum", trust_rate: float = 0.0, candidates: int | str = SHORT
    ) -> None:
        if isinstance(agents, (str, bytes)) or not isinstance(agents, Iterable):
            raise InputError(f"agents is {agents!r}; expected a list like [('conservative', 0.5), ('mine.flx', 0.3)]")
        made: list[Agent] = []
        for given in agents:
            agent = _agent(given)
            made.append(replace(agent, name=unnumbered(agent.name, [a.name for a in made])))
        if not 1 <= len(made) <= MAX_AGENTS:
            raise InputError(f"the swarm has {len(made)} agents; expected 1 to {MAX_AGENTS}")
        _check_weights(made)
        if vote not in VOTES:
            raise InputError(f"vote is {vote!r}; expected one of {', '.join(VOTES)}{closest(str(vote), VOTES)}")
        self.vote = vote
        self.trust_rate = real("trust_rate", trust_rate, 0.0, 1.0)
        self.candidates = _candidates(candidates, vote)
        self._agents = made
        self._version = 0
        self._lock = threading.Lock()

    @classmethod
    def default(cls) -> Swarm:
        """Conservative (weight 0.5), creative (0.3) and penalty (0.2), voting by weighted sum."""
        return cls(DEFAULT_SWARM)

    def __repr__(self) -> str:
        agents = ", ".join(f"{a.name}:{a.weight:g}" for a in self.agents)
        return f"Swarm({agents}; vote={self.vote}, trust_rate={self.trust_rate:g}, candidates={self.candidates})"

    # -- what there is --------------------------------------------------------------------------------------------

    @property
    def agents(self) -> tuple[Agent, ...]:
        """The agents as they are now."""
        with self._lock:
            return tuple(self._agents)

    @property
    def trust(self) -> tuple[float, ...]:
        """Trust of each agent, in the order of `agents`."""
        return tuple(a.trust for a in self.agents)

    @property
    def version(self) -> int:
        """Grows with every change of a program or weight, so that whoever runs the swarm can see one."""
        return self._version

    def most_candidates(self, vocab: int) -> int:
        """How many candidates there are at most. InputError where the vote does not take so many."""
        n = vocab if self.candidates == "all" else min(int(self.candidates), vocab)
        if self.vote == "borda" and n > MAX_BORDA:
            raise InputError(f"candidates are all {n} tokens; vote='borda' takes at most {MAX_BORDA}: give a number")
        return n

    def drawing(self, vocab: int, trace: bool = False) -> Drawing:
        """What a chain needs for this swarm. Few sizes exist, so that few chains are recorded."""
        n = self.most_candidates(vocab)
        room = SHORT if n <= SHORT else min(1 << (n - 1).bit_length(), vocab)
        places = 1 << (len(self.agents) - 1).bit_length()
        return Drawing(agents=places, candidates=room, trace=trace)

    # -- changes --------------------------------------------------------------------------------------------------

    def replace(self, name: str, program: Source) -> None:
        """Give the agent of that name another program; it keeps name, weight and trust."""
        made = program_of(program)
        with self._lock:
            at = self._index(name)
            self._agents[at] = replace(self._agents[at], program=made)
            self._version += 1

    def set_weight(self, name: str, weight: float) -> None:
        """Give the agent of that name another weight."""
        with self._lock:
            at = self._index(name)
            changed = list(self._agents)
            changed[at] = replace(changed[at], weight=_weight(weight, name))
            _check_weights(changed)
            self._agents = changed
            self._version += 1

    def record(self, trust: Sequence[float], traps: Sequence[int]) -> None:
        """What a generation found after a token: trust of each agent, and how many candidates it trapped on."""
        with self._lock:
            both = zip(self._agents, trust, traps, strict=True)
            self._agents = [replace(a, trust=float(t), traps=a.traps + int(n)) for a, t, n in both]

    def _index(self, name: str) -> int:
        names = [a.name for a in self._agents]
        if name not in names:
            known = f"it has {', '.join(names)}{closest(str(name), names)}"
            raise InputError(f"the swarm has no agent {name!r}; {known}")
        return names.index(name)

    # -- keeping --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Trust and traps by agent, for `restore`."""
        return {a.name: {"trust": a.trust, "traps": a.traps} for a in self.agents}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take trust and traps from what `state` gave. A text that is being written goes on with its own trust.

        InputError where agents or values do not fit; nothing is taken then.
        """
        with self._lock:
            names = [a.name for a in self._agents]
            if not isinstance(state, Mapping) or sorted(state) != sorted(names):
                found = ", ".join(map(str, state)) if isinstance(state, Mapping) else repr(state)
                raise InputError(f"the state is of agents {found}; expected {', '.join(names)}")
            self._agents = [_restored(a, state[a.name]) for a in self._agents]

    def save(self, path: str | Path) -> None:
        """Write programs, weights, trust and settings to a JSON file, whole or not at all."""
        path = Path(path)
        agents = [
            {"name": a.name, "weight": a.weight, "trust": a.trust, "traps": a.traps, **program_out(a.program)}
            for a in self.agents
        ]
        head = {"flux_swarm": FORMAT, "vote": self.vote, "trust_rate": self.trust_rate, "candidates": self.candidates}
        check_place(path)
        part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            part.write_text(json.dumps(head | {"agents": agents}, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise InputError(f"swarm {path}: cannot be written ({error.strerror}); name another file") from error

    @classmethod
    def load(cls, path: str | Path) -> Swarm:
        """Read what `save` wrote. Raises InputError naming file and key."""
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"swarm {path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise InputError(f"swarm {path}: not JSON ({error}); expected a file that Swarm.save wrote") from error
        if not isinstance(data, dict) or data.get("flux_swarm") != FORMAT or not isinstance(data.get("agents"), list):
            raise InputError(f"swarm {path}: expected an object with flux_swarm {FORMAT} and a list of agents")
        try:
            agents = [_loaded(entry) for entry in data["agents"]]
            names = [a.name for a in agents]
            if len(set(names)) != len(names):
                raise InputError(f"agents are called {', '.join(names)}; expected a name for each")
            return cls(agents, data.get("vote", "sum"), data.get("trust_rate", 0.0), data.get("candidates", SHORT))
        except InputError as error:
            raise InputError(f"swarm {path}: {error}") from error


def parse_agent(text: str) -> tuple[str, float]:
    """NAME, NAME:WEIGHT, PATH or PATH:WEIGHT, as on a command line. InputError where the weight is no number."""
    head, colon, tail = text.rpartition(":")
    try:
        weight = float(tail)
    except ValueError:
        if not colon or text.endswith(".flx") or Path(text).exists():
            return text, 1.0
        raise InputError(f"agent {text!r}: weight {tail!r} is no number; expected NAME:WEIGHT or PATH:WEIGHT") from None
    if not colon:
        return text, 1.0
    if not head:
        raise InputError(f"agent {text!r} has no name; expected NAME:WEIGHT or PATH:WEIGHT")
    return head, _weight(weight, head)


def _agent(given: Given) -> Agent:
    if isinstance(given, Agent):
        program = program_of(given.program)
        trust = real(f"trust of agent {given.name or program.name!r}", given.trust, 0.0, 1.0)
        name = agent_name(given.name or program.name)
        return Agent(program, _weight(given.weight, name), name, trust, given.traps)
    weight: Any = 1.0
    what: Any = given
    if isinstance(given, (tuple, list)):
        if len(given) != 2:
            raise InputError(f"agent {given!r}: expected a pair (program, weight)")
        what, weight = given
    program = program_of(what)
    return Agent(program, _weight(weight, program.name), program.name)


def _weight(weight: Any, name: str) -> float:
    return real(f"weight of agent {name!r}", weight, 0.0, MAX_WEIGHT)


def _check_weights(agents: Sequence[Agent]) -> None:
    if not any(a.weight > 0 for a in agents):
        raise InputError(f"the weights of {', '.join(a.name for a in agents)} are all 0; expected one above 0")


def _candidates(given: Any, vote: str) -> int | str:
    if given == "all":
        return "all"
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_VOCAB:
        raise InputError(f"candidates is {given!r}; expected 1 to {MAX_VOCAB}, or 'all'")
    if vote == "borda" and given > MAX_BORDA:
        raise InputError(f"candidates is {given}; vote='borda' takes at most {MAX_BORDA}")
    return given


def _restored(agent: Agent, state: Any) -> Agent:
    if not isinstance(state, Mapping):
        raise InputError(f"the state of agent {agent.name!r} is {state!r}; expected its trust and traps")
    trust = real(f"trust of agent {agent.name!r}", state.get("trust"), 0.0, 1.0)
    traps = state.get("traps", 0)
    if isinstance(traps, bool) or not isinstance(traps, int) or traps < 0:
        raise InputError(f"traps of agent {agent.name!r} is {traps!r}; expected a whole number, 0 or more")
    return replace(agent, trust=trust, traps=traps)


def _loaded(entry: Any) -> Agent:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InputError(f"agent {str(entry)[:60]!r}: expected an object with name, weight, trust and code")
    made = Agent(program_from(entry), _weight(entry.get("weight"), entry["name"]), agent_name(entry["name"]))
    return _restored(made, entry)
