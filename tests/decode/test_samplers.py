"""llama.cpp's sampler vectors, and chi-square tests of everything that draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.decode import Breakers, Drawing, SamplerState, SamplingParams, add_sampling
from flux_vk.decode.words import pack_order, pack_params
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference import samplers as do
from flux_vk.gpu.reference.sampling_order import law_of, run_order
from tests.gpu.complete_rows import OFF, beginnings, draw

pytestmark = pytest.mark.kernel
F64 = npt.NDArray[np.float64]

# llama.cpp, tests/test-sampling.cpp (MIT), commit c392e5094 and, for those marked *, 07e4038f0: probabilities given,
# the sampler, tokens before, probabilities afterwards.
RISING, FALLING, FLAT = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.2] * 5
CERTAIN, QUARTERS = [0.97, 0.01, 0.01, 0.01], [0.25] * 4
XTC = {"xtc_probability": 1.0}  # 0.99 there; here the draws must not depend on chance
DRY = {"dry_base": 1.1, "dry_allowed_length": 2}
VECTORS: list[tuple[list[float], dict[str, Any], list[int], list[float]]] = [
    (RISING, {"top_k": 3}, [], [0, 0.22222, 0.33333, 0.44444]),
    (RISING, {"top_p": 0.0}, [], [0, 0, 0, 1]),
    (RISING, {"top_p": 0.7}, [], [0, 0, 0.428571, 0.571429]),
    (RISING, {"top_p": 0.8}, [], [0, 0.22222, 0.33333, 0.44444]),
    (RISING, {"min_p": 0.24}, [], RISING),
    (RISING, {"min_p": 0.26}, [], [0, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9]),
    (RISING, {"min_p": 0.51}, [], [0, 0, 0.3 / 0.7, 0.4 / 0.7]),
    (RISING, {"min_p": 0.76}, [], [0, 0, 0, 1]),
    (FALLING, {**XTC, "xtc_threshold": 0.09}, [], [0, 0, 0, 1]),
    (FALLING, {**XTC, "xtc_threshold": 0.19}, [], [0, 0, 0.2 / 0.3, 0.1 / 0.3]),
    (FALLING, {**XTC, "xtc_threshold": 0.29}, [], [0, 0.3 / 0.6, 0.2 / 0.6, 0.1 / 0.6]),
    (FALLING, {**XTC, "xtc_threshold": 0.39}, [], FALLING),
    (CERTAIN, {"typical_p": 0.5}, [], [1, 0, 0, 0]),
    ([0.4, 0.2, 0.2, 0.2], {"typical_p": 0.5}, [], [0, 1 / 3, 1 / 3, 1 / 3]),
    (FLAT, {"repeat_penalty": 50.0}, [0], [0, 0.25, 0.25, 0.25, 0.25]),
    (FLAT, {"repeat_penalty": 50.0}, [0, 1, 2], [0, 0, 0, 0.5, 0.5]),
    (FLAT, {"repeat_penalty": 50.0}, [0, 1, 2, 0, 0], [0, 0, 0, 0.5, 0.5]),  # *
    (FLAT, {"frequency_penalty": 5.0, "presence_penalty": 5.0}, [0], [0.000011, *[0.249997] * 4]),
    (FLAT, {"frequency_penalty": 5.0, "presence_penalty": 5.0}, [0, 1, 2], [*[0.000023] * 3, *[0.499966] * 2]),
    (FLAT, {"frequency_penalty": 5.0, "presence_penalty": 5.0}, [0, 1, 2, 0, 0], [0, *[0.000023] * 2, *[0.499977] * 2]),
    (QUARTERS, {"dry_multiplier": 1.0, **DRY}, [0, 1], QUARTERS),  # *
    (QUARTERS, {"dry_multiplier": 1.0, **DRY}, [0, 1, 2, 0, 1], [0.296923, 0.296923, 0.109232, 0.296923]),
    (FLAT, {"dry_multiplier": 1.0, **DRY, "break": 3}, [0, 1, 3, 4, 0, 1], FLAT),
    (FLAT, {"dry_multiplier": 2.0, **DRY}, [0, 1, 2, 0, 1], [0.241818, 0.241818, 0.032727, 0.241818, 0.241818]),
    (FLAT, {"dry_multiplier": 1.0, **DRY, "dry_allowed_length": 4}, [0, 1, 2, 3, 4, 0, 1], FLAT),  # *
    (RISING, {"top_n_sigma": 0.0}, [], [0, 0, 0, 1]),
    (RISING, {"top_n_sigma": 1.0}, [], [0, 0, 0.428571, 0.571429]),
    (RISING, {"top_n_sigma": 3.0}, [], RISING),
    (RISING, {"temperature": 0.0}, [], [0, 0, 0, 1]),  # *
    (RISING, {"temperature": 0.0, "dynatemp_range": 1e-9, "dynatemp_exponent": 1.0}, [], [0, 0, 0, 1]),  # * range 0
    (RISING, {"dynatemp_range": 0.0, "dynatemp_exponent": 1.0}, [], RISING),  # *
]


def parts(settings: dict[str, Any], seed: int) -> tuple[SamplingParams, Breakers]:
    chosen = {**OFF, **settings}
    broken = Breakers.of([[chosen.pop("break")]] if "break" in chosen else [])
    return SamplingParams(seed=seed, **chosen), broken


def law_by_definition(p: Sequence[float], params: SamplingParams, broken: Breakers, history: list[int]) -> F64:
    words = pack_order(params) if params.complete else pack_order(SamplingParams(mirostat=2))
    left = do.candidates(np.log(np.array(p, np.float32)))
    if params.penalised:
        counts = {t: history.count(t) for t in history}
        left = do.penalties(left, counts, params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
    if params.dry:
        less = do.dry_penalties(
            history, multiplier=params.dry_multiplier, base=params.dry_base, alone=broken.alone,
            allowed_length=params.dry_allowed_length,
        )  # fmt: skip
        left = do.subtract(left, less)
    if params.complete:
        nothing: tuple[dict[int, int], dict[int, float]] = ({}, {})
        logits = np.full(len(p), -np.inf, np.float32)
        logits[left.ids] = left.x
        return run_order(logits, words, pack_params(params), 0, 0, nothing).law(len(p))
    for name in params.effective_order:
        if name in ("top_k", "top_p", "min_p"):
            left = getattr(do, name)(left, getattr(params, name))
    return do.temperature(left, params.temperature).law(len(p))


@pytest.mark.parametrize("i", range(len(VECTORS)))
def test_llama_cpp_vectors_by_definition(i: int) -> None:
    p, settings, history, want = VECTORS[i]
    params, broken = parts(settings, 1)
    np.testing.assert_allclose(law_by_definition(p, params, broken, history), want, atol=1e-5)


@pytest.mark.parametrize("i", range(len(VECTORS)))
def test_llama_cpp_vectors_on_the_device(device: Device, i: int) -> None:
    """Frequencies of tokens over many slots with different seeds, in a complete chain."""
    p, settings, history, want = VECTORS[i]
    rows = 200
    state = SamplerState(device, rows, len(p), history=64, ring=1)
    for slot in range(rows):
        params, broken = parts(settings, slot)
        state.set_slot(slot, params, history, 0, breakers=broken)
    logits = device.array(np.repeat(np.log(np.array([p], np.float32)), rows, axis=0))
    chain = Chain(device)
    slots, positions = device.array(np.arange(rows, dtype=np.uint32)), device.zeros((rows,), "u32")
    add_sampling(chain, state, logits, slots, positions, rows, drawing=Drawing(complete=True))
    chain.run()
    got = np.bincount([state.token(slot, 1) for slot in range(rows)], minlength=len(p)) / rows
    assert (got[np.array(want) == 0] == 0).all(), f"{got} instead of {want}"
    deviation = np.sqrt(np.array(want) * (1 - np.array(want)) / rows)
    assert (np.abs(got - want) < 5 * deviation + 0.002).all(), f"{got} instead of {want}"


DRAWN: list[dict[str, Any]] = [
    {"samplers": "temperature;min_p", "temperature": 1.4, "min_p": 1e-9},
    {"samplers": "min_p;top_p;temperature", "min_p": 0.02, "top_p": 0.9, "temperature": 1.3},
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
