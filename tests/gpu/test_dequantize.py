"""Stand-alone dequantisation: equal to the format's definition to the last bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from flux_vk.formats.blocks import RUNNABLE, dequantize, runnable
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference.quant import dequantize as reference
from tests.gpu.harness import Guarded
from tests.gpu.weights import random_raw

pytestmark = pytest.mark.kernel


def run(device: Device, raw: np.ndarray, dtype: str, shape: tuple[int, int], **spec: int) -> np.ndarray:
    """The kernel's float32 [N, K]."""
    guarded = Guarded(device)
    y = guarded.empty("y", shape)
    Chain(device).dispatch("dequantize", w=guarded.weight("w", raw, dtype, shape), y=y, **spec).run()
    guarded.check()
    return y.numpy()


@pytest.mark.parametrize("dtype", RUNNABLE)
@pytest.mark.parametrize("wg", [8, 64])
def test_bits(device: Device, rng: np.random.Generator, dtype: str, wg: int) -> None:
    unit = runnable(dtype).weights
    for n, k in ((1, unit), (7, 3 * unit), (33, 5 * unit if unit > 1 else 257)):
        raw = random_raw(rng, dtype, (n, k))
        got = run(device, raw, dtype, (n, k), WG=wg)
        want = gguf.quants.dequantize(raw.reshape(n, -1), gguf.GGMLQuantizationType[dtype.upper()]).reshape(n, k)
        np.testing.assert_array_equal(got.view(np.uint32), want.astype(np.float32).view(np.uint32))
        np.testing.assert_array_equal(got, reference(dequantize(raw, dtype, (n, k))))


@pytest.mark.parametrize("dtype", [t for t in RUNNABLE if runnable(t).weights > 1])
def test_zero_scales(device: Device, dtype: str) -> None:
    """Blocks of zero bytes are zeros, but for iq4's and q6_k's stored values, which zero scales cancel."""
    kind = runnable(dtype)
    raw = np.zeros(2 * kind.nbytes, np.uint8)
    assert not run(device, raw, dtype, (2, kind.weights)).any()


def test_windows(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix larger than one binding may span, in pieces (rows of one float, which padding makes longer than y's)."""
    raw = random_raw(rng, "f32", (100, 1))
    w, y = device.weight(raw, "f32", (100, 1)), device.filled((100, 1), "f32", 0xFF)
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 640))
    chain = Chain(device).dispatch("dequantize", w=w, y=y)
    assert len(chain) > 1
    chain.run()
    np.testing.assert_array_equal(y.numpy().reshape(-1), raw.view(np.float32))
