"""Chi-square tests of everything that draws: the tokens of 10^5 positions against the float64 law."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.decode import SamplingParams
from flux_vk.decode.words import pack_order, pack_params
from flux_vk.gpu import Device
from flux_vk.gpu.reference.sampling_order import law_of, run_order
from tests.gpu.complete_rows import OFF, beginnings, draw

F64 = npt.NDArray[np.float64]

DRAWN: list[dict[str, Any]] = [
    {"samplers": "temperature;min_p", "temperature": 1.4, "min_p": 1e-9},
    {"samplers": "min_p;top_p;temperature", "min_p": 0.02, "top_p": 0.9, "temperature": 1.3},
    {"samplers": "temperature;top_k", "top_k": 15, "temperature": 1.6},
    {"typical_p": 0.7},
    {"top_n_sigma": 1.2, "temperature": 1.5},
    {"xtc_probability": 0.4, "xtc_threshold": 0.05},
    {"dynatemp_range": 0.5, "dynatemp_exponent": 0.7, "temperature": 0.9},
    {"mirostat": 1, "mirostat_tau": 2.0},
    {"mirostat": 2, "mirostat_tau": 2.2, "temperature": 1.2},
    {"adaptive_target": 0.08, "adaptive_decay": 0.5},
]


@pytest.mark.parametrize("i", range(len(DRAWN)))
def test_draws_follow_the_law(device: Device, i: int) -> None:
    """Chi-square of 10^5 positions under one seed; mirostat and adaptive-p with what they begin with."""
    draws, step, vocab = 100_000, 25_000, 40
    rng = np.random.default_rng(i)  # fixed: 6 deviations are no certainty
    logits = (1.5 * rng.standard_normal(vocab)).astype(np.float32)
    params = SamplingParams(seed=1000 + i, **{**OFF, **DRAWN[i]})
    words, order = pack_params(params)[None], pack_order(params)[None]
    counts = np.zeros(vocab)
    carry = beginnings([params], 2 * step)
    for start in range(0, draws, step):
        # Every second position: a row leaves its carry where none of the others reads.
        positions = 2 * np.arange(start, start + step, dtype=np.uint32)
        rows, slots = np.repeat(logits[None], step, axis=0), np.zeros(step, np.uint32)
        picked, _ = draw(device, rows, slots, positions, words, order, [({}, {})] * step, carry, history=1)
        counts += np.bincount(picked[:, 0], minlength=vocab)
    law = expected_law(logits, params)
    assert (counts[law == 0] == 0).all(), "a token was drawn that the settings exclude"
    kept = law > 0
    assert 1 < kept.sum()
    expected, counts = law[kept] * draws, counts[kept]
    rare = expected < 8  # put together, so that the approximation holds
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        counts = np.append(counts[~rare], counts[rare].sum())
    chi2, freedom = float(((counts - expected) ** 2 / expected).sum()), len(expected) - 1
    assert chi2 < freedom + 6 * np.sqrt(2 * freedom), f"chi-square {chi2:.1f} with {freedom} degrees of freedom"


def expected_law(logits: npt.NDArray[np.float32], params: SamplingParams) -> F64:
    """By definition; with XTC the mean of what is drawn when it acts and when it does not."""
    chance, law = params.xtc_probability, np.zeros(len(logits))
    for weight, probability in ((1 - chance, 0.0), (chance, 1.0)) if chance else ((1.0, 0.0),):
        words = pack_order(params)
        words[12] = 0xFFFFFFFF if probability else 0
        left = run_order(logits, words, pack_params(params), 0, 0, ({}, {}))
        p, ids, _ = law_of(left, words, beginnings([params])[0, 0], len(logits))
        law[ids] += weight * p
    return law
