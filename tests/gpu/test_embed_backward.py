"""The gradient of an embedding table: sums by id in the order of rows, ids outside the table, windows."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference import reference
from tests.gpu.differences import gradient
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel


def run(device: Device, ids: np.ndarray, g: np.ndarray, dw: np.ndarray, **scalars: float) -> np.ndarray:
    return run_kernel(device, "embed_backward", {"ids": ids, "g": g, "dw": dw}, {}, **scalars)["dw"]


def random_case(
    rng: np.random.Generator, rows: int, vocab: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some ids lie outside the table."""
    ids = rng.integers(0, vocab + 2, rows).astype(np.uint32)
    ids[rng.random(rows) < 0.1] = 0xFFFFFFFF
    g, dw = (rng.standard_normal((n, width)).astype(np.float32) for n in (rows, vocab))
    return ids, g, dw


def test_finite_differences(device: Device, rng: np.random.Generator) -> None:
    ids = np.array([2, 0, 2, 1, 2], np.uint32)
    g, w = (rng.standard_normal((n, 3)).astype(np.float32) for n in (5, 4))
    want = gradient(lambda at: g * at[ids] * 3.5, w)
    zeros = np.zeros_like(w)
    np.testing.assert_allclose(reference("embed_backward")(ids, g, zeros, scale=3.5), want, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(run(device, ids, g, zeros, scale=3.5), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wg", [32, 64, 256])
@pytest.mark.parametrize(("rows", "vocab", "width"), [(1, 1, 1), (40, 3, 33), (300, 70, 260), (257, 2, 512)])
def test_sizes(device: Device, rng: np.random.Generator, rows: int, vocab: int, width: int, wg: int) -> None:
    ids, g, dw = random_case(rng, rows, vocab, width)
    got = run(device, ids, g, dw, scale=0.5, WG=wg)
    assert nmse(got, reference("embed_backward")(ids, g, dw, scale=0.5)) < 1e-12
    untouched = np.setdiff1d(np.arange(vocab), ids)
    np.testing.assert_array_equal(got[untouched], dw[untouched])
    np.testing.assert_array_equal(run(device, ids, g, dw, scale=0.5, WG=wg), got)


def test_one_id_for_all_rows(device: Device, rng: np.random.Generator) -> None:
    g = rng.standard_normal((2000, 5)).astype(np.float32)
    got = run(device, np.zeros(2000, np.uint32), g, np.zeros((1, 5), np.float32))
    total = np.zeros(5, np.float32)
    for row in g:  # the order that is promised
        total += row
    np.testing.assert_array_equal(got[0], total)


def test_no_rows(device: Device) -> None:
    buffers = {"ids": device.empty((0,), "u32"), "g": device.empty((0, 4)), "dw": device.empty((3, 4))}
    assert len(Chain(device).dispatch("embed_backward", **buffers)) == 0


def test_windows(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table larger than one binding may span: every window adds to its own rows."""
    ids, g, dw = random_case(rng, 50, 200, 64)
    whole = run(device, ids, g, dw)
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 64 * 4 * 70))
    buffers = {"ids": device.array(ids), "g": device.array(g), "dw": device.array(dw)}
    chain = Chain(device).dispatch("embed_backward", **buffers)
    assert len(chain) > 1
    chain.run()
    np.testing.assert_array_equal(buffers["dw"].numpy(), whole)
