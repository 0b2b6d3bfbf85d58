"""Rows for the kernels of complete chains: settings, their words, and one run of sample_ordered."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.decode.params import SamplingParams
from flux_vk.decode.sampling import ordered_width
from flux_vk.decode.words import first_carry, pack_order, pack_params
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference.sampling_order import Changes, change_words

F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
ALWAYS: dict[str, Any] = {"xtc_probability": 1.0}
PENALISED: dict[str, Any] = {"repeat_penalty": 1.4, "frequency_penalty": 0.3, "presence_penalty": -0.2}
DRY: dict[str, Any] = {"dry_multiplier": 0.8, "dry_allowed_length": 1}
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
    {"temperature": 0.0, **ALWAYS, "xtc_threshold": 0.01},
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
    {**OFF, **PENALISED, "samplers": "temperature;penalties", "temperature": 0.8},
    {**OFF, **PENALISED, **DRY, "samplers": "top_k;dry;penalties", "top_k": 20},
    {**OFF, **DRY, "samplers": "top_p;dry;temperature", "top_p": 0.99, "temperature": 1.2},
    {**PENALISED, **DRY, "samplers": "dry;penalties;top_k;xtc;temperature", **ALWAYS, "xtc_threshold": 0.03},
    {},
]


def tables(settings: list[dict[str, Any]]) -> tuple[list[SamplingParams], U32, U32]:
    """Parameters of a slot for each setting, and the words of both kinds."""
    params = [SamplingParams(**{"seed": 77 + i, **s}) for i, s in enumerate(settings)]
    return params, np.stack([pack_params(p) for p in params]), np.stack([pack_order(p) for p in params])


def beginnings(params: list[SamplingParams], ring: int = 8) -> F32:
    """carry f32[S, ring, 4] of texts that begin."""
    return np.repeat(np.stack([first_carry(p) for p in params])[:, None], ring, axis=1)


def random_changes(rng: np.random.Generator, rows: int, vocab: int) -> Changes:
    """What sample_repeats could have found: counts and penalties of up to 20 tokens."""
    changes: Changes = []
    for _ in range(rows):
        ids = rng.integers(vocab, size=(2, 20))
        counts = dict(zip(ids[0].tolist(), rng.integers(1, 5, 20).tolist(), strict=True))
        less = (4 * rng.random(20)).astype(np.float32).tolist()
        changes.append((counts, dict(zip(ids[1].tolist(), less, strict=True))))
    return changes


def draw(
    device: Device, logits: F32, slots: U32, positions: U32, words: U32, order: U32, changes: Changes, carry: F32,
    *, exact: int = 0, WG: int = 0, history: int = 40,
) -> tuple[U32, F32]:  # fmt: skip
    """sample_stats and sample_ordered (WG 0: as in a chain); what was picked (7: nothing was), and the carry."""
    rows, vocab = logits.shape
    given = {"logits": logits, "row_slot": slots, "row_pos": positions, "params": words, "order": order}
    given["changes"], given["carry"] = change_words(changes, history), carry
    b = {name: device.array(a) for name, a in given.items()}
    picked = device.array(untouched(rows))
    chain = Chain(device)
    maxima = chain.scratch((rows, -(-vocab // 4096) * 64), "u32")
    chain.sample_stats(logits=b["logits"], row_slot=b["row_slot"], params=b["params"], maxima=maxima)
    chain.sample_ordered(**b, maxima=maxima, picked=picked, exact=exact, WG=WG or ordered_width(device.family, vocab))
    chain.run()
    return picked.numpy(), b["carry"].numpy()


def untouched(rows: int) -> U32:
    """What stands in `picked` before."""
    return np.full((rows, 2), 7, np.uint32)
