"""Quantisation into the device layout: exact where the format defines the rounding, close to the optimum elsewhere."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest

from flux_vk.formats import layout
from flux_vk.formats.blocks import dequantize
from flux_vk.gpu import Chain, Device
from tests.gpu.harness import Guarded

pytestmark = pytest.mark.kernel

# Root mean square error over the root mean square of the weights, as llama.cpp's quantiser was measured to leave it
# (ggml_quantize_chunk without importance matrix, 32 x 1024 weights).
GGML_ERROR = {
    ("q4_k", "normal"): 0.0710, ("q4_k", "laplace"): 0.0841, ("q4_k", "uniform"): 0.0544,
    ("q6_k", "normal"): 0.0177, ("q6_k", "laplace"): 0.0216, ("q6_k", "uniform"): 0.0133,
}  # fmt: skip


def run(device: Device, x: np.ndarray, dtype: str, **spec: int) -> np.ndarray:
    """GGUF bytes of x; fails where the padding between planes is not zero."""
    guarded = Guarded(device)
    y = guarded.place("y", layout.packed_nbytes(dtype, x.shape), dtype, x.shape, None)
    y = replace(y, row_bytes=layout.row_stride(dtype, x.shape[1]))
    Chain(device).dispatch("quantize", x=guarded.array("x", x), y=y, **spec).run()
    guarded.check()
    packed = y.numpy().reshape(len(x), -1)
    raw = np.asarray(layout.unpack(packed, dtype, x.shape)).reshape(-1)
    np.testing.assert_array_equal(packed, layout.pack(raw, dtype, x.shape))
    return raw


def draw(rng: np.random.Generator, law: str, shape: tuple[int, int]) -> np.ndarray:
    draws = {
        "normal": lambda: rng.standard_normal(shape),
        "laplace": lambda: rng.laplace(size=shape),
        "uniform": lambda: rng.uniform(-1, 1, shape),
    }
    return (0.02 * draws[law]()).astype(np.float32)


def relative_error(y: np.ndarray, x: np.ndarray) -> float:
    return float(np.sqrt(((y.astype(np.float64) - x) ** 2).mean() / (x.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
@pytest.mark.parametrize("wg", [16, 32, 64])
def test_defined_rounding(device: Device, rng: np.random.Generator, dtype: str, wg: int) -> None:
    """The bytes of gguf.quants.quantize, over magnitudes that make float16 scales subnormal, and blocks of zeros."""
    for n, k in ((1, 32), (3, 96), (7, 544), (20, 1056)):
        x = rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-6, 3, (n, 1))
        x[0, :32] = 0
        x[n - 1, k - 32 :] = np.round(4 * x[n - 1, k - 32 :]) / 4  # ties
        x = x.astype(np.float32)
        want = gguf.quants.quantize(x, gguf.GGMLQuantizationType[dtype.upper()]).reshape(-1)
        differ = np.mean(run(device, x, dtype, WG=wg) != want)
        # Vulkan lets a GPU's division be 2.5 units in the last place off: a tie may then fall to the other side.
        assert differ == 0 if device.kind == "cpu" else differ < 1e-3


@pytest.mark.parametrize(("dtype", "law"), GGML_ERROR)
def test_search(device: Device, rng: np.random.Generator, dtype: str, law: str) -> None:
    """No worse than llama.cpp's search, and than rounding with exact, unrounded scales between least and greatest."""
    shape = (32, 1024)
    x = draw(rng, law, shape)
    error = relative_error(dequantize(run(device, x, dtype), dtype, shape), x)
    assert error < 1.02 * GGML_ERROR[dtype, law]
    if dtype == "q4_k":
        blocks = x.astype(np.float64).reshape(-1, 32)
        low = np.minimum(blocks.min(axis=1, keepdims=True), 0)
        step = (blocks.max(axis=1, keepdims=True) - low) / 15
    else:
        blocks = x.astype(np.float64).reshape(-1, 16)
        low = np.zeros((len(blocks), 1))
        step = np.abs(blocks).max(axis=1, keepdims=True) / 31
    plain = low + step * np.round((blocks - low) / step)
    assert error < relative_error(plain.reshape(shape), x)


@pytest.mark.parametrize("dtype", ["q4_k", "q6_k"])
@pytest.mark.parametrize("wg", [16, 64])
def test_every_weight_is_near(device: Device, rng: np.random.Generator, dtype: str, wg: int) -> None:
    """Odd shapes, sub-blocks of unlike size: no weight is further off than two steps of its group of 256."""
    for n, k in ((1, 256), (5, 768)):
        x = draw(rng, "normal", (n, k)).reshape(-1, 32) * 10.0 ** rng.uniform(-1, 0, (n * k // 32, 1))
        x = x.astype(np.float32).reshape(n, k)
        y = dequantize(run(device, x, dtype, WG=wg), dtype, (n, k))
        groups = x.reshape(-1, 256)
        step = (groups.max(axis=1) - groups.min(axis=1)) / (15 if dtype == "q4_k" else 63)
        assert (np.abs(y - x).reshape(-1, 256) < 2 * step[:, None]).all()


@pytest.mark.parametrize("dtype", ["q4_k", "q6_k"])
def test_special_blocks(device: Device, dtype: str) -> None:
    """Zeros stay zeros; constants, single weights and levels that the format has come back almost as they were."""
    x = np.zeros((5, 256), np.float32)
    x[1] = -0.75
    x[2] = 0.75
    x[3, 17] = 1.0
    x[4] = np.resize(np.arange(16, dtype=np.float32) / 8 - 1, 256)
    y = dequantize(run(device, x, dtype), dtype, x.shape)
    assert not y[0].any()
    np.testing.assert_allclose(y, x, atol=0.01)
