"""The forward product of training: every weight type, strides, bias and residual, any number of rows, other devices."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.formats.blocks import RUNNABLE, runnable
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.matmul_train import matmul_train
from flux_vk.gpu.reference.gemm import matmul_train as reference
from tests.gpu.harness import Guarded, nmse
from tests.gpu.weights import random_raw, values

pytestmark = pytest.mark.kernel
LIMIT = 1e-10


def run(
    device: Device,
    raw: np.ndarray,
    dtype: str,
    shape: tuple[int, int],
    x: np.ndarray,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    stride: int | None = None,
    offset: int = 0,
    name: str = "matmul_train",
) -> np.ndarray:
    """One guarded product, by the kernel of that name; y is poisoned, or holds the residual."""
    guarded = Guarded(device)
    y = guarded.array("y", residual) if residual is not None else guarded.empty("y", (len(x), stride or shape[0]))
    chain = Chain(device)
    matmul_train(
        chain, w=guarded.weight("w", raw, dtype, shape), x=guarded.array("x", x), y=y,
        bias=None if bias is None else guarded.array("bias", bias), residual=None if residual is None else y,
        y_stride=stride, y_offset=offset,
    )  # fmt: skip
    assert {s.name.split("--")[0] for s in chain.steps} == {name}
    chain.run()
    guarded.check()
    return y.numpy()


@pytest.fixture
def lanes(device: Device) -> None:
    """Skips where this device takes the general product."""
    if device.family != "cpu" or not device.features >= {"texel_buffers", "subgroup_shuffle"}:
        pytest.skip("this device has no texel buffers or shuffles, or is no CPU")


@pytest.mark.parametrize("dtype", RUNNABLE)
def test_every_type(device: Device, rng: np.random.Generator, lanes: None, dtype: str) -> None:
    """Odd sizes, x and y of wider rows, bias, and the residual in y itself; nothing beside the columns is touched."""
    unit = runnable(dtype).weights
    n, k, r, stride, offset = 44, {256: 768, 32: 352, 1: 332}[unit], 37, 64, 12
    raw = random_raw(rng, dtype, (n, k))
    x = np.full((r, k + 8), np.nan, np.float32)
    x[:, :k] = rng.standard_normal((r, k))
    bias = rng.standard_normal(n).astype(np.float32)
    residual = rng.standard_normal((r, stride)).astype(np.float32)
    y = run(device, raw, dtype, (n, k), x, bias, residual, stride, offset)
    want = reference(values(raw, dtype, (n, k)), x, bias, residual, y_offset=offset)
    assert nmse(y[:, offset : offset + n], want) < LIMIT
    np.testing.assert_array_equal(np.delete(y, np.s_[offset : offset + n], 1), np.delete(residual, np.s_[12:56], 1))


def test_batch_invariance(device: Device, rng: np.random.Generator, lanes: None) -> None:
    """A row's result has the same bits in any batch, whatever the tile."""
    shape = (100, 64)
    raw = random_raw(rng, "q8_0", shape)
    x = rng.standard_normal((70, 64)).astype(np.float32)
    whole = run(device, raw, "q8_0", shape, x)
    assert nmse(whole, reference(values(raw, "q8_0", shape), x)) < LIMIT
    for first, stop in ((0, 1), (3, 12), (17, 50)):
        got = run(device, raw, "q8_0", shape, x[first:stop])
        np.testing.assert_array_equal(got.view(np.uint32), whole[first:stop].view(np.uint32))


def test_larger_than_a_binding(
    device: Device, rng: np.random.Generator, lanes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix that one binding cannot hold."""
    shape = (300, 64)
    raw = random_raw(rng, "q8_0", shape)
    x, bias = rng.standard_normal((6, 64)).astype(np.float32), rng.standard_normal(300).astype(np.float32)
    whole = run(device, raw, "q8_0", shape, x, bias)
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 8192))
    np.testing.assert_array_equal(run(device, raw, "q8_0", shape, x, bias), whole)


def test_elsewhere(device: Device, rng: np.random.Generator, lanes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, of weights or activations, of no whole groups of four, and GPUs: the product that there is for all."""
    raw = random_raw(rng, "q8_0", (7, 64))
    x = rng.standard_normal((9, 64)).astype(np.float32)
    want = reference(values(raw, "q8_0", (7, 64)), x)
    assert nmse(run(device, raw, "q8_0", (7, 64), x, name="matmul"), want) < LIMIT
    even, wide = random_raw(rng, "f32", (8, 64)), np.pad(x, ((0, 0), (0, 2)), constant_values=np.nan)
    got = run(device, even, "f32", (8, 64), wide, name="matmul")
    assert nmse(got, reference(values(even, "f32", (8, 64)), x)) < LIMIT
    monkeypatch.setenv("FLUX_VK_FAMILY", "gpu")
    monkeypatch.setenv("FLUX_VK_PREFILL", "f32")
    assert nmse(run(device, raw, "q8_0", (7, 64), x, name="matmul_tile"), want) < LIMIT
