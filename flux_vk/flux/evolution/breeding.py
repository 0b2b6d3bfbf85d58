"""Children: parents by tournament, crossover or mutation, and the verifier's word on every one of them.

Not for: which of a generation live on (population.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ..program import Program
from ..verifier import check
from .crossover import crossover
from .fitness import Fitness
from .genome import Genome, digest, from_program, pruned, to_program
from .mutation import mutate

ATTEMPTS = 20
"""Tries for a child that the verifier passes and that is not there yet."""


@dataclass(frozen=True)
class Individual:
    """A program with where it comes from. `fitness` is None until it was scored."""

    id: int
    program: Program
    parents: tuple[int, ...]
    operators: tuple[str, ...]
    generation: int
    fitness: Fitness | None = None

    @property
    def order(self) -> tuple[float, int, int]:
        """Sorts the fittest first, among equals the shorter, then the older."""
        total = float("-inf") if self.fitness is None else self.fitness.total
        return -total, len(self.program.code), self.id


@dataclass(frozen=True)
class Breeding:
    """How children are made. tournament: so many are drawn, the fittest is a parent. crossover_rate: share of children
    with two parents. mutation_rate: probability of one more change after each."""

    tournament: int = 3
    crossover_rate: float = 0.3
    mutation_rate: float = 0.4


def parent(rng: np.random.Generator, scored: Sequence[Individual], size: int) -> Individual:
    """The fittest of `size` drawn with replacement."""
    drawn = [scored[int(i)] for i in rng.integers(len(scored), size=size)]
    return min(drawn, key=lambda x: x.order)


def child(
    rng: np.random.Generator,
    scored: Sequence[Individual],
    how: Breeding,
    number: int,
    generation: int,
    taken: Collection[str],
) -> Individual:
    """A new program that the verifier passes and whose digest is not in `taken`; a copy of a parent where `ATTEMPTS`
    tries gave none."""
    for _ in range(ATTEMPTS):
        parents = [parent(rng, scored, how.tournament)]
        genome = from_program(parents[0].program)
        done: tuple[str, ...] = ()
        if rng.random() < how.crossover_rate:
            parents.append(parent(rng, scored, how.tournament))
            genome = crossover(rng, genome, from_program(parents[1].program))
            done = ("crossover",)
        if not done or rng.random() < how.mutation_rate:
            genome, changes = mutate(rng, genome, how.mutation_rate)
            done += changes
        program = checked(genome, f"agent-{number}")
        if program is not None and digest(program) not in taken:
            return Individual(number, program, tuple(p.id for p in parents), done, generation)
    first = parent(rng, scored, how.tournament)
    return Individual(number, first.program, (first.id,), ("copy",), generation)


def checked(genome: Genome, name: str) -> Program | None:
    """The genome as a program, without constants that nothing reads; None where the verifier refuses it."""
    try:
        program = to_program(pruned(genome), name)
        check(program, "gpu")
    except InputError:
        return None
    return program
