"""What an evolution ends with: agents that vote well together, as .flx files, and what they are worth on other text.

Not for: how they came to be (population.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...files import write_whole
from ...gpu import Device
from ..disassembler import disassemble
from ..program import Program
from . import consensus
from .breeding import Individual
from .population import Generation
from .recording import Recording
from .scoring import LEAST, scores

POOL = 64
"""So many of the fittest are looked at for the swarm."""
KINDS = 12
"""And so many different ones of them may be chosen."""


@dataclass(frozen=True)
class Winner:
    """An agent of the evolved swarm."""

    individual: Individual
    program: Program
    weight: float


def winners(device: Device, recording: Recording, last: Generation, agents: int) -> list[Winner]:
    """The swarm of up to `agents` members of the last generation that makes the recorded text most likely (mode sum),
    the heaviest first; programs are named evolved-1, evolved-2 ... and have no source: checkpoints keep none."""
    pool = last.members[:POOL]
    found = scores(device, recording, [m.program for m in pool])
    kinds = consensus.unlike(recording, found, KINDS, LEAST)
    chosen = consensus.ensemble(recording, found[kinds], agents, LEAST)
    return [
        Winner(pool[kinds[i]], replace(pool[kinds[i]].program, name=f"evolved-{number}", source=""), weight)
        for number, (i, weight) in enumerate(chosen, 1)
    ]


def write_agents(folder: Path, found: Sequence[Winner]) -> list[Path]:
    """One .flx file each in `folder`; assembling it gives the program again."""
    paths = []
    for w in found:
        fitness = w.individual.fitness
        assert fitness is not None
        head = (
            f"; Agent {w.individual.id} of generation {w.individual.generation}, weight {w.weight:g} in its swarm.\n"
            f"; fitness {fitness.total:.6f}: log-likelihood {fitness.loglik:.6f}, repetition {fitness.repetition:.4f}, "
            f"distinct-2 {fitness.distinct:.4f}\n"
        )
        paths.append(folder / f"{w.program.name}.flx")
        write_whole(paths[-1], head + disassemble(w.program))
    return paths


@dataclass(frozen=True)
class HeldOut:
    """Mean log-likelihood in nats a token, and perplexity, of a text under one way to score it."""

    loglik: float
    perplexity: float


def held_out(
    device: Device, recording: Recording, swarms: Mapping[str, Sequence[tuple[Program, float]]], temperature: float
) -> dict[str, HeldOut]:
    """A recorded text under the votes of swarms, by "NAME sum" and "NAME prob"; under the model alone, "model", and,
    since a temperature is the least that agents can learn, under its logits at that one, "model at T"."""
    logits = recording.logits.astype(np.float64)
    found = {
        "model": _summary(recording, logits),
        f"model at {temperature:.2f}": _summary(recording, logits / temperature),
    }
    for name, swarm in swarms.items():
        own = scores(device, recording, [program for program, _ in swarm])
        for mode in consensus.MODES:
            votes = consensus.consensus(recording, own, [weight for _, weight in swarm], mode)
            found[f"{name} {mode}"] = _summary(recording, votes)
    return found


def _summary(recording: Recording, logits: consensus.F64) -> HeldOut:
    mean = float(consensus.likelihood(recording, logits, LEAST).mean())
    return HeldOut(mean, float(np.exp(-mean)))
