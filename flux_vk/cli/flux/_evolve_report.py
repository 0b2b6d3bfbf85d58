"""What `evolve` tells at its end: the swarm, what it is worth, and the best agent's listing. Not for: computing it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_vk.cli.tables import aligned

if TYPE_CHECKING:
    from flux_vk.flux.evolution.population import Generation
    from flux_vk.flux.evolution.winners import HeldOut, Winner

Compared = Mapping[str, Mapping[str, "HeldOut"]]


def as_json(last: Generation, best: Sequence[float], found: Sequence[Winner], compared: Compared) -> dict[str, Any]:
    """The same as data."""
    return {
        "generation": last.number,
        "best_fitness": list(best),
        "swarm": [
            {"name": w.program.name, "weight": w.weight, "id": w.individual.id, "fitness": _fitness(w)} for w in found
        ],
        "texts": {text: {way: asdict(h) for way, h in ways.items()} for text, ways in compared.items()},
    }


def _fitness(winner: Winner) -> dict[str, float]:
    assert winner.individual.fitness is not None
    return asdict(winner.individual.fitness)


def write_summary(folder: Path, found: Mapping[str, Any]) -> None:
    """DIR/summary.json, whole or not at all."""
    from flux_vk.files import write_whole

    write_whole(folder / "summary.json", json.dumps(found, indent=1) + "\n")


def summary(folder: Path, last: Generation, best: Sequence[float], found: Sequence[Winner], compared: Compared) -> str:
    """For reading."""
    from flux_vk.flux import disassemble

    fitness = last.best.fitness
    assert fitness is not None
    lines = [
        f"best fitness {best[0]:.6f} in generation 0, {best[-1]:.6f} in generation {last.number}",
        f"best agent {last.best.id}: log-likelihood {fitness.loglik:.4f}, repetition {fitness.repetition:.3f}, "
        f"distinct-2 {fitness.distinct:.3f}, traps {fitness.traps:.3f}, {fitness.length} instructions",
        disassemble(last.best.program),
        f"evolved swarm: run --swarm {folder / 'swarm.json'}, or agent by agent:",
        *(f"  --agent {folder / w.program.name}.flx:{w.weight:g}" for w in found),
        "",
        comparison(compared),
    ]
    return "\n".join(lines)


def comparison(compared: Compared) -> str:
    """A line for each way to score, with log-likelihood and perplexity on each text."""
    header = ["consensus", *(f"{text}: {what}" for text in compared for what in ("nats/token", "perplexity"))]
    ways = next(iter(compared.values()))
    rows = [
        [way, *(f"{x:.4f}" if i == 0 else f"{x:.2f}" for t in compared.values() for i, x in enumerate(_pair(t[way])))]
        for way in ways
    ]
    return aligned(header, rows)


def _pair(found: HeldOut) -> tuple[float, float]:
    return found.loglik, found.perplexity
