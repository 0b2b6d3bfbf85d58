"""Softmax of rows against its float64 reference: lengths, huge logits, masks, scale."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Device
from flux_vk.gpu.reference import reference
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel


def _run(device: Device, x: np.ndarray, **scalars: float) -> np.ndarray:
    return run_kernel(device, "softmax", {"x": x}, {"y": (x.shape, "f32")}, **scalars)["y"]


@pytest.mark.parametrize("d", [0, 1, 2, 7, 255, 256, 257, 1000, 65537, 151936])
def test_lengths(device: Device, rng: np.random.Generator, d: int) -> None:
    x = (5 * rng.standard_normal((1 if d > 1000 else 3, d))).astype(np.float32)
    got = _run(device, x)
    assert nmse(got, reference("softmax")(x)) < 1e-6
    if d:
        np.testing.assert_allclose(got.sum(axis=-1, dtype=np.float64), 1, rtol=1e-5)


@pytest.mark.parametrize("wg", [64, 128, 256])
@pytest.mark.parametrize("scale", [0.125, 30.0])
def test_scale(device: Device, rng: np.random.Generator, wg: int, scale: float) -> None:
    x = rng.standard_normal((4, 300)).astype(np.float32)
    assert nmse(_run(device, x, scale=scale, WG=wg), reference("softmax")(x, scale=scale)) < 1e-6


@pytest.mark.parametrize("d", [256, 257])
def test_extremes(device: Device, rng: np.random.Generator, d: int) -> None:
    x = rng.standard_normal((9, d)).astype(np.float32)
    x[0] = 0
    x[1] *= np.float32(1e37)
    x[2] = 3.4e38
    x[3, ::2] = -np.inf
    x[4] = -np.inf
    x[5] = -np.inf
    x[5, d - 1] = -3e38
    x[6] = -3.4e38
    x[7] = 1.2e-38
    x[8, 0], x[8, 1] = 3.4e38, -3.4e38
    got = _run(device, x)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, reference("softmax")(x), rtol=1e-4, atol=1e-7)
    assert (got[3, ::2] == 0).all()
    assert (got[4] == 0).all()
    assert got[5, d - 1] == 1 and (got[5, :-1] == 0).all()


@pytest.mark.parametrize("d", [256, 257])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_a_number_stays_in_its_row(device: Device, rng: np.random.Generator, d: int, bad: float) -> None:
    x = rng.standard_normal((3, d)).astype(np.float32)
    x[1, d - 1] = bad
    got = _run(device, x)
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[[0, 2]]).all()


def test_a_row_does_not_depend_on_the_others(device: Device, rng: np.random.Generator) -> None:
    x = rng.standard_normal((32, 1000)).astype(np.float32)
    everything = _run(device, x)
    np.testing.assert_array_equal(_run(device, x[11:12]), everything[11:12])


def test_more_rows_than_one_grid_axis_holds(device: Device, rng: np.random.Generator) -> None:
    x = rng.standard_normal((66_000, 5)).astype(np.float32)
    np.testing.assert_allclose(_run(device, x, WG=64), reference("softmax")(x), rtol=1e-5)
