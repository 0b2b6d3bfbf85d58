"""A child of two programs, cut between instructions. Not for: changes of one program (mutation.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .genome import MOST_GENES, Genome


def crossover(rng: np.random.Generator, first: Genome, second: Genome) -> Genome:
    """The first program up to a cut of its own, then the second from a cut of its own.

    Jumps inside either part keep their instruction; those that led out of it lead to the cut. Constants of both are
    kept, the second's where both have one; the score is read as the second's, or as the first's if nothing of the
    second is left.
    """
    i, j = int(rng.integers(len(first.genes) + 1)), int(rng.integers(len(second.genes) + 1))
    j = max(j, len(second.genes) - max(MOST_GENES - i, 0))
    head = [g if g.target is None else replace(g, target=min(g.target, i)) for g in first.genes[:i]]
    tail = [g if g.target is None else replace(g, target=max(g.target, j) + i - j) for g in second.genes[j:]]
    return Genome(
        (*head, *tail),
        second.result if tail else first.result,
        {**first.gp, **second.gp},
        {**first.fp, **second.fp},
    )
