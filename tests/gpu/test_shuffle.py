"""The shuffle: always a permutation, the same bits in kernel and reference, no favourites among places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Device
from flux_vk.gpu.reference.shuffle import MOST, permutation, sides
from tests.gpu.harness import run_kernel

pytestmark = pytest.mark.kernel
SEED = 0xFEDCBA9876543210


def run(device: Device, n: int, seed: int, epoch: int, **scalars: int) -> np.ndarray:
    words = {"seed_lo": seed & 0xFFFFFFFF, "seed_hi": seed >> 32}
    return run_kernel(device, "shuffle", {}, {"order": ((n,), "u32")}, **words, epoch=epoch, **scalars)["order"]


@given(n=st.integers(0, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**32 - 1))
def test_always_a_permutation(n: int, seed: int, epoch: int) -> None:
    np.testing.assert_array_equal(np.sort(permutation(n, seed, epoch)), np.arange(n))


def test_every_small_length_is_a_permutation() -> None:
    for n in range(300):
        np.testing.assert_array_equal(np.sort(permutation(n, SEED, 1)), np.arange(n))


@given(n=st.integers(1, MOST))
def test_a_walk_is_bounded(n: int) -> None:
    """Pairs that are no element are at most sqrt(n) + 1; if all of them were passed, the loop stayed below 65,535."""
    a, b = sides(n)
    assert n <= a * b <= n + a and a * a >= n > (a - 1) * (a - 1) and a * b - n < 46_342


@pytest.mark.parametrize("wg", [64, 256])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 7, 255, 256, 257, 4095, 4096, 4097, 100_003])
def test_as_the_reference(device: Device, n: int, wg: int) -> None:
    for seed, epoch in ((0, 0), (SEED, 3)):
        np.testing.assert_array_equal(run(device, n, seed, epoch, WG=wg), permutation(n, seed, epoch))


@pytest.mark.parametrize("total", [10_000, 2**31 - 1, 2**31])
def test_parts_of_a_long_one(device: Device, total: int) -> None:
    for first in (0, 4567, total - 999):
        want = permutation(total, SEED, 8, first, 999)
        np.testing.assert_array_equal(run(device, 999, SEED, 8, first=first, total=total), want)
        assert len(np.unique(want)) == 999 and want.max() < total


def test_a_million(device: Device) -> None:
    got = run(device, 3_000_000, SEED, 1)
    np.testing.assert_array_equal(np.sort(got), np.arange(3_000_000))
    assert abs(np.corrcoef(got, np.arange(len(got)))[0, 1]) < 5 / np.sqrt(len(got))


def test_seeds_and_epochs_differ() -> None:
    orders = [permutation(1000, s, e) for s, e in ((1, 0), (2, 0), (1 << 32, 0), (1, 1), (1, 1 << 31))]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).sum() < 12  # by chance one place in a thousand; 12 has a probability of 1e-9


@pytest.mark.parametrize("n", [5, 12, 100])
def test_every_place_is_as_likely(n: int) -> None:
    """Over 4,000 seeds each element is in each place as often as chance has it (chi-squared, seeds fixed)."""
    trials = 4000
    orders = np.stack([permutation(n, seed, 0) for seed in range(trials)])
    for place in (0, n // 2, n - 1):
        counts = np.bincount(orders[:, place], minlength=n)
        statistic = ((counts - trials / n) ** 2).sum() / (trials / n)
        assert statistic < (n - 1) + 6 * np.sqrt(2 * (n - 1)), place


@pytest.mark.parametrize("n", [-1, MOST + 1])
def test_lengths_that_cannot_be(n: int) -> None:
    with pytest.raises(ArgumentError, match="expected 0 to 2\\^31"):
        permutation(n, 0, 0, 0, 1)
