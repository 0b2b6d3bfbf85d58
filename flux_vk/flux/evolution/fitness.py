"""What a good agent is: a weighted sum of log-likelihood, repetition, distinct n-grams, traps and length.

Not for: finding out what an agent does at every position (scoring.py).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt

from ...errors import InputError

WINDOW = 64
"""So many of its own last picks count for repetition."""
NGRAM = 2
LARGEST = 1e6
"""The largest weight: beyond it the other parts are lost in rounding, and sums might not be finite."""


@dataclass(frozen=True)
class Weights:
    """fitness = loglik * L - repetition * R + distinct * D - trap * T - length * I, see `Fitness`."""

    loglik: float = 1.0
    repetition: float = 0.1
    distinct: float = 0.1
    trap: float = 1.0
    length: float = 0.001

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not abs(value) <= LARGEST:
                raise InputError(f"weight {name}: {value}, expected a number from {-LARGEST:g} to {LARGEST:g}")


@dataclass(frozen=True)
class Fitness:
    """An agent's marks over a recording.

    loglik (L): mean log-likelihood of the tokens that really followed, in nats. repetition (R): share of the agent's
    picks (its best candidate at each position) that are among its last 64 picks before. distinct (D): different pairs
    of neighbouring picks, divided by all pairs. traps (T): share of candidates on which it trapped. length (I): its
    instructions. Picks are neighbours where their positions are, in the same stretch of the text; at each position the
    true text stands before, not the picks.
    """

    total: float
    loglik: float
    repetition: float
    distinct: float
    traps: float
    length: int


def marks(
    weights: Weights,
    loglik: npt.NDArray[np.float32],
    picks: npt.NDArray[np.uint32],
    trapped: int,
    candidates: int,
    runs: npt.NDArray[np.uint32],
    length: int,
) -> Fitness:
    """Fitness of one agent. loglik, picks (token ids): one a position; runs: number of the stretch each belongs to;
    trapped of candidates: over all positions."""
    mean = float(np.mean(loglik, dtype=np.float64))
    stretches = [picks[runs == run].tolist() for run in np.unique(runs)]
    again, unlike = repetition(stretches), distinct(stretches)
    traps = trapped / max(candidates, 1)
    total = (
        weights.loglik * mean - weights.repetition * again + weights.distinct * unlike
        - weights.trap * traps - weights.length * length
    )  # fmt: skip
    return Fitness(total, mean, again, unlike, traps, length)


def repetition(stretches: Sequence[Sequence[int]], window: int = WINDOW) -> float:
    """Share of tokens that occur among the `window` before them in their stretch; 0 of nothing."""
    repeated = 0
    for tokens in stretches:
        held: Counter[int] = Counter()
        last: deque[int] = deque()
        for token in tokens:
            repeated += held[token] > 0
            last.append(token)
            held[token] += 1
            if len(last) > window:
                held[last.popleft()] -= 1
    return repeated / max(sum(len(tokens) for tokens in stretches), 1)


def distinct(stretches: Sequence[Sequence[int]], n: int = NGRAM) -> float:
    """Different n-grams divided by all n-grams (distinct-n, Li et al. 2016); 0 where there are none."""
    grams = [tuple(tokens[i : i + n]) for tokens in stretches for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def read_weights(text: str) -> Weights:
    """Weights from "loglik=1,repetition=0.2"; what is not named keeps its default. InputError names what is wrong."""
    found: dict[str, float] = {}
    names = [f.name for f in fields(Weights)]
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if name.strip() not in names or not equals:
            raise InputError(f"weights: {part!r}, expected NAME=NUMBER with a NAME of {', '.join(names)}")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"weights: {part!r}: {value!r} is not a number") from None
    return Weights(**found)


def as_json(fitness: Fitness) -> Mapping[str, float]:
    """The parts by name, exact: Python's floats read back the same."""
    return asdict(fitness)
