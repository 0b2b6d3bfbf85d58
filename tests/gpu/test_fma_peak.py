"""The yardstick fma_peak: every number of chains and workgroup, awkward sizes, and every step counts."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Device, kernels
from flux_vk.gpu.reference import reference
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel
LIMIT = 1e-7


@pytest.mark.parametrize("n", [0, 1, 7, 255, 256, 257])
@pytest.mark.parametrize("acc", [4, 8, 12, 16])
def test_sizes(device: Device, rng: np.random.Generator, n: int, acc: int) -> None:
    x = rng.uniform(0.5, 1.5, n).astype(np.float32)
    for wg in (8, 64, 256):
        for rounds in (0, 1, 5):
            scalars = {"rounds": rounds, "m": 0.99, "c": 0.01}
            got = run_kernel(device, "fma_peak", {"x": x}, {"y": ((n,), "f32")}, **scalars, ACC=acc, WG=wg)["y"]
            assert nmse(got, reference("fma_peak")(x, **scalars, acc=acc)) <= LIMIT, (wg, rounds)


def test_second_axis_of_the_grid(device: Device, rng: np.random.Generator) -> None:
    x = rng.uniform(0.5, 1.5, 8 * 65535 + 9).astype(np.float32)
    scalars = {"rounds": 1, "m": 0.5, "c": 1.0}
    got = run_kernel(device, "fma_peak", {"x": x}, {"y": ((len(x),), "f32")}, **scalars, ACC=4, WG=8)["y"]
    assert nmse(got, reference("fma_peak")(x, **scalars, acc=4)) <= LIMIT


def test_reference_and_that_every_step_counts() -> None:
    """The closed form is the loop's; one round less is told apart at the benchmark's own settings."""
    x = np.array([0.75], np.float32)
    a = np.array([0.75, 1.75, 2.75, 3.75])
    m, c = float(np.float32(0.99)), float(np.float32(0.01))
    for _ in range(48):
        a = a * m + c
    want = reference("fma_peak")(x, rounds=3, m=0.99, c=0.01, acc=4)
    assert want[0] == pytest.approx(a.sum(), rel=1e-12)
    assert reference("fma_peak")(x, rounds=2, m=1.0, c=0.5, acc=4)[0] == pytest.approx(4 * 0.75 + 6 + 4 * 0.5 * 32)
    steps = 16 * 128
    own = {"m": 1 - 1 / steps, "c": 0.5 / steps, "acc": 8}
    assert nmse(reference("fma_peak")(x, rounds=127, **own), reference("fma_peak")(x, rounds=128, **own)) > LIMIT
    assert kernels.contract("fma_peak").nmse == LIMIT
