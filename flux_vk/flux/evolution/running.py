"""A whole evolution: generations one after the other with their files, from the beginning or from a checkpoint.

Not for: recordings and winners' files (the command line, winners.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ...errors import InputError
from ..program import Program
from .checkpoint import append_lineage, begin_lineage, cut_lineage, load_checkpoint, save_checkpoint
from .population import Generation, Options, Score, first_generation, next_generation

Report = Callable[[Generation, list[float]], None]
"""Called after each generation with it and the best fitness of all generations so far."""


def evolve(
    folder: Path, options: Options, seeds: Sequence[Program], score: Score, generations: int, report: Report
) -> tuple[Generation, list[float]]:
    """Run `generations` generations behind the first. Returns the last one and the best fitness of each.

    Every generation is saved in `folder`, so that `resume` can go on from it.
    """
    begin_lineage(folder)
    generation = first_generation(options, seeds, score)
    return _on(folder, options, generation, [], score, generations, report)


def resume(
    folder: Path, options: Options, score: Score, generations: int, report: Report
) -> tuple[Generation, list[float]]:
    """Go on from the checkpoint in `folder`, as the run that wrote it would have.

    InputError where it was made with other options, or already has more generations.
    """
    made, last, best = load_checkpoint(folder)
    if made != options:
        was, given = ({**asdict(o), **asdict(o.breeding), **asdict(o.weights)} for o in (made, options))
        differ = [n for n in was if was[n] != given[n] and not isinstance(was[n], dict)]
        found = ", ".join(f"{n} {was[n]}, expected {given[n]}" for n in differ)
        raise InputError(f"{folder}: the checkpoint was made with {found}; give the same options")
    if last.number > generations:
        raise InputError(f"{folder}: the checkpoint is of generation {last.number}, expected at most {generations}")
    cut_lineage(folder, last.number)
    if last.number == generations:
        return last, best
    return _on(folder, options, next_generation(options, last, score), best, score, generations, report)


def _on(
    folder: Path, options: Options, generation: Generation, best: list[float], score: Score, generations: int,
    report: Report,
) -> tuple[Generation, list[float]]:  # fmt: skip
    while True:
        assert generation.best.fitness is not None
        best = [*best, generation.best.fitness.total]
        append_lineage(folder, generation)
        save_checkpoint(folder, options, generation, best)
        report(generation, best)
        if generation.number >= generations:
            return generation, best
        generation = next_generation(options, generation, score)
