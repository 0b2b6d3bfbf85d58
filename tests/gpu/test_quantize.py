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

LAWS = ("normal", "laplace", "uniform")

# Root mean square error over the root mean square of the weights that llama.cpp leaves: ggml_quantize_chunk without
# importance matrix (llama.cpp b11549, in the wheel xllamacpp 2026.10.11549) on the 32 x 1024 weights of `draw`.
GGML_ERROR = {
    "q2_k": (0.29591, 0.34327, 0.23337), "q3_k": (0.15152, 0.17782, 0.12568), "q4_k": (0.07104, 0.08457, 0.05456),
    "q5_k": (0.03624, 0.04292, 0.02778), "q6_k": (0.01770, 0.02172, 0.01355), "q8_0": (0.00534, 0.00674, 0.00376),
    "q4_0": (0.08619, 0.10600, 0.06534), "q4_1": (0.07799, 0.09138, 0.06077), "q5_0": (0.04245, 0.05328, 0.03131),
    "q5_1": (0.03771, 0.04440, 0.02947),
}  # fmt: skip
SEARCHED = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")


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


@pytest.mark.parametrize(
    ("dtype", "wg"), [("q8_0", 16), ("q8_0", 64), ("q4_0", 32), ("q4_1", 32), ("q5_0", 64), ("q5_1", 16)]
)
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


@pytest.mark.parametrize("dtype", GGML_ERROR)
def test_error_is_not_above_that_of_llama_cpp(device: Device, dtype: str) -> None:
    """Equal to it where the format defines the rounding (but for the last digit printed), below it elsewhere."""
    for law, want in zip(LAWS, GGML_ERROR[dtype], strict=True):
        x = draw(np.random.default_rng(260), law, (32, 1024))
        error = relative_error(dequantize(run(device, x, dtype), dtype, x.shape), x)
        assert error < want if dtype in SEARCHED else abs(error - want) < 6e-6, law


@pytest.mark.parametrize("dtype", SEARCHED)
def test_search(device: Device, rng: np.random.Generator, dtype: str) -> None:
    """No worse than rounding with exact, unrounded scales between least and greatest."""
    for law in LAWS:
        x = draw(rng, law, (32, 1024))
        error = relative_error(dequantize(run(device, x, dtype), dtype, x.shape), x)
        width, top = {"q2_k": (16, 3), "q3_k": (16, 3), "q4_k": (32, 15), "q5_k": (32, 31), "q6_k": (16, 31)}[dtype]
        blocks = x.astype(np.float64).reshape(-1, width)
        if dtype in ("q3_k", "q6_k"):
            low = np.zeros((len(blocks), 1))
            step = np.abs(blocks).max(axis=1, keepdims=True) / top
        else:
            low = np.minimum(blocks.min(axis=1, keepdims=True), 0)
            step = (blocks.max(axis=1, keepdims=True) - low) / top
        plain = low + step * np.round((blocks - low) / step)
        assert error < relative_error(plain.reshape(x.shape), x), law


@pytest.mark.parametrize(("dtype", "wg"), [("q4_k", 16), ("q6_k", 64), ("q3_k", 32)])
def test_every_weight_is_near(device: Device, rng: np.random.Generator, dtype: str, wg: int) -> None:
    """Odd shapes, sub-blocks of unlike size: no weight is further off than two steps of its group of 256."""
    for n, k in ((1, 256), (5, 768)):
        x = draw(rng, "normal", (n, k)).reshape(-1, 32) * 10.0 ** rng.uniform(-1, 0, (n * k // 32, 1))
        x = x.astype(np.float32).reshape(n, k)
        y = dequantize(run(device, x, dtype, WG=wg), dtype, (n, k))
        groups = x.reshape(-1, 256)
        step = (groups.max(axis=1) - groups.min(axis=1)) / {"q4_k": 15, "q6_k": 63, "q3_k": 7}[dtype]
        assert (np.abs(y - x).reshape(-1, 256) < 2 * step[:, None]).all()


@pytest.mark.parametrize("dtype", SEARCHED)
def test_special_blocks(device: Device, dtype: str) -> None:
    """Zeros stay zeros; constants, single weights and levels that the format has come back almost as they were."""
    x = np.zeros((5, 256), np.float32)
    x[1] = -0.75
    x[2] = 0.75
    x[3, 17] = 1.0
    levels = {"q2_k": 4, "q3_k": 8}.get(dtype, 16)
    x[4] = np.resize(np.arange(levels, dtype=np.float32) / levels * 2 - 1, 256)
    y = dequantize(run(device, x, dtype), dtype, x.shape)
    assert not y[0].any()
    np.testing.assert_allclose(y, x, atol=0.01)
