"""The kernels of complete chains against float64: every sampler alone, random orders, short lists and whole rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.decode.breakers import Breakers
from flux_vk.decode.params import SamplingParams
from flux_vk.decode.words import first_carry, pack_order, pack_params
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference import reference
from flux_vk.gpu.reference.sampling_order import Changes, change_words
from tests.gpu.harness import run_kernel

pytestmark = pytest.mark.kernel
F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]
VOCABS = [1, 7, 255, 257, 5000]
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
ALWAYS = {"xtc_probability": 1.0}
SETTINGS: list[dict[str, Any]] = [
    {**OFF, "top_n_sigma": 1.5},
    {**OFF, "top_n_sigma": 0.0},
    {**OFF, "typical_p": 0.6},
    {**OFF, "typical_p": 0.01},
    {**OFF, **ALWAYS, "xtc_threshold": 0.02},
    {**OFF, "xtc_probability": 0.5, "xtc_threshold": 0.0},
    {**OFF, "dynatemp_range": 0.9, "dynatemp_exponent": 1.5, "temperature": 1.1},
    {**OFF, "dynatemp_range": 1.0, "temperature": 0.0},
    {**OFF, "samplers": "temperature;top_p", "temperature": 1.7, "top_p": 0.9},
    {**OFF, "samplers": "min_p;top_k", "top_k": 30, "min_p": 0.001},
    {**OFF, "samplers": "top_p;top_k", "top_k": 800, "top_p": 0.98},
    {**OFF, "samplers": "temperature;top_k", "temperature": 0.0, "top_k": 9},
    {"temperature": 0.0, "xtc_probability": 1.0, "xtc_threshold": 0.01},
    {"typical_p": 0.5, "top_n_sigma": 2.0, "xtc_probability": 0.3, "dynatemp_range": 0.3},
    {"temperature": 1.3, "mirostat": 1},
    {"temperature": 0.9, "mirostat": 1, "mirostat_tau": 1.0},
    {"temperature": 1.0, "mirostat": 2},
    {"temperature": 0.7, "mirostat": 2, "mirostat_tau": 0.5, "mirostat_eta": 0.5},
    {"temperature": 0.0, "mirostat": 2},
    {"temperature": 0.0, "mirostat": 1},
    {"adaptive_target": 0.3},
    {**OFF, "adaptive_target": 0.05, "min_p": 0.001, "adaptive_decay": 0.5},
    {**OFF, "adaptive_target": 1.0},
    {},
]


def tables(settings: list[dict[str, Any]]) -> tuple[list[SamplingParams], U32, U32]:
    params = [SamplingParams(**{"seed": 77 + i, **s}) for i, s in enumerate(settings)]
    return params, np.stack([pack_params(p) for p in params]), np.stack([pack_order(p) for p in params])


def run(
    device: Device, logits: F32, slots: U32, positions: U32, words: U32, order: U32, changes: Changes, carry: F32,
    *, exact: int = 0, WG: int = 64, history: int = 40,
) -> tuple[U32, F32]:  # fmt: skip
    """sample_stats and sample_ordered; what was picked (7 where nothing was) and the carry."""
    rows, vocab = logits.shape
    given = {"logits": logits, "row_slot": slots, "row_pos": positions, "params": words, "order": order}
    given["changes"], given["carry"] = change_words(changes, history), carry
    b = {name: device.array(a) for name, a in given.items()}
    picked = device.array(np.full((rows, 2), 7, np.uint32))
    chain = Chain(device)
    maxima = chain.scratch((rows, -(-vocab // 4096) * 64), "u32")
    chain.sample_stats(logits=b["logits"], row_slot=b["row_slot"], params=b["params"], maxima=maxima)
    chain.sample_ordered(**b, maxima=maxima, picked=picked, exact=exact, WG=WG)
    chain.run()
    return picked.numpy(), b["carry"].numpy()


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("exact", [0, 1])
def test_every_setting(device: Device, rng: np.random.Generator, vocab: int, exact: int) -> None:
    settings = SETTINGS * 3
    params, words, order = tables(settings)
    rows = len(settings)
    logits = (3 * rng.standard_normal((rows, vocab))).astype(np.float32)
    logits[len(SETTINGS) : 2 * len(SETTINGS)] = np.round(logits[len(SETTINGS) : 2 * len(SETTINGS)])  # ties
    slots = rng.permutation(rows).astype(np.uint32)
    positions = np.arange(rows, dtype=np.uint32) * 3
    carry = np.repeat(np.stack([first_carry(p) for p in params])[:, None], 8, axis=1)
    changes: Changes = [({}, {})] * rows
    got, after = run(device, logits, slots, positions, words, order, changes, carry, exact=exact)
    start = np.full((rows, 2), 7, np.uint32)
    want, later = reference("sample_ordered")(logits, slots, positions, words, order, changes, carry, start)
    wrong = np.flatnonzero((got != want).any(axis=1))
    for row in wrong:
        slot = slots[row]
        print(vocab, exact, settings[slot], slot, got[row], want[row])
    assert not len(wrong)
    np.testing.assert_allclose(after, later, rtol=2e-5, atol=2e-5)
