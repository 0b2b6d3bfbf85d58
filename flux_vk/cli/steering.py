"""What has a say in the tokens of an answer beside the sampler: a grammar, a swarm of agents. One value for both.

Not for: their options (grammar_options.py, agent_options.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flux_vk.cli.agent_options import make_swarm, swarm_line, swarm_object
from flux_vk.cli.grammar_options import cut_note

if TYPE_CHECKING:
    from pathlib import Path

    from flux_vk.cli.options import RunOptions
    from flux_vk.decode import Swarm
    from flux_vk.engine.generation import Generation
    from flux_vk.text import Grammar


@dataclass(frozen=True)
class Steering:
    """A grammar and a swarm; the swarm keeps its trust from answer to answer. keep: the file that it is saved to."""

    grammar: Grammar | None = None
    swarm: Swarm | None = None
    keep: Path | None = None

    @classmethod
    def of(cls, options: RunOptions) -> Steering:
        """What the options ask for. Raises InputError and GrammarError naming the file or agent."""
        if options.agents.save is not None:  # now, and not behind an answer
            from flux_vk.decode.swarm_parts import check_place

            check_place(options.agents.save)
        grammar = options.grammar.read() if options.grammar is not None else None
        return cls(grammar, make_swarm(options.agents), options.agents.save)

    def notes(self, generation: Generation) -> list[str]:
        """Lines to show behind an answer; the swarm is saved where that was asked for."""
        lines = []
        if self.grammar is not None and (note := cut_note(generation)):
            lines.append(note)
        if self.swarm is not None:
            lines.append(swarm_line(self.swarm))
            self.save()
        return lines

    def objects(self) -> dict[str, Any]:
        """The same for --json."""
        self.save()
        return {} if self.swarm is None else {"swarm": swarm_object(self.swarm)}

    def save(self) -> None:
        """Write the swarm to its file, if it has one."""
        if self.swarm is not None and self.keep is not None:
            self.swarm.save(self.keep)
