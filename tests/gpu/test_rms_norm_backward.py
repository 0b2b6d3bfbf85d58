"""rms_norm_backward against float64, and its reference against finite differences of rms_norm."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference import reference
from tests.gpu.differences import gradient
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel
EPS = 1e-6
LIMIT = 1e-10


def _data(rng: np.random.Generator, rows: int, d: int) -> dict[str, np.ndarray]:
    given = {name: rng.standard_normal((rows, d)).astype(np.float32) for name in ("x", "g", "dx")}
    return {**given, "w": (1 + 0.3 * rng.standard_normal(d)).astype(np.float32)}


@pytest.mark.parametrize("accumulate", [0, 1])
@pytest.mark.parametrize(
    ("rows", "d", "wg"),
    [(0, 8, 128), (3, 1, 128), (1, 2, 64), (33, 7, 32), (3, 255, 128), (2, 256, 32), (130, 64, 64), (3, 1000, 128)],
)
def test_against_the_reference(
    device: Device, rng: np.random.Generator, rows: int, d: int, wg: int, accumulate: int
) -> None:
    given = _data(rng, rows, d)
    if not accumulate:
        given["dx"] = np.full((rows, d), np.nan, np.float32)
    got = run_kernel(device, "rms_norm_backward", given, {}, eps=EPS, accumulate=accumulate, WG=wg)["dx"]
    want = reference("rms_norm_backward")(**given, eps=EPS, accumulate=accumulate)
    # With one column the gradient is nearly nothing: the error is measured against what it is the difference of.
    scale = want if d > 2 else given["g"].astype(np.float64)
    assert ((got - want) ** 2).sum() <= LIMIT * (scale**2).sum()


@pytest.mark.parametrize("d", [1, 5, 16])
def test_the_gradient_is_that_of_the_forward(rng: np.random.Generator, d: int) -> None:
    given = _data(rng, 3, d)
    want = gradient(lambda x: float((reference("rms_norm")(x, given["w"], eps=0.1) * given["g"]).sum()), given["x"])
    assert nmse(reference("rms_norm_backward")(given["x"], given["w"], given["g"], eps=0.1), want) < 1e-13


def test_in_place_and_alone(device: Device, rng: np.random.Generator) -> None:
    """dx may be g; a row's bits do not depend on the other rows."""
    given = _data(rng, 9, 896)
    apart = run_kernel(device, "rms_norm_backward", given, {}, eps=EPS)["dx"]
    one = {name: a if name == "w" else a[4:5] for name, a in given.items()}
    np.testing.assert_array_equal(run_kernel(device, "rms_norm_backward", one, {}, eps=EPS)["dx"][0], apart[4])
    x, w, g = (device.array(given[name]) for name in ("x", "w", "g"))
    Chain(device).rms_norm_backward(x=x, w=w, g=g, dx=g, eps=EPS).run()
    np.testing.assert_array_equal(g.numpy(), apart)


def test_more_rows_than_one_grid_axis_holds(device: Device, rng: np.random.Generator) -> None:
    given = _data(rng, 70_001, 3)
    got = run_kernel(device, "rms_norm_backward", given, {}, eps=EPS, WG=32)["dx"]
    assert nmse(got, reference("rms_norm_backward")(**given, eps=EPS)) < LIMIT
