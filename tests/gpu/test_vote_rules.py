"""What a vote must be, whatever the numbers: tables by hand, and identities of the kernels flux_tally and flux_vote."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference.flux_votes import BORDA, MAJORITY, PROB, SUM
from tests.gpu.swarm_data import MOST, pack_swarm

pytestmark = pytest.mark.kernel
Array = npt.NDArray[Any]
MODES = [SUM, PROB, BORDA, MAJORITY]


def vote(
    device: Device,
    score: Any,
    weight: Any,
    mode: int,
    ids: Any = None,
    places: int | None = None,
    room: int | None = None,
) -> Array:
    """Consensus by candidate of one row: score [A][n], weight [A]; candidate i is token ids[i]. places and room: the
    chain's, larger than needed."""
    table = np.asarray(score, np.float32)
    agents, n = table.shape
    ids = np.arange(n) if ids is None else np.asarray(ids)
    places, room = places or agents, room or n
    vocab = max(int(ids.max()) + 1, room)
    cand = np.zeros((1, room, 4), np.uint32)
    cand[0, :n, 0] = ids
    scores = np.full((1, places, room), np.nan, np.float32)
    scores[0, :agents, :n] = table
    weights = np.full((1, MOST), np.nan, np.float32)
    weights[0, :agents] = weight
    given = {
        "row_info": device.array(np.array([[n, 0, 0, 0, 1, 0, 0, 0]], np.uint32)), "cand": device.array(cand),
        "score": device.array(scores), "swarm": device.array(pack_swarm(agents, mode)[None]),
    }  # fmt: skip
    tally = device.filled((1, places, 4), "u32", 0xFF)
    consensus = device.array(np.full((1, vocab), -np.inf, np.float32))
    chain = Chain(device)
    chain.flux_tally(**given, tally=tally)
    trust = device.array(np.ones((1, MOST), np.float32))
    chain.flux_vote(**given, tally=tally, weight=device.array(weights), trust=trust, consensus=consensus)
    chain.run()
    found = consensus.numpy()[0]
    assert np.isneginf(np.delete(found, ids)).all(), "something was written beside the candidates"
    return np.asarray(found[ids])


TABLE = [[2.0, 1.0, 0.0, -1.0], [0.0, 3.0, 3.0, 1.0], [-1.0, -1.0, 4.0, 0.0]]
WEIGHT = [0.5, 0.25, 0.25]


def test_sum_by_hand(device: Device) -> None:
    assert vote(device, TABLE, WEIGHT, SUM).tolist() == [0.75, 1.0, 1.75, -0.25]


def test_borda_by_hand(device: Device) -> None:
    """Lower candidates: agent 0 has 3 2 1 0, agent 1 has 0 2 2 1, agent 2 has 0 0 3 2."""
    assert vote(device, TABLE, WEIGHT, BORDA).tolist() == [1.5, 1.5, 1.75, 0.75]


def test_majority_by_hand(device: Device) -> None:
    """Votes: agent 0 for token 0, agent 1 for token 1 (the lower id of two), agent 2 for token 2."""
    got = vote(device, TABLE, WEIGHT, MAJORITY)
    np.testing.assert_allclose(got, np.log([0.5, 0.25, 0.25, 1e-300]) * [1, 1, 1, np.inf], rtol=1e-6)
    swapped = vote(device, TABLE, WEIGHT, MAJORITY, ids=[0, 2, 1, 3])
    np.testing.assert_allclose(np.exp(swapped), [0.5, 0, 0.5, 0], rtol=1e-6)


def test_prob_by_hand(device: Device) -> None:
    table = np.log([[8, 4, 2, 2], [1, 1, 1, 1], [1, 5, 1, 1]])
    want = 0.5 * np.array([8, 4, 2, 2]) / 16 + 0.25 * 0.25 + 0.25 * np.array([1, 5, 1, 1]) / 8
    np.testing.assert_allclose(np.exp(vote(device, table, WEIGHT, PROB).astype(np.float64)), want, rtol=1e-6)


def random_table(rng: np.random.Generator, agents: int = 5, n: int = 200) -> tuple[Array, Array]:
    score = (2 * rng.standard_normal((agents, n))).astype(np.float32)
    return score, rng.uniform(0.1, 1, agents).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_scaling_all_weights_keeps_the_winner(device: Device, rng: np.random.Generator, mode: int) -> None:
    score, weight = random_table(rng)
    before = vote(device, score, weight, mode)
    for scale in (0.125, 1024.0):  # powers of two: exact
        after = vote(device, score, weight * np.float32(scale), mode)
        assert after.argmax() == before.argmax()
        np.testing.assert_array_equal(after, before * (scale if mode == SUM else 1))


@pytest.mark.parametrize("mode", MODES)
def test_order_of_agents_does_not_matter(device: Device, rng: np.random.Generator, mode: int) -> None:
    """The winner is the same; values to rounding, since sums go in the order of the agents."""
    score, weight = random_table(rng)
    order = rng.permutation(len(weight))
    before, after = vote(device, score, weight, mode), vote(device, score[order], weight[order], mode)
    assert after.argmax() == before.argmax()
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_identical_agents_are_one(device: Device, rng: np.random.Generator, mode: int) -> None:
    score, _ = random_table(rng, 1)
    one = vote(device, score, [1.0], mode)
    same = vote(device, np.repeat(score, 4, axis=0), [0.5, 0.125, 0.25, 0.125], mode)
    np.testing.assert_allclose(same, one, rtol=1e-6, atol=1e-6)
    assert one.argmax() == score[0].argmax()


@pytest.mark.parametrize("mode", MODES)
def test_weight_zero_removes_an_agent(device: Device, rng: np.random.Generator, mode: int) -> None:
    score, weight = random_table(rng)
    weight[2] = 0
    kept = [0, 1, 3, 4]
    want = vote(device, score[kept], weight[kept], mode)
    np.testing.assert_array_equal(vote(device, score, weight, mode), want)


@pytest.mark.parametrize("mode", MODES)
def test_room_in_the_chain_changes_no_bit(device: Device, rng: np.random.Generator, mode: int) -> None:
    score, weight = random_table(rng, 3, 100)
    ids = rng.permutation(1000)[:100]
    want = vote(device, score, weight, mode, ids)
    for places, room in ((4, 100), (8, 256), (3, 1000)):
        np.testing.assert_array_equal(vote(device, score, weight, mode, ids, places, room), want)


def test_sum_is_linear(device: Device, rng: np.random.Generator) -> None:
    """In scores, and in weights."""
    score, weight = random_table(rng)
    other, more = random_table(rng)
    total = vote(device, score, weight, SUM) + vote(device, other, weight, SUM)
    np.testing.assert_allclose(vote(device, score + other, weight, SUM), total, rtol=1e-4, atol=1e-5)
    total = vote(device, score, weight, SUM) + vote(device, score, more, SUM)
    np.testing.assert_allclose(vote(device, score, weight + more, SUM), total, rtol=1e-4, atol=1e-5)


def test_mean_of_probabilities_is_a_distribution(device: Device, rng: np.random.Generator) -> None:
    score, weight = random_table(rng)
    got = np.exp(vote(device, score, weight, PROB).astype(np.float64))
    assert got.sum() == pytest.approx(1, abs=1e-5)
    shares = np.exp(vote(device, score, weight, MAJORITY).astype(np.float64))
    assert shares.sum() == pytest.approx(1, abs=1e-5) and (shares > 0).sum() <= 5
    points = vote(device, score, weight, BORDA)
    assert points.sum() == pytest.approx(200 * 199 / 2, rel=1e-5), "without ties every agent gives 0 to n - 1"
