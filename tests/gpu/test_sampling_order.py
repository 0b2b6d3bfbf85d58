"""The kernels of complete chains against float64: every sampler alone, random orders, short lists and whole rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_vk.decode.breakers import Breakers
from flux_vk.decode.order import DEFAULT_ORDER
from flux_vk.decode.params import SamplingParams
from flux_vk.decode.words import pack_order, pack_params
from flux_vk.gpu import Device
from flux_vk.gpu.reference import reference
from flux_vk.gpu.reference.sampling_order import Changes, change_words
from tests.gpu.complete_rows import (
    OFF,
    SETTINGS,
    U32,
    beginnings,
    draw,
    random_changes,
    tables,
    untouched,
)  # fmt: skip
from tests.gpu.harness import run_kernel

pytestmark = pytest.mark.kernel
VOCABS = [1, 7, 255, 257, 5000]


def compared(
    device: Device, rng: np.random.Generator, settings: list[dict[str, Any]], vocab: int, *, rounded: bool, **how: int
) -> tuple[U32, U32]:
    """Tokens of the kernel and of the definition, with the carry compared; what repeats is random."""
    params, words, order = tables(settings)
    rows = len(settings)
    logits = (3 * rng.standard_normal((rows, vocab))).astype(np.float32)
    if rounded:  # ties
        logits = np.round(logits)
    slots = rng.permutation(rows).astype(np.uint32)
    positions = rng.integers(1000, size=rows).astype(np.uint32)
    changes, carry = random_changes(rng, rows, vocab), beginnings(params)
    given = (logits, slots, positions, words, order, changes, carry)
    got, after = draw(device, *given, **how)
    want, later = reference("sample_ordered")(*given, untouched(rows))
    for row in np.flatnonzero((got != want).any(axis=1)):
        print(f"row {row}: {settings[slots[row]]}, got {got[row]}, expected {want[row]}")
    same = (got == want).all(axis=1)[np.argsort(slots)]
    np.testing.assert_allclose(after[same], later[same], rtol=2e-5, atol=2e-5)
    return got, want


def few_differ(got: U32, want: U32) -> None:
    """A sum may be off by a rounding error, and a cut or a draw fall just there: one row in a few hundred at most."""
    assert (got != want).any(axis=1).sum() <= len(got) // 300


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("exact", [0, 1])
@pytest.mark.parametrize("rounded", [False, True])
def test_every_setting(device: Device, rng: np.random.Generator, vocab: int, exact: int, rounded: bool) -> None:
    few_differ(*compared(device, rng, SETTINGS * 2, vocab, rounded=rounded, exact=exact))


WHOLE: dict[str, Any] = {
    "samplers": "typ_p;temperature;penalties;top_n_sigma;dry;top_k;top_p;xtc;min_p", "typical_p": 0.9999,
    "top_k": 200000, "temperature": 3.0, "dynatemp_range": 0.2, "top_p": 0.9999, "top_n_sigma": 4.0,
    "xtc_probability": 1.0, "min_p": 1e-9, "repeat_penalty": 1.1, "dry_multiplier": 0.5,
}  # fmt: skip
"""Every sampler on the whole row: the most loop iterations there can be, which Mesa's CPU drivers limit."""


@pytest.mark.parametrize("vocab", [151936, 262144])
def test_large_vocabularies(device: Device, rng: np.random.Generator, vocab: int) -> None:
    settings = SETTINGS if vocab < 200000 else SETTINGS[::9]
    few_differ(*compared(device, rng, [*settings, WHOLE], vocab, rounded=False))


@pytest.mark.parametrize("vocab", [16384, 32768, 65536])
def test_whole_rows_at_the_limits_of_a_width(device: Device, rng: np.random.Generator, vocab: int) -> None:
    settings = [WHOLE, {**WHOLE, "mirostat": 1, "samplers": None}]
    few_differ(*compared(device, rng, settings, vocab, rounded=True, exact=1))


@pytest.mark.parametrize("workgroup", [16, 64, 128, 256])
def test_workgroups_draw_the_same(device: Device, rng: np.random.Generator, workgroup: int) -> None:
    for exact in (0, 1):
        few_differ(*compared(device, rng, SETTINGS, 3001, rounded=True, WG=workgroup, exact=exact))


def random_setting(rng: np.random.Generator) -> dict[str, Any]:
    """Any samplers in any order with any values."""
    names = rng.permutation(DEFAULT_ORDER)[: rng.integers(2, len(DEFAULT_ORDER) + 1)].tolist()
    return {
        "samplers": names, "top_k": int(rng.choice([0, 1, 5, 40, 300, 2000])),
        "top_p": float(rng.choice([0.3, 0.95, 1])), "min_p": float(rng.choice([0, 0.01, 0.3])),
        "typical_p": float(rng.choice([0.2, 0.9, 1])),
        "top_n_sigma": float(rng.choice([-1, 0.7, 3])), "xtc_probability": float(rng.choice([0, 0.5, 1])),
        "xtc_threshold": float(rng.choice([0.001, 0.1])), "temperature": float(rng.choice([0, 0.4, 1, 2])),
        "dynatemp_range": float(rng.choice([0, 0, 0.7])), "repeat_penalty": float(rng.choice([1, 1.3])),
        "dry_multiplier": float(rng.choice([0, 1])), "adaptive_target": float(rng.choice([-1, -1, 0.2])),
    }  # fmt: skip


@pytest.mark.parametrize("vocab", [40, 700, 9000])
def test_random_orders(device: Device, rng: np.random.Generator, vocab: int) -> None:
    settings = [random_setting(rng) for _ in range(300)]
    for exact in (0, 1):
        few_differ(*compared(device, rng, settings, vocab, rounded=vocab == 700, exact=exact))


def test_rows_do_not_depend_on_others(device: Device, rng: np.random.Generator) -> None:
    """A row alone gives the token and the carry, to the last bit, that it gives among all."""
    params, words, order = tables(SETTINGS)
    rows = len(SETTINGS)
    logits = (3 * rng.standard_normal((rows, 2500))).astype(np.float32)
    slots, positions = np.arange(rows, dtype=np.uint32), np.arange(rows, dtype=np.uint32)
    changes, carry = random_changes(rng, rows, 2500), beginnings(params)
    together, after = draw(device, logits, slots, positions, words, order, changes, carry)
    for row in range(0, rows, 3):
        one = slice(row, row + 1)
        alone, later = draw(device, logits[one], slots[one], positions[one], words, order, changes[one], carry)
        np.testing.assert_array_equal(alone, together[one])
        np.testing.assert_array_equal(later[row], after[row])


def test_values_that_are_not_numbers(device: Device) -> None:
    inf, nan = np.inf, np.nan
    params, words, order = tables(SETTINGS)
    rows = len(SETTINGS)
    some = np.full((3, 600), -inf, np.float32)
    some[1, 7], some[1, 9] = nan, -3
    some[2], some[2, 500], some[2, 400] = 1, inf, nan
    changes: Changes = [({}, {})] * rows
    slots, positions = np.arange(rows, dtype=np.uint32), np.zeros(rows, np.uint32)
    for exact in (0, 1):
        for kind, want in enumerate((7, 9, 500)):
            logits = np.repeat(some[kind : kind + 1], rows, axis=0)
            picked, _ = draw(device, logits, slots, positions, words, order, changes, beginnings(params), exact=exact)
            adaptive = np.array([p.adaptive and kind == 2 for p in params])
            assert (picked[:-1][~adaptive[:-1], 0] == want).all(), "the only token there is, or nothing written"


def repeated_text(rng: np.random.Generator, n: int, vocab: int) -> list[int]:
    """Random tokens with pieces of themselves again, the newest tokens too."""
    text: list[int] = []
    while len(text) < n:
        text += rng.integers(vocab, size=4).tolist()
        start = int(rng.integers(len(text)))
        text += text[start : start + int(rng.integers(1, 9))]
    tail = text[max(n // 3, 1) :][: int(rng.integers(1, 12))]
    return [*text, *tail][-n:] if n else []


@pytest.mark.parametrize("vocab", [3, 40, 5000])
def test_repeats(device: Device, rng: np.random.Generator, vocab: int) -> None:
    """Counts and penalties as the definition has them: window, breakers of one and several tokens, a full ring."""
    size = 100
    settings: list[dict[str, Any]] = [
        {"dry_multiplier": 1.0},
        {"dry_multiplier": 2.5, "dry_base": 1.1, "dry_allowed_length": 1, "dry_penalty_last_n": 30},
        {"dry_multiplier": 0.5, "dry_base": 1.0, "dry_allowed_length": 0},
        {"dry_multiplier": 1.0, "dry_base": 3.0, "dry_allowed_length": 1, "samplers": "top_k;dry;penalties", **PEN},
        {"samplers": "top_k;penalties", **PEN, "repeat_last_n": 17},
        {"dry_multiplier": 1.0, "samplers": "dry;top_k"},
        {"mirostat": 2, "dry_multiplier": 1.0},
        {},
    ]
    settings = settings * 4
    n = len(settings)
    params = [SamplingParams(**s) for s in settings]
    history, count = np.zeros((n, size), np.uint32), np.zeros(n, np.uint32)
    broken = []
    for slot in range(n):
        text = repeated_text(rng, int(rng.choice([0, 1, 2, 17, 99, 100, 137])), vocab)
        history[slot, np.arange(len(text))[-size:] % size] = text[-size:]
        count[slot] = len(text)
        at = int(rng.integers(max(len(text) - 20, 1)))
        alone = [[int(rng.integers(vocab))]] if slot % 3 == 1 else []
        longer = [text[at : at + 3], text[at : at + 2]] if slot % 4 == 1 and text else []
        broken.append(Breakers.of([*alone, *longer]))
    given = {
        "logits": rng.standard_normal((n, vocab)).astype(np.float32), "row_slot": rng.permutation(n).astype(np.uint32),
        "order": np.stack([pack_order(p, len(b.sequences)) for p, b in zip(params, broken, strict=True)]),
        "breaker_bits": np.stack([b.bits(vocab) for b in broken]), "breakers": np.stack([b.words() for b in broken]),
        "history": history, "hist_count": count,
    }  # fmt: skip
    for workgroup in (64, 256):
        got = run_kernel(device, "sample_repeats", given, {"changes": ((n, 2, size + 1, 2), "u32")}, WG=workgroup)
        logits, want = reference("sample_repeats")(**given)
        np.testing.assert_allclose(got["logits"], logits, rtol=1e-6, atol=1e-6)
        expected = change_words(want, size)
        found = 0
        for row, slot in enumerate(given["row_slot"]):
            for part in range(2):
                if not given["order"][slot, 0]:
                    assert (got["changes"][row] == 0xFFFFFFFF).all(), "a row of the short order was worked on"
                    continue
                lists = [w[row, part, 1 : 1 + w[row, part, 0, 0]] for w in (got["changes"], expected)]
                a, b = (x[np.argsort(x[:, 0])] for x in lists)
                np.testing.assert_array_equal(a[:, 0], b[:, 0])
                kind = np.float32 if part else np.uint32
                np.testing.assert_allclose(a[:, 1].copy().view(kind), b[:, 1].copy().view(kind), rtol=1e-5)
                found += len(a)
        assert found or vocab == 5000


PEN: dict[str, Any] = {"repeat_penalty": 1.2, "top_k": 5}


def test_short_rows_are_left_to_the_other_kernels(device: Device, rng: np.random.Generator) -> None:
    params = [SamplingParams(seed=1), SamplingParams(seed=1, **OFF), SamplingParams(seed=1, temperature=0)]
    words, order = np.stack([pack_params(p) for p in params]), np.stack([pack_order(p) for p in params])
    assert not order.any()
    logits = rng.standard_normal((4, 300)).astype(np.float32)
    slots = np.array([0, 1, 2, 0xFFFFFFFF], np.uint32)
    carry = np.ones((3, 4, 4), np.float32)
    picked, after = draw(device, logits, slots, slots, words, order, [({}, {})] * 4, carry)
    np.testing.assert_array_equal(picked, untouched(4))
    np.testing.assert_array_equal(after, carry)
