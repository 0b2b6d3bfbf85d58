"""The kernels around the agents' interpreter, one by one, against their references."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.gpu import Device
from flux_vk.gpu.reference import flux_votes as definition
from flux_vk.gpu.reference import reference
from tests.gpu import swarm_data as data
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel
Array = npt.NDArray[Any]
VOCABS = [1, 2, 63, 65, 255, 1001, 4096, 4097, 32000]
GROUPS = [64, 128, 256]


def groups(vocab: int) -> int:
    return -(-vocab // 4096)


def awkward_logits(rng: np.random.Generator, rows: int, vocab: int) -> Array:
    """Random rows; one with NaN, infinities and ties, one without any finite logit, one all equal."""
    logits = (4 * rng.standard_normal((rows, vocab))).astype(np.float32)
    logits[1, rng.integers(vocab, size=vocab // 2)] = -np.inf
    logits[1, rng.integers(vocab)] = np.nan
    logits[1, rng.integers(vocab)] = 1.5
    logits[2] = -np.inf
    logits[3] = np.where(rng.random(vocab) < 0.5, 0.0, -0.0)
    return logits


@pytest.mark.parametrize("vocab", VOCABS)
def test_moments(device: Device, rng: np.random.Generator, vocab: int) -> None:
    rows, slots = 7, 6
    given = {
        "logits": awkward_logits(rng, rows, vocab), "row_slot": np.array([0, 1, 2, 3, 4, 5, 9], np.uint32),
        **data.swarms(rng, slots, data.MOST),
    }  # fmt: skip
    given["swarm"][4, 0] = 0  # nobody votes
    given["trust"][5] = 0  # nobody is trusted
    g, padded = groups(vocab), -(-vocab // 64) * 64
    shapes = {"maxima": ((rows, 64 * g), "u32"), "parts": ((rows, g, 4), "f32")}
    before = rng.standard_normal((rows, vocab)).astype(np.float32)
    maxima, parts, consensus, keys = reference("flux_moments")(**given, consensus=before)
    for more in (False, True):
        inputs = given | {"consensus": before} if more else given
        outputs = shapes | {"keys": ((rows, padded), "u32")} if more else shapes
        got = run_kernel(device, "flux_moments", inputs, outputs)
        worked = [0, 1, 2, 3, 5]
        np.testing.assert_array_equal(got["maxima"][worked], maxima[worked])
        np.testing.assert_array_equal(got["parts"][worked][..., 0], parts[worked][..., 0])
        assert nmse(got["parts"][worked][..., 1:], parts[worked][..., 1:]) < 1e-10
        assert (got["maxima"][[4, 6]] == 0xFFFFFFFF).all(), "a row without agents was worked on"
        if more:
            np.testing.assert_array_equal(got["keys"][worked], keys[worked])
            np.testing.assert_array_equal(got["consensus"], consensus)
            np.testing.assert_array_equal(consensus[:4], before[:4])
            np.testing.assert_array_equal(consensus[4:], [*given["logits"][4:6], before[6]])


def row_facts(logits: Array) -> tuple[float, float, float]:
    """Best logit, entropy and logsumexp in float64, straight from the definition."""
    x = np.where(np.isnan(logits), -np.inf, logits.astype(np.float64))
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    return (
        float(x.max()),
        float(-(p[p > 0] * np.log(p[p > 0])).sum()),
        float(np.log(np.exp(x - x.max()).sum()) + x.max()),
    )


def candidate_case(rng: np.random.Generator, vocab: int, wanted: list[int], size: int = 70) -> dict[str, Array]:
    rows, slots = 7, 6
    logits = awkward_logits(rng, rows, vocab)
    history = rng.integers(0, vocab, (slots, size)).astype(np.uint32)
    likely = np.argsort(-np.nan_to_num(logits[0]))[:20]
    history[:, ::2] = rng.choice(likely, (slots, -(-size // 2)))
    given = {
        "logits": logits, "row_slot": np.array([0, 1, 2, 3, 4, 5, 9], np.uint32),
        "row_pos": rng.integers(0, 1000, rows).astype(np.uint32), "params": data.params(slots),
        **data.swarms(rng, slots, data.MOST), "history": history,
        "hist_count": np.array([size, 3, 0, 5 * size + 3, size - 1, 7], np.uint32),
    }  # fmt: skip
    given["swarm"][:, 3] = [wanted[i % len(wanted)] for i in range(slots)]
    given["swarm"][4, 0] = 0
    return given


def with_moments(device: Device, given: dict[str, Array], keys: bool = False) -> dict[str, Array]:
    """What the candidates' kernels read: made by flux_moments itself."""
    rows, vocab = given["logits"].shape
    g, padded = groups(vocab), -(-vocab // 64) * 64
    outputs = {"maxima": ((rows, 64 * g), "u32"), "parts": ((rows, g, 4), "f32")}
    if keys:
        outputs["keys"] = ((rows, padded), "u32")
    names = ("logits", "row_slot", "swarm", "weight", "trust")
    return run_kernel(device, "flux_moments", {k: given[k] for k in names}, outputs)


def check_candidates(got: dict[str, Array], given: dict[str, Array], c: int) -> None:
    info, cand = reference("flux_candidates")(**given, c=c)
    facts, expected = got["row_info"].view(np.float32)[:, 1:4], info.view(np.float32)[:, 1:4]
    np.testing.assert_allclose(facts, expected, rtol=3e-7, atol=1e-6)
    for word in (0, 4, 5, 6, 7):
        np.testing.assert_array_equal(got["row_info"][:, word], info[:, word])
    for row, n in enumerate(info[:, 0]):
        np.testing.assert_array_equal(got["cand"][row, :n], cand[row, :n])
        assert (got["cand"][row, n:] == 0xFFFFFFFF).all()
    assert info[[2, 4, 6], 0].tolist() == [0, 0, 0], "no finite logit, no agents, no slot"
    assert facts[0] == pytest.approx(row_facts(given["logits"][0]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("vocab", [*VOCABS, 151936])
def test_candidates(device: Device, rng: np.random.Generator, vocab: int) -> None:
    """Ranks, ties, history counts and distances; fewer wanted than there is room for."""
    given = candidate_case(rng, vocab, [256, 256, 5, 256, 1, 64])
    del_weight = {k: v for k, v in given.items() if k not in ("weight", "trust")}
    made = with_moments(device, given)
    outputs = {"row_info": ((7, 8), "u32"), "cand": ((7, 256, 4), "u32")}
    for wg in GROUPS if vocab < 5000 else [64]:
        got = run_kernel(device, "flux_candidates", {**del_weight, **made}, outputs, WG=wg)
        check_candidates(got, given, 256)


@pytest.mark.parametrize("vocab", [1, 63, 300, 1001, 4097])
def test_ranked(device: Device, rng: np.random.Generator, vocab: int) -> None:
    """Any number of candidates, from keys sorted beforehand; the same as the short list's up to its length."""
    given = candidate_case(rng, vocab, [vocab, 300, 5, vocab, 1, 1024])
    made = with_moments(device, given, keys=True)
    order = np.argsort(~made["keys"], axis=1, kind="stable").astype(np.uint32)
    made = {"parts": made["parts"], "keys": np.take_along_axis(made["keys"], order.astype(np.int64), 1), "ids": order}
    taken = {k: v for k, v in given.items() if k not in ("weight", "trust")}
    for c in dict.fromkeys((min(vocab, 700), vocab)):
        outputs = {"row_info": ((7, 8), "u32"), "cand": ((7, c, 4), "u32")}
        for wg in GROUPS:
            check_candidates(run_kernel(device, "flux_ranked", {**taken, **made}, outputs, WG=wg), given, c)


def test_clustered_candidates(device: Device, rng: np.random.Generator) -> None:
    """More logits above the bound than the short list holds: equal ones, of which the lowest ids stay."""
    given = candidate_case(rng, 9001, [256])
    given["logits"][0, 1000:5000] = 20.0
    given["logits"][1] = rng.integers(0, 3, 9001)
    made = with_moments(device, given)
    taken = {k: v for k, v in given.items() if k not in ("weight", "trust")}
    outputs = {"row_info": ((7, 8), "u32"), "cand": ((7, 256, 4), "u32")}
    got = run_kernel(device, "flux_candidates", {**taken, **made}, outputs)
    check_candidates(got, given, 256)
    assert got["cand"][0, :, 0].tolist() == list(range(1000, 1256))


SIZES = [(1, 1, 1), (300, 1, 1), (50, 7, 3), (1000, 256, 8), (3000, 255, 2), (3000, 1025, 4)]


@pytest.mark.parametrize(("vocab", "c", "agents"), SIZES)
def test_tally(device: Device, rng: np.random.Generator, vocab: int, c: int, agents: int) -> None:
    given = data.ballots(rng, 5, vocab, c, agents)
    given["score"][0] = np.round(given["score"][0])  # ties: the lowest id
    given["score"][1, 0] *= 1e37
    want = reference("flux_tally")(**given)
    taken = {k: given[k] for k in ("row_info", "cand", "score", "swarm")}
    for wg in GROUPS:
        got = run_kernel(device, "flux_tally", taken, {"tally": (want.shape, "u32")}, WG=wg)["tally"]
        used = want[..., 3] | want[..., 2] > 0
        np.testing.assert_array_equal(got[used], want[used])
        assert (got[~used] == 0xFFFFFFFF).all() and used.any()


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize(("vocab", "c", "agents"), SIZES)
def test_vote(device: Device, rng: np.random.Generator, vocab: int, c: int, agents: int, mode: int) -> None:
    given = data.ballots(rng, 5, vocab, c, agents, mode)
    given["score"][0] = np.round(given["score"][0])
    given["trust"][1] = 0  # nobody is trusted: the row stays
    given["consensus"] = np.full((5, vocab), -np.inf, np.float32)
    given["consensus"][1] = rng.standard_normal(vocab)
    want, votes = reference("flux_vote")(**given)
    given["tally"] = reference("flux_tally")(**given)
    outputs = {"votes": ((5, given["cand"].shape[1]), "f32")}
    for wg in GROUPS:
        got = run_kernel(device, "flux_vote", given, outputs, WG=wg)
        close(got["consensus"], want, mode)
        for row in (0, 2):
            n = given["row_info"][row, 0]
            close(got["votes"][row, :n], votes[row, :n], mode)
            assert np.isnan(got["votes"][row, n:]).all()
        np.testing.assert_array_equal(got["consensus"][1], given["consensus"][1])


def close(got: Array, want: Array, mode: int) -> None:
    """Equal within the tolerance; beyond exp(-30) below an agent's best the kernel's softmax is zero."""
    if mode == definition.PROB:
        far = want < -25
        assert (got[far] < -24).all()
        got, want = got[~far], want[~far]
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
    there = np.isfinite(want)
    np.testing.assert_allclose(got[there], want[there], rtol=2e-6, atol=2e-6)


def test_terms_that_would_not_be_finite(device: Device, rng: np.random.Generator) -> None:
    """The largest scores and weights: the sum stays a number, of the right sign."""
    given = data.ballots(rng, 1, 9, 3, 8, definition.SUM, n=3)
    given["swarm"][0, 0] = 8
    given["weight"][:] = 1e30
    given["score"][0, :, :3] = [3.4e38, -3.4e38, 1e-38]
    given["tally"] = reference("flux_tally")(**given)
    given["consensus"] = np.full((1, 9), -np.inf, np.float32)
    got = run_kernel(device, "flux_vote", given, {})["consensus"][0, given["cand"][0, :, 0]]
    np.testing.assert_allclose(got[:2], [3.2e38, -3.2e38], rtol=1e-6)
    assert abs(got[2]) < 1


@pytest.mark.parametrize(("vocab", "c", "agents"), SIZES)
def test_trust(device: Device, rng: np.random.Generator, vocab: int, c: int, agents: int) -> None:
    rows, ring = 6, 7
    given = data.ballots(rng, rows, vocab, c, agents)
    chosen = [int(given["cand"][row, rng.integers(n), 0]) for row, n in enumerate(given["row_info"][:, 0])]
    given["picked"] = np.stack([chosen, np.zeros(rows)], 1).astype(np.uint32)
    given["picked"][3, 1] = 1  # nothing could be drawn
    given["picked"][1, 0] = vocab - 1  # perhaps none of the candidates
    given["traps"] = rng.integers(0, 300, (rows, agents, 2)).astype(np.uint32)
    want, trust_ring, trap_ring = reference("flux_trust")(**given, r=ring)
    before = given["trust"].copy()
    given["tally"], given["logits"] = reference("flux_tally")(**given), data.logits_of(given, vocab)
    taken = {k: v for k, v in given.items() if k != "weight"}
    slots = len(before)
    outputs = {"trust_ring": ((slots, ring, 8), "f32"), "trap_ring": ((slots, ring, 8, 2), "u32")}
    got = run_kernel(device, "flux_trust", taken, outputs)
    np.testing.assert_allclose(got["trust"], want, rtol=3e-6, atol=1e-12)
    np.testing.assert_array_equal(got["trust"][[3, rows - 1, rows]], before[[3, rows - 1, rows]])
    for row in range(rows - 1):
        at = given["row_info"][row, 4] % ring
        np.testing.assert_array_equal(got["trust_ring"][row, at], got["trust"][row])
        np.testing.assert_array_equal(got["trap_ring"][row, at], trap_ring[row, at])
    assert np.isnan(got["trust_ring"]).sum() == (slots * ring - (rows - 1)) * 8, "one entry a row, and no other"


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize(("vocab", "c", "agents"), SIZES)
def test_trace(device: Device, rng: np.random.Generator, vocab: int, c: int, agents: int, mode: int) -> None:
    rows, ring = 6, 5
    given = data.ballots(rng, rows, vocab, c, agents, mode)
    given["trust"][1] = 0
    chosen = [int(given["cand"][row, rng.integers(n), 0]) for row, n in enumerate(given["row_info"][:, 0])]
    given["picked"] = np.stack([chosen, np.zeros(rows)], 1).astype(np.uint32)
    given["votes"] = reference("flux_vote")(**given, consensus=np.zeros((rows, vocab), np.float32))[1].astype(
        np.float32
    )
    want = reference("flux_trace")(**given, t=ring)
    given["tally"], given["logits"] = reference("flux_tally")(**given), data.logits_of(given, vocab)
    for wg in GROUPS:
        got = run_kernel(device, "flux_trace", given, {"trace_ring": (want.shape, "u32")}, WG=wg)["trace_ring"]
        for row in range(rows - 1):
            check_trace(got[row, (40 + row) % ring], want[row, (40 + row) % ring], mode)


def check_trace(got: Array, want: Array, mode: int) -> None:
    agents, entries = int(want[7]), int(want[9])
    np.testing.assert_array_equal(got[:12], want[:12])
    np.testing.assert_array_equal(got[16 : 16 + 2 * agents], want[16 : 16 + 2 * agents])
    for entry in range(entries):
        at = 32 + 24 * entry
        np.testing.assert_array_equal(got[at : at + 5], want[at : at + 5])
        floats, expected = got[at : at + 24].view(np.float32), want[at : at + 24].view(np.float32)
        close(floats[5:7], expected[5:7].astype(np.float64), mode)
        np.testing.assert_array_equal(floats[8 : 8 + agents], expected[8 : 8 + agents])
        np.testing.assert_allclose(floats[16 : 16 + agents], expected[16 : 16 + agents], rtol=2e-6, atol=1e-12)
        assert floats[16 : 16 + agents].astype(np.float64).sum() == pytest.approx(float(floats[6]), rel=1e-5, abs=1e-5)
