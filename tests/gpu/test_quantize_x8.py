"""Activations as int8 blocks: the reference's words, exact sums, norms, odd sizes, and values that are not numbers."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.matmul_dot import quantize_x8, row_words
from flux_vk.gpu.reference.dot import LEAST, unpack_x8, values_x8
from flux_vk.gpu.reference.dot import quantize_x8 as reference
from tests.gpu.harness import Guarded, run_kernel

pytestmark = pytest.mark.kernel


def run(device: Device, x: np.ndarray, k: int, wg: int = 64, norm: np.ndarray | None = None) -> np.ndarray:
    inputs = {"x": x} if norm is None else {"x": x, "norm": norm}
    outputs = {"x8": ((len(x), row_words(k)), "u32")}
    return run_kernel(device, "quantize_x8", inputs, outputs, K=k, eps=1e-5, WG=wg)["x8"]


def check(words: np.ndarray, x: np.ndarray, k: int, norm: np.ndarray | None = None) -> None:
    """Scales to the last bits, quants to a step where a value lies between two, and sums that are the quants' own."""
    want = reference(x, norm, eps=1e-5, k=k)
    assert words.shape == want.shape
    d, q, sums = unpack_x8(words, k)
    want_d, want_q, _ = unpack_x8(want, k)
    np.testing.assert_allclose(d, want_d, rtol=1e-6)
    steps = np.abs(q.astype(int) - want_q)
    assert steps.max(initial=0) <= 1 and (steps > 0).mean() < 1e-3 + 2 / max(q.size, 1)
    np.testing.assert_array_equal(sums, q.reshape(*q.shape[:2], 2, 16).sum(axis=3))
    nb = -(-k // 32)
    assert not q.reshape(len(x), -1)[:, k:].any()
    assert not words[:, 10 * nb :].any(), "the padding is zero"
    exact = x[:, :k].astype(np.float64)
    if norm is not None:
        exact = exact * norm / np.sqrt((exact**2).mean(axis=1, keepdims=True) + 1e-5)
    half_step = np.repeat(d.astype(np.float64) / 2, 32, axis=1)[:, :k]
    assert (np.abs(values_x8(words, k) - exact) <= half_step * 1.0002 + 1e-5 * np.abs(exact) + LEAST).all()


@pytest.mark.parametrize("wg", [32, 64, 256])
@pytest.mark.parametrize("k", [1, 7, 32, 255, 256, 257, 1056])
def test_sizes(device: Device, rng: np.random.Generator, k: int, wg: int) -> None:
    for rows, width in ((0, k), (1, k), (7, k), (3, k + 8), (2, k + 3)):
        x = rng.standard_normal((rows, width)) * 10.0 ** rng.uniform(-6, 3, (rows, 1))
        norm = rng.standard_normal(k).astype(np.float32)
        x = x.astype(np.float32)
        if rows == 0:
            assert run(device, x, k, wg).shape == (0, row_words(k))
            continue
        check(run(device, x, k, wg), x, k)
        check(run(device, x, k, wg, norm), x, k, norm)


def test_more_rows_than_one_axis_of_the_grid(device: Device, rng: np.random.Generator) -> None:
    x = rng.standard_normal((70_001, 4)).astype(np.float32)
    check(run(device, x, 4), x, 4)


def test_rows_do_not_depend_on_their_neighbours(device: Device, rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 288)).astype(np.float32)
    norm = rng.standard_normal(288).astype(np.float32)
    whole = run(device, x, 288, 256, norm)
    for i in range(9):
        np.testing.assert_array_equal(run(device, x[i : i + 1], 288, 256, norm)[0], whole[i])


def test_special_values(device: Device) -> None:
    """Zeros and what is below the smallest scale become zero; an infinity or NaN makes its block's scale NaN."""
    x = np.ones((6, 64), np.float32)
    x[0] = 0
    x[1, :32] = 1e-37
    x[2, 3] = np.inf
    x[3, 40] = np.nan
    x[4, :32] = np.float32(3.4e38)
    x[5, 1] = -np.inf
    d, q, _ = unpack_x8(run(device, x, 64), 64)
    assert not q[0].any() and not d[0].any() and not q[1, 0].any() and d[1, 0] == 0
    assert (q[1, 1] == 127).all() and (q[4] == 127).all() and np.isfinite(d[4]).all()
    assert [np.isnan(d[i]).tolist() for i in (2, 3, 5)] == [[True, False], [False, True], [True, False]]
    assert (q[2, 1] == 127).all()


def test_the_call(device: Device, rng: np.random.Generator) -> None:
    """Into scratch of the chain, from rows wider than K; shapes that do not fit are refused."""
    x = rng.standard_normal((2, 40)).astype(np.float32)
    chain = Chain(device)
    x8 = quantize_x8(chain, x=device.array(x), k=32)
    assert x8.shape == (2, row_words(32)) and x8.dtype == "u32" and len(chain) == 1
    guarded = Guarded(device)
    into = guarded.empty("x8", (2, row_words(32)), "u32")
    quantize_x8(chain := Chain(device), x=device.array(x), k=32, x8=into)
    chain.run()
    check(into.numpy(), x, 32)
    with pytest.raises(ArgumentError, match="x is"):
        quantize_x8(Chain(device), x=device.array(x), k=41)
    with pytest.raises(ArgumentError, match="norm has 40"):
        quantize_x8(Chain(device), x=device.array(x), k=32, norm=device.empty((40,)))
