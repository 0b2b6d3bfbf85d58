"""llama.cpp's sampler vectors, by definition and on the device; what a complete chain shares with a short one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.decode import Breakers, Drawing, SamplerState, SamplingParams, add_sampling
from flux_vk.decode.words import pack_order, pack_params
from flux_vk.errors import InputError
from flux_vk.gpu import Chain, Device, Recorded
from flux_vk.gpu.reference import samplers as do
from flux_vk.gpu.reference.sampling_order import run_order
from tests.gpu.complete_rows import OFF, SETTINGS

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
    (RISING, {"top_p": 1.0}, [], RISING),
    (RISING, {"min_p": 0.0}, [], RISING),
    (RISING, {"min_p": 0.24}, [], RISING),
    (RISING, {"min_p": 0.26}, [], [0, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9]),
    (RISING, {"min_p": 0.49}, [], [0, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9]),
    (RISING, {"min_p": 0.51}, [], [0, 0, 0.3 / 0.7, 0.4 / 0.7]),
    (RISING, {"min_p": 0.74}, [], [0, 0, 0.3 / 0.7, 0.4 / 0.7]),
    (RISING, {"min_p": 0.76}, [], [0, 0, 0, 1]),
    (RISING, {"min_p": 1.0}, [], [0, 0, 0, 1]),
    (FALLING, {**XTC, "xtc_threshold": 0.09}, [], [0, 0, 0, 1]),
    (FALLING, {**XTC, "xtc_threshold": 0.19}, [], [0, 0, 0.2 / 0.3, 0.1 / 0.3]),
    (FALLING, {**XTC, "xtc_threshold": 0.29}, [], [0, 0.3 / 0.6, 0.2 / 0.6, 0.1 / 0.6]),
    (FALLING, {**XTC, "xtc_threshold": 0.39}, [], FALLING),
    (CERTAIN, {"typical_p": 0.5}, [], [1, 0, 0, 0]),
    ([0.4, 0.2, 0.2, 0.2], {"typical_p": 0.5}, [], [0, 1 / 3, 1 / 3, 1 / 3]),
    (FLAT, {"repeat_penalty": 50.0}, [0], [0, 0.25, 0.25, 0.25, 0.25]),
    (FLAT, {"repeat_penalty": 50.0}, [0, 1, 2], [0, 0, 0, 0.5, 0.5]),
    (FLAT, {"repeat_penalty": 50.0}, [0, 1, 2, 0, 0], [0, 0, 0, 0.5, 0.5]),  # *
    (FLAT, {"repeat_penalty": 50.0, "repeat_last_n": -1}, [0, 1, 2, 0, 0], [0, 0, 0, 0.5, 0.5]),
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


def complete_chain(
    device: Device, state: SamplerState, logits: npt.NDArray[np.float32], *, complete: bool = True
) -> Recorded:
    """A decode loop over fixed logits, a row for each slot."""
    rows = len(logits)
    slots, position = device.array(np.arange(rows, dtype=np.uint32)), device.zeros((rows,), "u32")
    chain = Chain(device)
    chain.copy(src=state.slot_pos, dst=position)
    given = device.array(logits)
    add_sampling(chain, state, given, slots, position, rows, drawing=Drawing(complete=complete, logprobs=True))
    return chain.record()


SHORT: list[dict[str, Any]] = [
    {}, {"temperature": 0}, {"top_k": 0}, {**OFF}, {**OFF, "top_p": 0.9}, {"repeat_penalty": 1.5, "repeat_last_n": 20},
    {"temperature": 2.0, "top_k": 700, "logit_bias": {3: 5.0, 4: -np.inf}, "logprobs": 3},
    {"samplers": "penalties;top_k;temperature", "temperature": 1.5}, {"samplers": "top_p"}, {"samplers": ""},
]  # fmt: skip


@pytest.mark.parametrize("vocab", [50, 20000])
def test_rows_of_the_short_order_draw_the_same(device: Device, rng: np.random.Generator, vocab: int) -> None:
    """Beside rows that need a complete chain, to the last token of a loop."""
    settings = [*SHORT, *SETTINGS[:5]]
    assert not any(SamplingParams(**s).complete for s in SHORT) and SamplingParams(**SETTINGS[0]).complete
    logits = (3 * rng.standard_normal((len(settings), vocab))).astype(np.float32)
    told = []
    for complete in (False, True):
        state = SamplerState(device, len(settings), vocab, history=64, ring=32)
        for slot, s in enumerate(settings):
            state.set_slot(slot, SamplingParams(seed=slot, **s), [1, 2, 3], 3)
        step = complete_chain(device, state, logits, complete=complete)
        for _ in range(12):
            step.submit()
            step.wait()
        told.append([[state.token(s, p) for p in range(4, 16)] for s in range(len(SHORT))])
        assert state.logprobs(6, 5).top[0][0] == int(logits[6].argmax())
    assert told[0] == told[1]


CARRYING: list[dict[str, Any]] = [
    {"mirostat": 1}, {"mirostat": 2, "mirostat_tau": 3.0}, {"adaptive_target": 0.2}, {"xtc_probability": 0.5},
    {"dry_multiplier": 1.0, "dry_allowed_length": 1},
]  # fmt: skip


def test_a_text_that_is_taken_up_again_goes_on_the_same(device: Device, rng: np.random.Generator) -> None:
    """What `carry` tells for a position, given to set_slot, makes the tokens behind it what they would have been."""
    rows, vocab = len(CARRYING), 300
    logits = (2 * rng.standard_normal((rows, vocab))).astype(np.float32)
    params = [SamplingParams(seed=5, **s) for s in CARRYING]
    state = SamplerState(device, rows, vocab, history=64, ring=32)
    step = complete_chain(device, state, logits)
    for slot, p in enumerate(params):
        state.set_slot(slot, p, [1, 2, 3], 3)
    for _ in range(20):
        step.submit()
        step.wait()
    tokens = [[state.token(slot, p) for p in range(4, 24)] for slot in range(rows)]
    carries = [state.carry(slot, 13) for slot in range(rows)]
    assert state.carry(0, 13)[0] != 10.0 and state.carry(2, 13)[1] != 0
    for slot, p in enumerate(params):
        state.set_slot(slot, p, [1, 2, 3, *tokens[slot][:10]], 13, carry=carries[slot] if p.carries else None)
    for _ in range(10):
        step.submit()
        step.wait()
    again = [[state.token(slot, p) for p in range(14, 24)] for slot in range(rows)]
    assert again == [t[10:] for t in tokens]
    state.set_slot(1, params[1], [1, 2, 3], 3)
    assert state.carry(1, 3)[0] == 6.0, "a text that begins, begins with twice tau"


def test_mirostat_comes_to_its_surprise(device: Device) -> None:
    """The mean surprise of the tokens drawn, in bits, goes to tau; with version 2 up to what the filter leaves."""
    vocab = 2000
    logits = np.tile(-1.1 * np.log(np.arange(1, vocab + 1)), (2, 1)).astype(np.float32)  # Zipf
    state = SamplerState(device, 2, vocab, history=16, ring=512)
    step = complete_chain(device, state, logits)
    for slot, version in enumerate((1, 2)):
        state.set_slot(slot, SamplingParams(seed=3, temperature=1, mirostat=version, mirostat_tau=4.0), [], 0)
    for _ in range(400):
        step.submit()
    step.wait()
    for slot in range(2):
        mu = np.array([state.carry(slot, p)[0] for p in range(1, 401)])
        surprise = 4.0 - np.diff(mu) / 0.1
        assert abs(surprise[100:].mean() - 4.0) < 0.35


def test_refused(device: Device) -> None:
    state = SamplerState(device, 1, 100, history=16)
    with pytest.raises(InputError, match="dry_penalty_last_n is 17; expected -1 to 16"):
        state.set_slot(0, SamplingParams(dry_multiplier=1, dry_penalty_last_n=17), [], 0)
    with pytest.raises(InputError, match="513 sequences of more than one token; expected at most 512"):
        Breakers.of([[i, 1] for i in range(513)])
    with pytest.raises(InputError, match="more than 21 tokens"):
        Breakers.of([list(range(22))])
