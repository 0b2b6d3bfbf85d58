"""Dropout: the reference's bits, statistics, masks that agree where they must and do not where they must not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference import reference
from flux_vk.gpu.reference.sampling import philox4x32_10
from flux_vk.gpu.reference.shuffle import philox
from tests.gpu.harness import run_kernel

pytestmark = pytest.mark.kernel
COUNTER = np.array([0x89ABCDEF, 0x01234567, 5, 0], np.uint32)


def run(device: Device, x: np.ndarray, y: np.ndarray, counter: np.ndarray = COUNTER, **scalars: float) -> np.ndarray:
    return run_kernel(device, "dropout", {"x": x, "y": y, "counter": counter}, {}, **scalars)["y"]


def mask(device: Device, counter: list[int], site: int, rate: float, shape: tuple[int, int]) -> np.ndarray:
    ones = np.ones(shape, np.float32)
    return run(device, ones, np.full_like(ones, np.nan), np.array(counter, np.uint32), site=site, rate=rate) > 0


@pytest.mark.parametrize("wg", [64, 256])
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (1, 3), (2, 2), (3, 85), (3, 256), (7, 257), (70_000, 5)])
def test_as_the_reference(device: Device, rng: np.random.Generator, shape: tuple[int, int], wg: int) -> None:
    x, y = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    for rate, accumulate in itertools.product((0.1, 0.5), (0, 1)):
        scalars = {"site": 3, "rate": rate, "accumulate": accumulate}
        want = reference("dropout")(x, y, COUNTER, **scalars)
        np.testing.assert_array_equal(run(device, x, y, WG=wg, **scalars), want)


def test_generator() -> None:
    """The words are those of the sampler's philox, word by word."""
    words = philox((np.arange(5), 7, [0xFFFFFFFF] * 5, 0), 0xFEDCBA9876543210)
    for i in range(5):
        assert tuple(words[i]) == philox4x32_10((i, 7, 0xFFFFFFFF, 0), (0x76543210, 0xFEDCBA98))


@pytest.mark.parametrize("size", [1000, 1003])
def test_rate_0_copies_every_bit(device: Device, rng: np.random.Generator, size: int) -> None:
    x = rng.integers(0, 2**32, (1, size), dtype=np.uint32).view(np.float32)
    got = run(device, x, np.zeros_like(x), site=1, rate=0)
    np.testing.assert_array_equal(got.view(np.uint32), x.view(np.uint32))


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_statistics(device: Device, rate: float) -> None:
    """Of 10^6 elements as many are kept as the rate says, within 5 deviations; neighbours are independent."""
    n = 1_000_000
    kept = mask(device, [1, 2, 3, 0], 4, rate, (1000, 1000)).reshape(-1)
    deviation = np.sqrt(rate * (1 - rate) / n)
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation
    for lag in (1, 2, 4, 1000):
        assert abs(np.corrcoef(kept[:-lag], kept[lag:])[0, 1]) < 5 / np.sqrt(n)


def test_forward_and_backward_agree(device: Device, rng: np.random.Generator) -> None:
    """The same call on another tensor, at another time, adding or not, has the same mask."""
    x, g = (np.abs(rng.standard_normal((33, 65))).astype(np.float32) + 1 for _ in range(2))
    forward = run(device, x, np.zeros_like(x), site=9, rate=0.3)
    backward = run(device, g, np.zeros_like(g), site=9, rate=0.3, accumulate=1)
    np.testing.assert_array_equal(forward != 0, backward != 0)
    kept = forward != 0
    np.testing.assert_array_equal(backward[kept], g[kept] * np.float32(1 / 0.7))


def test_masks_are_independent(device: Device) -> None:
    """Another seed (either word), micro-batch or site: two masks agree as often as chance has it."""
    shape, n = (400, 250), 100_000
    base = mask(device, [1, 2, 3, 0], 4, 0.5, shape)
    np.testing.assert_array_equal(base, mask(device, [1, 2, 3, 0], 4, 0.5, shape))
    for counter, site in (([2, 2, 3, 0], 4), ([1, 3, 3, 0], 4), ([1, 2, 4, 0], 4), ([1, 2, 3, 0], 5)):
        agree = (mask(device, counter, site, 0.5, shape) == base).mean()
        assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(n), (counter, site)


def test_the_share_kept_is_exact(device: Device) -> None:
    """A word is kept from ceil(rate * 2^32) on: rates around one element's word say which side it is on."""
    word = int(philox((np.zeros(1), 5, 3, 0), 0x0123456789ABCDEF)[0, 0])
    one = np.ones((1, 1), np.float32)
    assert run(device, one, one, site=3, rate=word / 2**32)[0, 0] > 0
    assert run(device, one, one, site=3, rate=(word + 1) / 2**32)[0, 0] == 0


@pytest.mark.parametrize("rate", [1.0, 1.5, -0.1])
def test_rates_outside_0_to_1_are_refused(device: Device, rate: float) -> None:
    buffers = {"x": device.empty((1, 4)), "y": device.empty((1, 4)), "counter": device.array(COUNTER)}
    with pytest.raises(ArgumentError, match="dropout: threshold is"):
        Chain(device).dispatch("dropout", **buffers, site=0, rate=rate)
