"""The sampling kernels one by one, against their references: awkward vocabularies, ties, NaN, the law of the draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.decode.params import MAX_BIAS, SamplingParams
from flux_vk.decode.words import pack_params
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference import reference
from flux_vk.gpu.reference import sampling as definition
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel
VOCABS = [1, 2, 63, 64, 65, 513, 1000, 4096, 4097, 32000, 151936]
OPEN = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # every limit off
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {},
    {"top_k": 1},
    {"top_k": 0},
    {"temperature": 1.0, **OPEN},
    {"temperature": 3.0, **OPEN, "top_k": 300},
    {"temperature": 1.0, **OPEN, "top_p": 0.9},
    {"temperature": 1.0, **OPEN, "top_p": 0.0},
    {"temperature": 1.5, "top_k": 700, "top_p": 0.99, "min_p": 0.0},
    {"temperature": 1.0, **OPEN, "min_p": 0.02},
    {"temperature": 1e-6, **OPEN},
    {"temperature": 0.7, "top_k": 256, "top_p": 0.5, "min_p": 0.3},
]


def blocks(vocab: int) -> int:
    return -(-vocab // 4096) * 64


def words(settings: list[dict[str, Any]]) -> npt.NDArray[np.uint32]:
    return np.stack([pack_params(SamplingParams(**{"seed": 1000 + i, **s})) for i, s in enumerate(settings)])


def pick(
    device: Device, logits: npt.NDArray[np.float32], slots: npt.NDArray[np.uint32], params: npt.NDArray[np.uint32],
    positions: npt.NDArray[np.uint32] | None = None, *, exact: int = 0, WG: int = 64, with_mass: bool = False,
) -> npt.NDArray[np.uint32]:  # fmt: skip
    """sample_stats, sample_mass where asked for, and sample_pick in one chain."""
    rows, vocab = logits.shape
    positions = np.arange(rows, dtype=np.uint32) if positions is None else positions
    x, s, at, p = (device.array(a) for a in (logits, slots, positions, params))
    out = device.filled((rows, 2), "u32", 0xFF)
    chain = Chain(device)
    maxima = chain.scratch((rows, blocks(vocab)), "u32")
    chain.sample_stats(logits=x, row_slot=s, params=p, maxima=maxima)
    mass = device.zeros((rows, 256, 2), "u32") if with_mass else None
    if mass is not None:
        chain.sample_mass(logits=x, row_slot=s, params=p, maxima=maxima, mass=mass)
    chain.sample_pick(
        logits=x, row_slot=s, row_pos=at, params=p, maxima=maxima, mass=mass, picked=out, exact=exact, WG=WG
    )
    chain.run()
    return out.numpy()


def test_philox_known_answers() -> None:
    """Known-answer vectors of the authors' Random123 library."""
    ones = 0xFFFFFFFF
    assert definition.philox4x32_10((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert definition.philox4x32_10((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    assert definition.philox4x32_10((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)) == (
        0xD16CFE09,
        0x94FDCCEB,
        0x5001E420,
        0x24126EA1,
    )


def test_exp_of_the_reference() -> None:
    x = -np.geomspace(1e-8, 29.9, 100_000).astype(np.float32)
    want = np.exp(x.astype(np.float64))
    assert np.abs(definition.exp_neg(x) / want - 1).max() < 2.5e-7
    assert definition.exp_neg(np.array([0, -0.0, -31, -np.inf], np.float32)).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("vocab", VOCABS)
def test_stats(device: Device, rng: np.random.Generator, vocab: int) -> None:
    logits = (5 * rng.standard_normal((3, vocab))).astype(np.float32)
    logits[1, rng.integers(vocab, size=vocab // 2)] = np.nan
    logits[1, rng.integers(vocab)] = -np.inf
    given = {"logits": logits, "row_slot": np.array([1, 0, 1], np.uint32), "params": words([{}, {"logprobs": 3}])}
    shape = (3, blocks(vocab))
    got = run_kernel(device, "sample_stats", given, {"maxima": (shape, "u32")})
    np.testing.assert_array_equal(got["maxima"], reference("sample_stats")(**given))
    got = run_kernel(device, "sample_stats", given, {"maxima": (shape, "u32"), "sums": (shape, "f32")})
    maxima, sums = reference("sample_stats")(**given, has_sums=1)
    np.testing.assert_array_equal(got["maxima"][::2], maxima[::2])
    assert nmse(got["sums"][::2], sums[::2]) < 1e-10
    assert (got["maxima"][1] == 0xFFFFFFFF).all(), "a row that asks for no log-probabilities was worked on"


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("exact", [0, 1])
def test_pick(device: Device, rng: np.random.Generator, vocab: int, exact: int) -> None:
    """Every row has its own parameters; tokens are those of the reference, by either way of selecting."""
    settings = SETTINGS if vocab < 100_000 else SETTINGS[:: 1 + exact]
    logits = (3 * rng.standard_normal((len(settings), vocab))).astype(np.float32)
    slots = rng.permutation(len(settings)).astype(np.uint32)
    params = words(settings)
    want = reference("sample_pick")(logits, slots, np.arange(len(settings)), params)
    for with_mass in (False, True) if vocab < 100_000 or not exact else (False,):
        got = pick(device, logits, slots, params, exact=exact, with_mass=with_mass)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("workgroup", [128, 256])
def test_pick_does_not_depend_on_the_workgroup(device: Device, rng: np.random.Generator, workgroup: int) -> None:
    logits = (3 * rng.standard_normal((len(SETTINGS), 5000))).astype(np.float32)
    slots, params = np.arange(len(SETTINGS), dtype=np.uint32), words(SETTINGS)
    for exact in (0, 1):
        got = pick(device, logits, slots, params, exact=exact, WG=workgroup)
        np.testing.assert_array_equal(got, pick(device, logits, slots, params))


@pytest.mark.parametrize("vocab", [65, 1000, 20000])
def test_ties(device: Device, rng: np.random.Generator, vocab: int) -> None:
    """Few distinct values, or one: cuts fall among equals, where the lowest ids stay; -0 equals +0."""
    rows = [rng.integers(-2, 3, vocab), np.zeros(vocab), np.where(rng.random(vocab) < 0.5, 0.0, -0.0)]
    logits = np.repeat(np.array(rows, np.float32), len(SETTINGS), axis=0)
    slots = np.tile(np.arange(len(SETTINGS), dtype=np.uint32), 3)
    params = words(SETTINGS)
    want = reference("sample_pick")(logits, slots, np.arange(len(slots)), params)
    for exact in (0, 1):
        got = pick(device, logits, slots, params, exact=exact, with_mass=not exact)
        np.testing.assert_array_equal(got, want)
    assert pick(device, logits[:1] * 0, slots[:1], params).tolist() == [[0, 0]], "greedy takes the lowest id"


def test_clustered_candidates(device: Device, rng: np.random.Generator) -> None:
    """More candidates in few blocks than the short list holds."""
    logits = rng.uniform(-1, 0, (len(SETTINGS), 40000)).astype(np.float32)
    logits[:, 256 * np.arange(64)[:, None] + np.arange(4)] += 5  # four of the best every 256: all in few blocks
    logits[:, :3000] += 3
    slots, params = np.arange(len(SETTINGS), dtype=np.uint32), words(SETTINGS)
    want = reference("sample_pick")(logits, slots, np.arange(len(SETTINGS)), params)
    np.testing.assert_array_equal(pick(device, logits, slots, params), want)


def test_values_that_are_not_numbers(device: Device) -> None:
    inf, nan = np.inf, np.nan
    logits = np.full((6, 600), -inf, np.float32)
    logits[1] = nan
    logits[2, 7], logits[2, 9] = nan, -3
    logits[3], logits[3, 500], logits[3, 400] = 1, inf, nan
    logits[4, 11:14] = -3.4e38
    logits[5, 100], logits[5, 300] = inf, inf
    params = words([{"temperature": 0.0}, {"temperature": 1.0, **OPEN}, {}])
    for slot in range(3):
        slots = np.full(6, slot, np.uint32)
        for exact in (0, 1):
            got = pick(device, logits, slots, params, exact=exact, with_mass=not exact)
            np.testing.assert_array_equal(got, reference("sample_pick")(logits, slots, np.arange(6), params))
            assert got[:4].tolist() == [[0, 1], [0, 1], [9, 0], [500, 0]]
            assert got[4, 0] in (11, 12, 13) and got[5, 0] in (100, 300)


def test_a_row_without_a_slot_is_left_out(device: Device, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((3, 100)).astype(np.float32)
    got = pick(device, logits, np.array([0, 7, 0xFFFFFFFF], np.uint32), words([{}]))
    assert got[0, 1] == 0 and (got[1:] == 0xFFFFFFFF).all()


@pytest.mark.parametrize("vocab", [70, 3000, 151936])
def test_adjust(device: Device, rng: np.random.Generator, vocab: int) -> None:
    some = rng.choice(vocab, 40, replace=False)
    bias = {int(t): float(v) for t, v in zip(some, rng.normal(0, 4, 40), strict=True)} | {int(some[0]): -np.inf}
    settings: list[dict[str, Any]] = [
        {},
        {"logit_bias": bias},
        {"repeat_penalty": 1.3},
        {"frequency_penalty": 0.5, "presence_penalty": -0.25, "repeat_last_n": 9},
        {"logit_bias": bias, "repeat_penalty": 0.8, "frequency_penalty": 0.1, "repeat_last_n": 100},
    ]
    n, size = len(settings), 100
    ids = np.zeros((n, MAX_BIAS), np.uint32)
    values = np.zeros((n, MAX_BIAS), np.float32)
    ids[:, :40], values[:, :40] = list(bias), list(bias.values())
    given = {
        "logits": rng.standard_normal((n, vocab)).astype(np.float32),
        "row_slot": rng.permutation(n).astype(np.uint32),
        "params": words(settings),
        "bias_id": ids,
        "bias": values,
        "history": rng.choice(some[:30], (n, size)).astype(np.uint32),
        "hist_count": np.array([3, 0, 70, 100, 1234], np.uint32),
    }
    got = run_kernel(device, "sample_adjust", given, {"saved": ((n, MAX_BIAS + size, 2), "u32")})
    want, _ = reference("sample_adjust")(**given)
    np.testing.assert_array_equal(got["logits"], want)
    assert any((want[row] != given["logits"][row]).any() for row in range(n))


@pytest.mark.parametrize("vocab", [512, 513, 4096, 9001, 151936])
def test_mass(device: Device, rng: np.random.Generator, vocab: int) -> None:
    """Bit-equal sums of integers, for the rows that need them; others are not touched."""
    logits = (4 * rng.standard_normal((len(SETTINGS), vocab))).astype(np.float32)
    logits[:, 3] = -np.inf
    logits[4] = 1.0  # equal: the largest sums there are
    slots, params = np.arange(len(SETTINGS), dtype=np.uint32), words(SETTINGS)
    x, s, p = device.array(logits), device.array(slots), device.array(params)
    mass = device.zeros((len(SETTINGS), 256, 2), "u32")
    chain = Chain(device)
    maxima = chain.scratch((len(SETTINGS), blocks(vocab)), "u32")
    chain.sample_stats(logits=x, row_slot=s, params=p, maxima=maxima)
    chain.sample_mass(logits=x, row_slot=s, params=p, maxima=maxima, mass=mass)
    chain.run()
    want = reference("sample_mass")(logits, slots, params)
    np.testing.assert_array_equal(mass.numpy().view(np.uint64)[:, :, 0], want)
    assert (want.sum(axis=1) > 0).sum() == {512: 0, 513: 6}.get(vocab, 5)  # top_k 700 is none of 513


@pytest.mark.parametrize("vocab", [1, 5, 65, 1000, 151936])
def test_top(device: Device, rng: np.random.Generator, vocab: int) -> None:
    settings = [{"logprobs": 0}, {"logprobs": 1}, {"logprobs": 5}, {"logprobs": 20}]
    logits = (4 * rng.standard_normal((5, vocab))).astype(np.float32)
    logits[4] = 0.5  # all equal: the lowest ids
    params, slots = words(settings), np.array([0, 1, 2, 3, 3], np.uint32)
    x, s, p = device.array(logits), device.array(slots), device.array(params)
    out = device.zeros((5, 42), "u32")
    chain = Chain(device)
    maxima = chain.scratch((5, blocks(vocab)), "u32")
    sums = chain.scratch((5, blocks(vocab)), "f32")
    chain.sample_stats(logits=x, row_slot=s, params=p, maxima=maxima, sums=sums)
    chain.sample_top(logits=x, row_slot=s, params=p, maxima=maxima, sums=sums, top=out)
    chain.run()
    got, want = out.numpy(), reference("sample_top")(logits, slots, params)
    np.testing.assert_array_equal(got[:, 0::2], want[:, 0::2])  # counts and ids
    np.testing.assert_allclose(got.view(np.float32)[:, 1::2], want.view(np.float32)[:, 1::2], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "draws"),
    [
        ({"temperature": 1.0, **OPEN}, 100_000),
        ({**OPEN, "temperature": 1.2, "top_k": 20}, 100_000),
        ({**OPEN, "temperature": 1.2, "min_p": 0.1}, 100_000),
        ({**OPEN, "temperature": 1.7, "top_p": 0.8}, 100_000),
        ({"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.02}, 100_000),
    ],
)
def test_draws_follow_the_distribution(
    device: Device, rng: np.random.Generator, settings: dict[str, Any], draws: int
) -> None:
    """Chi-square of many positions under one seed against the float64 distribution."""
    logits = (1.5 * rng.standard_normal(48)).astype(np.float32)
    params = words([{**settings, "seed": int(rng.integers(2**63))}])
    counts = np.zeros(48)
    for start in range(0, draws, 25_000):
        rows = min(25_000, draws - start)
        positions = np.arange(start, start + rows, dtype=np.uint32)
        slots = np.zeros(rows, np.uint32)
        picked = pick(device, np.repeat(logits[None], rows, axis=0), slots, params, positions)
        counts += np.bincount(picked[:, 0], minlength=48)
    p = definition.distribution(logits, **settings)
    assert (counts[p == 0] == 0).all(), "a token was drawn that the settings exclude"
    p, counts = p[p > 0], counts[p > 0]
    expected = p * draws
    rare = expected < 8  # put together, so that the approximation holds
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        counts = np.append(counts[~rare], counts[rare].sum())
    chi2, freedom = float(((counts - expected) ** 2 / expected).sum()), len(expected) - 1
    assert chi2 < freedom + 6 * np.sqrt(2 * freedom), f"chi-square {chi2:.1f} with {freedom} degrees of freedom"
