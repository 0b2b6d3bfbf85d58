"""The norm of all gradients, and clipping: accuracy, sizes, what is not finite, pieces of more than one binding."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Chain, Device
from flux_vk.gpu.optimizer import MOST_PARTS, gradient_stats, norm_parts, pack_knobs
from flux_vk.gpu.reference import reference
from tests.gpu.harness import Guarded, run_kernel

pytestmark = pytest.mark.kernel


def parts_of(device: Device, g: np.ndarray, n: int, **spec: int) -> np.ndarray:
    return run_kernel(device, "grad_norm", {"g": g}, {"parts": ((n,), "f32")}, **spec)["parts"]


def stats_of(device: Device, g: np.ndarray, knobs: np.ndarray) -> np.ndarray:
    """Both kernels, as a chain."""
    guarded = Guarded(device)
    grads, stats = guarded.array("grads", g), guarded.empty("stats", (4,))
    gradient_stats(Chain(device), grads=grads, knobs=guarded.array("knobs", knobs), stats=stats).run()
    guarded.check()
    np.testing.assert_array_equal(grads.numpy().view(np.uint32), g.view(np.uint32))
    return stats.numpy()


@pytest.mark.parametrize("wg", [64, 128, 256])
@pytest.mark.parametrize(("size", "n"), [(0, 1), (1, 1), (3, 2), (4, 1), (7, 5), (1000, 3), (1001, 250), (65_539, 17)])
def test_parts(device: Device, rng: np.random.Generator, size: int, n: int, wg: int) -> None:
    """Every element is in one part; parts without elements are 0."""
    g = rng.standard_normal(size).astype(np.float32)
    np.testing.assert_allclose(parts_of(device, g, n, WG=wg), reference("grad_norm")(g, n=n), rtol=5e-7)


@pytest.mark.parametrize("kind", ["normal", "equal", "wide", "one large"])
def test_accuracy(device: Device, rng: np.random.Generator, kind: str) -> None:
    """Within 1e-6 of the true norm, also where plain sums drift: equal numbers round alike in every running sum."""
    n = 3_000_001
    g = np.full(n, 0.1234567, np.float32) if kind == "equal" else rng.standard_normal(n).astype(np.float32)
    if kind == "wide":
        g *= (10.0 ** rng.uniform(-8, 2, n)).astype(np.float32)
    if kind == "one large":
        g[12_345] = 1e4
    want = float(np.linalg.norm(g.astype(np.float64)))
    got = stats_of(device, g, pack_knobs(lr=1, inverse_count=1))
    assert abs(float(got[0]) / want - 1) < 5e-7
    assert got[1] == 1 and got[2] == 1 and got[3] == 0


@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1.0, 1e4])
def test_clipping(device: Device, rng: np.random.Generator, max_norm: float) -> None:
    g = rng.standard_normal(10_001).astype(np.float32)
    knobs = pack_knobs(lr=1, inverse_count=1 / 77, max_norm=max_norm)
    norm = np.linalg.norm(g.astype(np.float64)) / 77
    factor = min(1, max_norm / (norm + 1e-6)) if max_norm else 1
    got = stats_of(device, g, knobs)
    np.testing.assert_allclose(got, [norm, factor / 77, 1, 0], rtol=1e-6)
    parts = parts_of(device, g, 5)
    np.testing.assert_allclose(reference("grad_clip")(parts, knobs), got, rtol=1e-6)
    for wg in (64, 256):
        again = run_kernel(device, "grad_clip", {"parts": parts, "knobs": knobs}, {"stats": ((4,), "f32")}, WG=wg)
        np.testing.assert_allclose(again["stats"], got, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 4999, 10_000])
def test_what_is_not_finite_is_found(device: Device, rng: np.random.Generator, bad: float, place: int) -> None:
    g = rng.standard_normal(10_001).astype(np.float32)
    g[place] = bad
    got = stats_of(device, g, pack_knobs(lr=1, max_norm=1))
    assert not np.isfinite(got[0]) and not got[1:].any()


def test_no_gradient_at_all(device: Device) -> None:
    got = stats_of(device, np.zeros(4097, np.float32), pack_knobs(lr=1, inverse_count=0.5, max_norm=1))
    np.testing.assert_array_equal(got, np.array([0, 0.5, 1, 0], np.float32))


def test_the_norm_is_divided_by_as_pytorch_does_it(device: Device) -> None:
    """torch.nn.utils.clip_grad_norm_ adds 1e-6 to it."""
    g = np.zeros(7, np.float32)
    g[5] = 1e-6
    got = stats_of(device, g, pack_knobs(lr=1, max_norm=1e-6))
    np.testing.assert_allclose(got, [1e-6, 0.5, 1, 0], rtol=1e-5)


def test_parts_for_sizes() -> None:
    assert [norm_parts(n) for n in (0, 1, 4096, 4097, 500_000_000)] == [1, 1, 1, 2, MOST_PARTS]


def test_more_parts_than_one_grid_axis_holds(device: Device, rng: np.random.Generator) -> None:
    g = rng.standard_normal(4 * 66_000).astype(np.float32)
    got = parts_of(device, g, 66_000)
    np.testing.assert_allclose(got, reference("grad_norm")(g, n=66_000), rtol=1e-6)


def test_pieces(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """More gradients than one binding may span: several dispatches, one norm."""
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 1 << 24))
    g = rng.standard_normal(2 * (1 << 22) + 5).astype(np.float32)
    grads, stats = device.array(g), device.empty((4,))
    chain = Chain(device)
    gradient_stats(chain, grads=grads, knobs=device.array(pack_knobs(lr=1)), stats=stats)
    assert len(chain) == 4
    chain.run()
    assert abs(stats.numpy()[0] / np.linalg.norm(g.astype(np.float64)) - 1) < 5e-7
