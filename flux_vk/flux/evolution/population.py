"""Evolution: generations of programs under elitism, reproducible by seed, and its state as data.

Not for: files (checkpoint.py), scoring (scoring.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...errors import InputError
from ..program import Program
from ..verifier import check
from .breeding import ATTEMPTS, Breeding, Individual, checked, child
from .fitness import Fitness, Weights
from .genome import digest
from .mutation import random_genome

Score = Callable[[Sequence[Program]], Sequence[Fitness]]
"""Fitness of a whole population, in its order."""


@dataclass(frozen=True)
class Options:
    """What an evolution depends on, besides its recording. `elite`: so many of the fittest live on unchanged."""

    population: int = 128
    elite: int = 8
    seed: int = 0
    weights: Weights = field(default_factory=Weights)
    breeding: Breeding = field(default_factory=Breeding)

    def __post_init__(self) -> None:
        if not 1 <= self.elite < self.population:
            raise InputError(f"elite {self.elite}: expected 1 to {self.population - 1}, less than the population")
        if self.breeding.tournament < 1:
            raise InputError(f"tournament {self.breeding.tournament}: expected 1 or more")
        for name in ("crossover_rate", "mutation_rate"):
            if not 0 <= getattr(self.breeding, name) <= 1:
                raise InputError(f"{name} {getattr(self.breeding, name)}: expected a number from 0 to 1")


@dataclass(frozen=True)
class Generation:
    """A scored population, the fittest first. `next_id`: of the next individual to be made."""

    number: int
    members: tuple[Individual, ...]
    next_id: int

    @property
    def best(self) -> Individual:
        """The fittest member."""
        return self.members[0]

    @property
    def born(self) -> list[Individual]:
        """Those made in this generation, by id."""
        return sorted((m for m in self.members if m.generation == self.number), key=lambda m: m.id)


def first_generation(options: Options, seeds: Sequence[Program], score: Score) -> Generation:
    """The seeds (checked, each once), then random programs. InputError for a seed that may not run on a GPU."""
    rng = _rng(options, 0)
    members: list[Individual] = []
    taken: set[str] = set()
    for program in seeds:
        check(program, "gpu")
        if digest(program) not in taken and len(members) < options.population:
            taken.add(digest(program))
            members.append(Individual(len(members), program, (), (f"seed {program.name}",), 0))
    while len(members) < options.population:
        members.append(_random(rng, len(members), taken, members[0].program if members else None))
        taken.add(digest(members[-1].program))
    return _scored(0, members, score, len(members))


def _random(rng: np.random.Generator, number: int, taken: set[str], fallback: Program | None) -> Individual:
    for _ in range(ATTEMPTS):
        program = checked(random_genome(rng), f"agent-{number}")
        if program is not None and digest(program) not in taken:
            return Individual(number, program, (), ("random",), 0)
    if fallback is None:
        raise InputError(f"the verifier refused {ATTEMPTS} random programs in a row, and there is no other program")
    return Individual(number, fallback, (0,), ("copy",), 0)


def next_generation(options: Options, last: Generation, score: Score) -> Generation:
    """The elite and children of all; the elite keep the numbers they have, which another run would give again.

    Random numbers come from the seed and the generation's number alone, so it does not matter where a run was stopped.
    """
    number = last.number + 1
    rng = _rng(options, number)
    members = list(last.members[: options.elite])
    taken = {digest(m.program) for m in members}
    next_id = last.next_id
    while len(members) < options.population:
        born = child(rng, last.members, options.breeding, next_id, number, taken)
        taken.add(digest(born.program))
        members.append(born)
        next_id += 1
    return _scored(number, members, score, next_id)


def _scored(number: int, members: Sequence[Individual], score: Score, next_id: int) -> Generation:
    found = score([m.program for m in members])
    scored = [m if m.fitness is not None else replace(m, fitness=f) for m, f in zip(members, found, strict=True)]
    return Generation(number, tuple(sorted(scored, key=lambda m: m.order)), next_id)


def _rng(options: Options, generation: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([options.seed, generation])))
