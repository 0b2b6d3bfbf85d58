"""Generations with the complete sampler: what they share, what is refused, texts that wait and go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flux_vk as fx
from flux_vk.errors import InputError

PROMPTS = ["It was in July", "Prince Andrew said that he would, and he said that he would", "He"]
WAYS: list[dict[str, Any]] = [
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_sequence_breakers": ["\n", "said"]},
    {"mirostat": 2, "mirostat_tau": 3.0},
    {"mirostat": 1},
    {"adaptive_target": 0.2},
    {"samplers": "temperature;typ_p;top_p", "typical_p": 0.8, "temperature": 1.4},
    {"top_n_sigma": 1.0, "dynatemp_range": 0.5},
    {},
]


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Iterator[fx.Model]:
    with fx.load(demo_model, context=256) as loaded:
        yield loaded


def alone(model: fx.Model, i: int, n: int) -> list[int]:
    generation = model.start(PROMPTS[i % 3], fx.SamplingParams(seed=i, **WAYS[i]), max_tokens=n)
    list(generation)
    return list(generation.tokens)


def test_together_as_alone(model: fx.Model) -> None:
    """Rows of one chain with all of these, and one that needs none of them, draw what each draws alone."""
    params = [fx.SamplingParams(seed=i, **way) for i, way in enumerate(WAYS)]
    prompts = [PROMPTS[i % 3] for i in range(len(WAYS))]
    with model.start_many(prompts, params, max_tokens=20) as many:
        list(many)
        together = [list(g.tokens) for g in many.generations]
    assert together == [alone(model, i, 20) for i in range(len(WAYS))]
    plain = model.start(PROMPTS[7 % 3], fx.SamplingParams(seed=7), max_tokens=20)
    list(plain)
    assert together[7] == list(plain.tokens)


def test_texts_that_wait_for_pages_go_on_the_same(demo_model: Path) -> None:
    """Too few pages for all: the youngest give theirs up, and later draw what they would have drawn."""
    ways = [{"mirostat": 2}, {"mirostat": 1}, {"adaptive_target": 0.2}, {"mirostat": 2, "mirostat_tau": 2.0}]
    params = [fx.SamplingParams(seed=i, logit_bias={2: float("-inf")}, **way) for i, way in enumerate(ways)]
    prompts = ["He " * 10] * 4
    tokens = []
    for kv_tokens in (256, 1024):
        with fx.load(demo_model, context=128, kv_tokens=kv_tokens, sequences=4) as model:
            with model.start_many(prompts, params, max_tokens=90) as many:
                list(many)
                tokens.append([list(g.tokens) for g in many.generations])
    assert tokens[0] == tokens[1] and all(len(t) == 90 for t in tokens[0])


def test_dry_ends_a_repetition(model: fx.Model) -> None:
    """Greedy, the demo model goes round in circles; with DRY no run of tokens comes a third time."""
    ids = []
    for more in ({}, {"dry_multiplier": 5.0, "dry_sequence_breakers": []}):
        params = fx.SamplingParams(temperature=0, **more)
        generation = model.start("The count said that the count said that", params, max_tokens=100)
        list(generation)
        ids.append(list(generation.tokens))

    def most_often(tokens: list[int], n: int = 6) -> int:
        runs = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n)]
        return max((runs.count(r) for r in runs), default=0)

    assert most_often(ids[1]) <= 2 and ids[0] != ids[1]


def test_refused(model: fx.Model) -> None:
    with pytest.raises(InputError, match="dry_penalty_last_n is 5000; expected -1 to 256"):
        model.start("x", fx.SamplingParams(dry_multiplier=1.0, dry_penalty_last_n=5000))
    with pytest.raises(InputError, match="dry_sequence_breakers"):
        model.start("x", fx.SamplingParams(dry_multiplier=1.0, dry_sequence_breakers="text"))
