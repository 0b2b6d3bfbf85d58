"""rms_norm, add_rms_norm and layer_norm against their float64 references."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Device
from flux_vk.gpu.reference import reference
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel
SIZES = [1, 2, 7, 255, 256, 257, 1000, 4096]
EPS = 1e-6


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("wg", [64, 128, 256])
def test_rms_norm(device: Device, rng: np.random.Generator, d: int, wg: int) -> None:
    rows = 3
    x, w = _normal(rng, rows, d), _normal(rng, d)
    got = run_kernel(device, "rms_norm", {"x": x, "w": w}, {"y": ((rows, d), "f32")}, eps=EPS, WG=wg)
    assert nmse(got["y"], reference("rms_norm")(x, w, eps=EPS)) < 1e-7


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("wg", [64, 128, 256])
def test_add_rms_norm(device: Device, rng: np.random.Generator, d: int, wg: int) -> None:
    rows = 3
    x, r, w = _normal(rng, rows, d), _normal(rng, rows, d), _normal(rng, d)
    out = {"s": ((rows, d), "f32"), "y": ((rows, d), "f32")}
    got = run_kernel(device, "add_rms_norm", {"x": x, "r": r, "w": w}, out, eps=EPS, WG=wg)
    np.testing.assert_array_equal(got["s"], x + r)
    assert nmse(got["y"], reference("add_rms_norm")(x, r, w, eps=EPS)[1]) < 1e-7


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("wg", [64, 128, 256])
def test_layer_norm(device: Device, rng: np.random.Generator, d: int, bias: bool, wg: int) -> None:
    rows = 3
    x, w = _normal(rng, rows, d) + np.float32(100), _normal(rng, d)
    inputs = {"x": x, "w": w}
    if bias:
        inputs["b"] = _normal(rng, d)
    got = run_kernel(device, "layer_norm", inputs, {"y": ((rows, d), "f32")}, eps=EPS, WG=wg)
    want = reference("layer_norm")(x, w, inputs.get("b"), eps=EPS)
    assert nmse(got["y"], want) < (1e-7 if d > 1 else 1e-12)


@pytest.mark.parametrize("kernel", ["rms_norm", "layer_norm"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1.2e-38, 1e15])
def test_constant_rows(device: Device, kernel: str, value: float) -> None:
    x, w = np.full((2, 256), value, np.float32), np.ones(256, np.float32)
    got = run_kernel(device, kernel, {"x": x, "w": w}, {"y": ((2, 256), "f32")}, eps=EPS)
    np.testing.assert_allclose(got["y"], reference(kernel)(x, w, eps=EPS), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("kernel", ["rms_norm", "layer_norm"])
def test_special_values_stay_in_their_row(device: Device, rng: np.random.Generator, kernel: str) -> None:
    x, w = _normal(rng, 4, 257), _normal(rng, 257)
    clean = run_kernel(device, kernel, {"x": x, "w": w}, {"y": ((4, 257), "f32")}, eps=EPS)["y"]
    x[1, 5], x[2, 256] = np.nan, np.inf
    got = run_kernel(device, kernel, {"x": x, "w": w}, {"y": ((4, 257), "f32")}, eps=EPS)["y"]
    np.testing.assert_array_equal(got[[0, 3]], clean[[0, 3]])
    assert np.isnan(got[1]).all()
    assert np.isnan(got[2, 256])


@pytest.mark.parametrize("d", [257, 896])
def test_a_row_does_not_depend_on_the_others(device: Device, rng: np.random.Generator, d: int) -> None:
    x, r, w = _normal(rng, 32, d), _normal(rng, 32, d), _normal(rng, d)

    def run(rows: slice) -> np.ndarray:
        out = {"s": (x[rows].shape, "f32"), "y": (x[rows].shape, "f32")}
        got = run_kernel(device, "add_rms_norm", {"x": x[rows], "r": r[rows], "w": w}, out, eps=EPS)
        return got["y"]

    everything = run(slice(None))
    np.testing.assert_array_equal(run(slice(7, 8)), everything[7:8])
    np.testing.assert_array_equal(run(slice(20, 32)), everything[20:32])


def test_no_rows(device: Device) -> None:
    x, w = np.zeros((0, 8), np.float32), np.ones(8, np.float32)
    got = run_kernel(device, "rms_norm", {"x": x, "w": w}, {"y": ((0, 8), "f32")}, eps=EPS)
    assert got["y"].shape == (0, 8)


def test_more_rows_than_one_grid_axis_holds(device: Device, rng: np.random.Generator) -> None:
    x, w = _normal(rng, 70_001, 3), _normal(rng, 3)
    got = run_kernel(device, "rms_norm", {"x": x, "w": w}, {"y": (x.shape, "f32")}, eps=EPS, WG=64)["y"]
    np.testing.assert_allclose(got, reference("rms_norm")(x, w, eps=EPS), rtol=1e-5)
