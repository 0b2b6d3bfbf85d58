"""The options of `python -m flux_vk.run` that make a swarm of agents, and what is told of it afterwards."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_vk.cli.common import number, text

if TYPE_CHECKING:
    from flux_vk.decode import Swarm

VOTES = ("sum", "prob", "borda", "majority")


@dataclass(frozen=True)
class AgentOptions:
    """What was asked for; without agents there is no swarm, and the model's own logits count."""

    agents: tuple[str, ...] = ()
    swarm: Path | None = None
    vote: str | None = None
    trust_rate: float | None = None
    candidates: int | str | None = None
    trace: Path | None = None
    save: Path | None = None

    @property
    def given(self) -> bool:
        """Whether there is a swarm."""
        return bool(self.agents) or self.swarm is not None


def add_agent_options(parser: argparse.ArgumentParser) -> None:
    """The group of options."""
    g = parser.add_argument_group("agents", "programs that vote on every token; without --agent there are none")
    g.add_argument(
        "--agent", action="append", type=text("a name or file"), metavar="NAME[:WEIGHT]",
        help="a stock agent (or `default` for the three of the default swarm), or a file with its program; repeatable; "
        "weight 1 where none is given",
    )  # fmt: skip
    g.add_argument("--swarm", type=Path, metavar="FILE", help="agents, weights and trust that --save-swarm kept")
    g.add_argument("--vote", choices=VOTES, help="how scores become one; default sum")
    g.add_argument("--trust-rate", type=number(0, 1), metavar="A", help="how fast trust follows success; default 0")
    g.add_argument("--candidates", type=_candidates, metavar="N", help="best tokens voted on, or all; default 256")
    g.add_argument("--trace", type=Path, metavar="FILE", help="write every vote; `python -m flux_vk.flux explain`")
    g.add_argument("--save-swarm", type=Path, metavar="FILE", help="keep agents and trust for another run")


def agent_options(parser: argparse.ArgumentParser, a: argparse.Namespace) -> AgentOptions:
    """What was given, checked as far as that goes without opening anything."""
    found = AgentOptions(
        tuple(a.agent or ()), a.swarm, a.vote, a.trust_rate, a.candidates, a.trace, a.save_swarm,
    )  # fmt: skip
    if found.agents and found.swarm is not None:
        parser.error("--swarm brings its own agents: leave out --agent, or --swarm")
    if not found.given:
        names = ("vote", "trust_rate", "candidates", "trace", "save_swarm")
        lonely = next((n for n in names if getattr(a, n) is not None), None)
        if lonely is not None:
            parser.error(f"--{lonely.replace('_', '-')} belongs to agents: add --agent NAME, or --swarm FILE")
    return found


def make_swarm(options: AgentOptions) -> Swarm | None:
    """The swarm that was asked for; None without agents. Raises InputError naming agent or file."""
    if not options.given:
        return None
    from flux_vk.decode import Swarm, parse_agent

    settings: dict[str, Any] = {
        name: value for name in ("vote", "trust_rate", "candidates") if (value := getattr(options, name)) is not None
    }
    if options.swarm is not None:
        kept = Swarm.load(options.swarm)
        if not settings:
            return kept
        known: dict[str, Any] = {"vote": kept.vote, "trust_rate": kept.trust_rate, "candidates": kept.candidates}
        return Swarm(kept.agents, **(known | settings))
    agents: list[Any] = []
    for given in options.agents:
        agents += Swarm.default().agents if given == "default" else [parse_agent(given)]
    return Swarm(agents, **settings)


def swarm_line(swarm: Swarm) -> str:
    """Agents with their weights, trust and traps, in one line."""
    parts = []
    for a in swarm.agents:
        traps = f", {a.traps} traps" if a.traps else ""
        parts.append(f"{a.name} weight {a.weight:g} trust {a.trust:.3f}{traps}")
    return f"[agents, vote {swarm.vote}: {' | '.join(parts)}]"


def swarm_object(swarm: Swarm) -> dict[str, Any]:
    """The same for --json."""
    agents = [{"name": a.name, "weight": a.weight, "trust": a.trust, "traps": a.traps} for a in swarm.agents]
    return {"vote": swarm.vote, "trust_rate": swarm.trust_rate, "candidates": swarm.candidates, "agents": agents}


def _candidates(value: str) -> int | str:
    if value == "all":
        return value
    try:
        n = int(value)
    except ValueError:
        n = 0
    if n < 1:
        raise argparse.ArgumentTypeError(f"found {value!r}, expected a whole number, 1 or more, or all")
    return n


