"""Marks: repetition, distinct pairs, the weighted sum."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.flux.evolution.fitness import Weights, distinct, marks, read_weights, repetition


def test_repetition_counts_what_was_picked_before() -> None:
    assert repetition([[1, 2, 3, 4]]) == 0
    assert repetition([[1, 1, 1, 1]]) == 0.75
    assert repetition([[1, 2], [1, 2]]) == 0  # stretches do not see each other
    assert repetition([[1, 2, 3, 1]], window=3) == 0.25 and repetition([[1, 2, 3, 1]], window=2) == 0
    assert repetition([]) == 0


def test_repetition_follows_its_definition(rng: np.random.Generator) -> None:
    tokens = rng.integers(0, 40, 300).tolist()
    want = np.mean([token in tokens[max(0, i - 64) : i] for i, token in enumerate(tokens)])
    assert repetition([tokens]) == want


def test_distinct_pairs() -> None:
    assert distinct([[1, 2, 3]]) == 1
    assert distinct([[1, 1, 1, 1]]) == 1 / 3
    assert distinct([[1, 2], [1, 2]]) == 0.5
    assert distinct([[1], []]) == 0
    assert distinct([[1, 2, 1, 2, 1]], n=3) == 2 / 3


def test_the_weighted_sum() -> None:
    weights = Weights(loglik=2, repetition=3, distinct=5, trap=7, length=11)
    loglik = np.array([-1, -2, -3, -4], np.float32)
    picks, runs = np.array([5, 5, 5, 6], np.uint32), np.array([0, 0, 1, 1], np.uint32)
    found = marks(weights, loglik, picks, 2, 8, runs, 3)
    assert (found.loglik, found.repetition, found.distinct, found.traps, found.length) == (-2.5, 0.25, 1.0, 0.25, 3)
    assert found.total == 2 * -2.5 - 3 * 0.25 + 5 * 1.0 - 7 * 0.25 - 11 * 3


def test_weights_are_read() -> None:
    assert read_weights("") == Weights()
    assert read_weights("loglik=0.5, distinct=2") == Weights(loglik=0.5, distinct=2)
    out = (("trap=inf", "from"), ("trap=nan", "from"), ("length=-1e7", "from -1e.06 to 1e.06"))
    for text, word in (("likelihood=1", "NAME"), ("loglik", "NAME"), ("loglik=x", "no"), *out):
        with pytest.raises(InputError, match=word):
            read_weights(text)
