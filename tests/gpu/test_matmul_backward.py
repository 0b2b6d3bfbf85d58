"""The gradient of a product by its input: every weight type, windows, strides, and the derivative by differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.formats.blocks import RUNNABLE, runnable
from flux_vk.gpu import Chain, Device
from flux_vk.gpu import matmul_backward as front
from flux_vk.gpu.matmul_backward import matmul_backward
from flux_vk.gpu.reference.gemm import matmul_backward as reference
from flux_vk.gpu.reference.quant import matmul as forward
from tests.gpu.harness import Guarded, nmse
from tests.gpu.weights import random_raw, values

pytestmark = pytest.mark.kernel
LIMIT = 1e-10


def run(
    device: Device,
    raw: np.ndarray,
    dtype: str,
    shape: tuple[int, int],
    g: np.ndarray,
    base: np.ndarray | None = None,
    g_offset: int = 0,
) -> np.ndarray:
    """One guarded gradient."""
    guarded = Guarded(device)
    r, k = len(g), shape[1]
    dx = guarded.empty("dx", (r, k)) if base is None else guarded.array("dx", base)
    matmul_backward(
        Chain(device), w=guarded.weight("w", raw, dtype, shape), g=guarded.array("g", g), dx=dx, g_offset=g_offset,
        accumulate=base is not None,
    ).run()  # fmt: skip
    guarded.check()
    return dx.numpy()


@pytest.mark.parametrize("dtype", RUNNABLE)
def test_every_type(device: Device, rng: np.random.Generator, dtype: str) -> None:
    """A gradient in the middle of wider rows, added to what there is; what stands beside it is NaN.

    44 weight rows and 37 tokens are no multiples of what a workgroup takes; floats end within a sub-block.
    """
    unit = runnable(dtype).weights
    n, k, r, offset = 44, {256: 512, 32: 288, 1: 300}[unit], 37, 8
    raw = random_raw(rng, dtype, (n, k))
    g = np.full((r, n + 12), np.nan, np.float32)
    g[:, offset : offset + n] = rng.standard_normal((r, n))
    base = rng.standard_normal((r, k)).astype(np.float32)
    got = run(device, raw, dtype, (n, k), g, base, offset)
    assert nmse(got, reference(values(raw, dtype, (n, k)), g, base, g_offset=offset)) < LIMIT


def test_tokens_and_rows(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of tokens, and weights in several dispatches; a row's bits depend on neither tokens nor neighbours."""
    monkeypatch.setattr(front, "ROWS", 32)
    shape = (100, 64)
    raw = random_raw(rng, "q8_0", shape)
    g = rng.standard_normal((70, 100)).astype(np.float32)
    whole = run(device, raw, "q8_0", shape, g)
    assert nmse(whole, reference(values(raw, "q8_0", shape), g)) < LIMIT
    for first, stop in ((0, 1), (3, 12), (17, 50)):
        got = run(device, raw, "q8_0", shape, g[first:stop])
        np.testing.assert_array_equal(got.view(np.uint32), whole[first:stop].view(np.uint32))


def test_larger_than_a_binding(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix that one binding cannot hold."""
    shape = (300, 64)
    raw = random_raw(rng, "q5_0", shape)
    g = rng.standard_normal((2, 300)).astype(np.float32)
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 8192))
    assert nmse(run(device, raw, "q5_0", shape, g), reference(values(raw, "q5_0", shape), g)) < LIMIT


@pytest.mark.parametrize("family", ["cpu", "gpu"])
@pytest.mark.parametrize("shape", [(50, 33), (17, 64), (1, 1)])
def test_windows(
    device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, family: str, shape: tuple[int, int]
) -> None:
    """The way of GPUs and of odd sizes: several windows, the last one short, on top of what was there and not."""
    monkeypatch.setenv("FLUX_VK_FAMILY", family)
    monkeypatch.setattr(front, "WINDOW", {family: 16 * shape[1] * 4})
    raw = rng.uniform(0.5, 2, shape).astype(np.float32).view(np.uint8).reshape(-1)
    for r, base in ((5, None), (33, rng.uniform(0.5, 2, (33, shape[1])).astype(np.float32))):
        g = rng.uniform(0.5, 2, (r, shape[0])).astype(np.float32)
        got = run(device, raw, "f32", shape, g, base)
        assert nmse(got, reference(values(raw, "f32", shape), g, base)) < LIMIT


def test_an_offset_of_no_whole_groups(device: Device, rng: np.random.Generator) -> None:
    """All but g's first column is a multiple of four: the long way."""
    raw = random_raw(rng, "q8_0", (8, 64))
    g = rng.standard_normal((5, 12)).astype(np.float32)
    want = reference(values(raw, "q8_0", (8, 64)), g, g_offset=2)
    assert nmse(run(device, raw, "q8_0", (8, 64), g, g_offset=2), want) < LIMIT


def test_gpu_family(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantised weights as a GPU takes them."""
    monkeypatch.setenv("FLUX_VK_FAMILY", "gpu")
    raw = random_raw(rng, "q4_k", (40, 256))
    g = rng.standard_normal((9, 40)).astype(np.float32)
    assert nmse(run(device, raw, "q4_k", (40, 256), g), reference(values(raw, "q4_k", (40, 256)), g)) < LIMIT


def test_differences(device: Device, rng: np.random.Generator) -> None:
    """Against central differences of the forward product, in float64."""
    shape, r, step = (8, 32), 3, 1e-4
    raw = random_raw(rng, "q8_0", shape)
    w = values(raw, "q8_0", shape)
    x, g = rng.standard_normal((r, 32)), rng.standard_normal((r, 8)).astype(np.float32)

    def loss(at: np.ndarray) -> float:
        return float((forward(w, at) * g).sum())

    want = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        d = np.zeros_like(x)
        d[i] = step
        want[i] = (loss(x + d) - loss(x - d)) / (2 * step)
    assert nmse(run(device, raw, "q8_0", shape, g), want) < 1e-10


def test_arguments(device: Device) -> None:
    """What does not fit is named, with what was wanted."""
    w, g, dx = (device.zeros(s, "f32") for s in ((6, 8), (4, 6), (4, 8)))
    buffers: dict[str, Any] = {"w": w, "g": g, "dx": dx}
    for change, message in (
        ({"dx": g}, r"dx is .* expected f32 \[R, 8\]"),
        ({"g_offset": 1}, r"rows of 6, expected room for \[4, 1 \+ 6\]"),
        ({"g": dx}, "overlaps"),
        ({"w": g.reshape(24)}, "expected two dimensions"),
        ({"g": g.cast("u32", (4, 6))}, "expected f32"),
    ):
        with pytest.raises(ArgumentError, match=message):
            matmul_backward(Chain(device), **(buffers | change))
