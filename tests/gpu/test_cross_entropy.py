"""Cross entropy and its gradient in place: finite differences, vocabularies, caps, ignored labels, extremes."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Device
from flux_vk.gpu.reference import reference
from tests.gpu.differences import gradient
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel
IGNORED = 0xFFFFFFFF


def run(device: Device, x: np.ndarray, labels: np.ndarray, **scalars: float) -> tuple[np.ndarray, np.ndarray]:
    """(logits afterwards, loss)."""
    inputs = {"logits": x, "labels": labels.astype(np.uint32)}
    got = run_kernel(device, "cross_entropy", inputs, {"loss": ((len(x),), "f32")}, **scalars)
    return got["logits"], got["loss"]


def random_rows(rng: np.random.Generator, rows: int, size: int, spread: float = 5) -> tuple[np.ndarray, np.ndarray]:
    x = (spread * rng.standard_normal((rows, size))).astype(np.float32)
    labels = rng.integers(0, size, rows).astype(np.uint32)
    if rows > 2:
        labels[1] = IGNORED
    return x, labels


@pytest.mark.parametrize("cap", [0.0, 4.0])
def test_finite_differences(device: Device, rng: np.random.Generator, cap: float) -> None:
    x, labels = random_rows(rng, 4, 11)
    want = gradient(lambda at: reference("cross_entropy")(at, labels, softcap=cap)[1], x)
    np.testing.assert_allclose(reference("cross_entropy")(x, labels, softcap=cap)[0], want, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(run(device, x, labels, softcap=cap)[0], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cap", [0.0, 30.0])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 255, 256, 257, 1000, 65_537, 151_936, 262_144])
def test_vocabularies(device: Device, rng: np.random.Generator, size: int, cap: float) -> None:
    """Rows that begin at every place of a vector; with GRAD=0 the loss is the same and the logits stay."""
    x, labels = random_rows(rng, 5 if size < 65_537 else 3, size)
    labels[-1] = size - 1
    want, losses = reference("cross_entropy")(x, labels, softcap=cap)
    got, loss = run(device, x, labels, softcap=cap)
    np.testing.assert_allclose(loss, losses, rtol=2e-6, atol=2e-6)
    assert nmse(got, want) < 1e-11
    assert loss[1] == 0 and not got[1].any()
    if not cap:
        assert np.abs(got.sum(axis=-1, dtype=np.float64)).max() < 2e-6
    same, again = run(device, x, labels, softcap=cap, GRAD=0)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(again, loss)


@pytest.mark.parametrize("wg", [256, 512])
def test_workgroup_sizes(device: Device, rng: np.random.Generator, wg: int) -> None:
    for size in (7, 3001, 10_000):
        x, labels = random_rows(rng, 3, size)
        got, loss = run(device, x, labels, WG=wg)
        want, losses = reference("cross_entropy")(x, labels)
        np.testing.assert_allclose(loss, losses, rtol=2e-6, atol=2e-6)
        assert nmse(got, want) < 1e-11


@pytest.mark.parametrize("size", [2, 1000, 151_936])
@pytest.mark.parametrize("value", [0.0, -7.25, 1e30])
def test_uniform_logits_give_ln_v(device: Device, size: int, value: float) -> None:
    """An untrained model's loss, to the last place or the one before."""
    got, loss = run(device, np.full((1, size), value, np.float32), np.array([size // 2]))
    np.testing.assert_array_max_ulp(loss, np.log(np.array([size], np.float64)).astype(np.float32), 1)
    np.testing.assert_allclose(np.delete(got, size // 2), 1 / size, rtol=1e-6)
    np.testing.assert_allclose(got[0, size // 2], 1 / size - 1, rtol=1e-6)


@pytest.mark.parametrize("size", [256, 257])
@pytest.mark.parametrize("cap", [0.0, 50.0])
def test_huge_logits_and_masks(device: Device, rng: np.random.Generator, size: int, cap: float) -> None:
    x, labels = random_rows(rng, 6, size)
    labels[:] = 1
    x[0] *= np.float32(1e30)
    x[1, 0], x[1, 1] = 3.4e38, -1e30
    x[2, ::2] = -np.inf
    x[3] = -np.inf
    x[3, 1] = -1e5
    x[4] = 3.3e38
    x[5] = -1e4
    got, loss = run(device, x, labels, softcap=cap)
    want, losses = reference("cross_entropy")(x, labels, softcap=cap)
    np.testing.assert_allclose(loss, losses, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    if not cap:
        assert not got[2, ::2].any() and loss[3] == 0


@pytest.mark.parametrize("size", [256, 257])
def test_what_is_broken_is_seen(device: Device, rng: np.random.Generator, size: int) -> None:
    """NaN, +Inf, nothing but -Inf, or a label that is no token: loss and gradient of that row are NaN, of no other."""
    x, labels = random_rows(rng, 9, size)
    labels[[1, 8]] = 3, IGNORED
    x[0, 5], x[2, size - 1] = np.nan, np.inf
    x[3, 0] = np.array(0xFFC00000, np.uint32).view(np.float32)  # a negative NaN
    x[4] = -np.inf
    labels[5], labels[6] = size, IGNORED - 1
    x[8] = np.nan  # not counted, whatever it holds
    for cap in (0.0, 30.0):
        got, loss = run(device, x, labels, softcap=cap)
        broken = [0, 2, 3, 5, 6] + ([] if cap else [4])
        assert np.isnan(got[broken]).all() and np.isnan(loss[broken]).all()
        assert np.isfinite(got[[1, 7, 8]]).all() and np.isfinite(loss[[1, 7]]).all() and loss[8] == 0
        assert not got[8].any()


def test_a_row_does_not_depend_on_the_others(device: Device, rng: np.random.Generator) -> None:
    x, labels = random_rows(rng, 40, 1003)
    got, loss = run(device, x, labels)
    for rows in (slice(0, 32), slice(32, 40)):
        part = run(device, x[rows], labels[rows])
        np.testing.assert_array_equal(part[0], got[rows])
        np.testing.assert_array_equal(part[1], loss[rows])


def test_more_rows_than_one_grid_axis_holds(device: Device, rng: np.random.Generator) -> None:
    x, labels = random_rows(rng, 66_000, 3)
    got, loss = run(device, x, labels)
    want, losses = reference("cross_entropy")(x, labels)
    np.testing.assert_allclose(loss, losses, rtol=1e-5, atol=1e-6)
    assert nmse(got, want) < 1e-11
