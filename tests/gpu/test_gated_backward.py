"""Gradients of SwiGLU and GeGLU in place: finite differences, the reference, sizes, extremes."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Device
from flux_vk.gpu.reference import reference
from tests.gpu.differences import gradient
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel
KERNELS = ["swiglu_backward", "geglu_backward"]


def run(device: Device, kernel: str, x: np.ndarray, g: np.ndarray, **spec: int) -> np.ndarray:
    return run_kernel(device, kernel, {"x": x, "g": g}, {}, **spec)["x"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_finite_differences(device: Device, rng: np.random.Generator, kernel: str) -> None:
    x = (2 * rng.standard_normal((3, 14))).astype(np.float32)
    g = rng.standard_normal((3, 7)).astype(np.float32)
    forward = reference(kernel.removesuffix("_backward"))
    want = gradient(lambda at: g * forward(at), x)
    np.testing.assert_allclose(reference(kernel)(x, g), want, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(run(device, kernel, x, g), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "f"), [(0, 4), (1, 1), (3, 2), (2, 255), (3, 256), (2, 257), (1, 4864), (70_000, 3)])
def test_sizes(device: Device, rng: np.random.Generator, kernel: str, rows: int, f: int) -> None:
    x = (4 * rng.standard_normal((rows, 2 * f))).astype(np.float32)
    g = rng.standard_normal((rows, f)).astype(np.float32)
    assert nmse(run(device, kernel, x, g), reference(kernel)(x, g)) < 1e-11


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("wg", [128, 256])
def test_workgroup_sizes(device: Device, rng: np.random.Generator, kernel: str, wg: int) -> None:
    x = (4 * rng.standard_normal((3, 2 * 1030))).astype(np.float32)
    g = rng.standard_normal((3, 1030)).astype(np.float32)
    assert nmse(run(device, kernel, x, g, WG=wg), reference(kernel)(x, g)) < 1e-11
    x, g = x[:, :2048], g[:, :1024]
    assert nmse(run(device, kernel, x, g, WG=wg), reference(kernel)(x, g)) < 1e-11


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("f", [28, 27])
def test_extremes(device: Device, kernel: str, f: int) -> None:
    """Large gates: slope 1 or 0, nothing overflows; NaN stays where it is."""
    gate = np.array([0, -0.0, 1.2e-38, 16, -16, 20, -20, 88, -88, 104, -104, 1e4, -1e4, 3.4e38, -3.4e38], np.float32)
    gate = np.resize(gate, f)
    x = np.concatenate([gate, np.full(f, 0.5, np.float32)])[None, :]
    g = np.ones((1, f), np.float32)
    np.testing.assert_allclose(run(device, kernel, x, g), reference(kernel)(x, g), rtol=1e-5, atol=1e-6)
    x[0, 3] = np.nan
    got = run(device, kernel, x, g)
    assert np.isnan(got[0, [3, f + 3]]).all() and np.isfinite(np.delete(got, [3, f + 3])).all()
