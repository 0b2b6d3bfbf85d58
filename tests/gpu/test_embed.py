"""The embedding look-up: exact rows of every weight type, scaled; ids outside the table; windows."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.formats.blocks import RUNNABLE, runnable
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference.quant import embed as reference
from tests.gpu.harness import Guarded
from tests.gpu.weights import random_raw, values

pytestmark = pytest.mark.kernel


def run(
    device: Device, ids: np.ndarray, raw: np.ndarray, dtype: str, shape: tuple[int, int], scale: float = 1.0
) -> np.ndarray:
    """The kernel's rows, on poisoned ground."""
    guarded = Guarded(device)
    y = guarded.empty("y", (len(ids), shape[1]))
    w = guarded.weight("w", raw, dtype, shape)
    Chain(device).dispatch("embed", ids=guarded.array("ids", ids.astype(np.uint32)), w=w, y=y, scale=scale).run()
    guarded.check()
    return y.numpy()


@pytest.mark.parametrize("dtype", RUNNABLE)
def test_rows(device: Device, rng: np.random.Generator, dtype: str) -> None:
    unit = runnable(dtype).weights
    shape = (17, 3 * unit if unit > 1 else 45)
    raw = random_raw(rng, dtype, shape)
    for r, scale in ((1, 1.0), (9, 29.933259963989258)):
        ids = rng.integers(0, 17, r)
        want = reference(ids, values(raw, dtype, shape), scale=scale)
        np.testing.assert_array_equal(run(device, ids, raw, dtype, shape, scale), want)


def test_ids_outside_leave_rows_alone(device: Device, rng: np.random.Generator) -> None:
    raw = random_raw(rng, "q8_0", (5, 64))
    ids = np.array([4, 5, 0, 2**32 - 1, 2], np.uint32)
    got = run(device, ids, raw, "q8_0", (5, 64))
    np.testing.assert_array_equal(got[[0, 2, 4]], reference(ids[[0, 2, 4]], values(raw, "q8_0", (5, 64))))
    assert np.isnan(got[[1, 3]]).all()


def test_no_rows(device: Device, rng: np.random.Generator) -> None:
    w = device.weight(random_raw(rng, "q8_0", (5, 64)), "q8_0", (5, 64))
    assert len(Chain(device).dispatch("embed", ids=device.empty((0,), "u32"), w=w, y=device.empty((0, 64)))) == 0


@pytest.mark.parametrize("dtype", ["q6_k", "f16"])
def test_windows(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """A table larger than one binding may span: every window fills in its own rows."""
    shape = (60, 256)
    raw = random_raw(rng, dtype, shape)
    ids = rng.integers(0, 60, 12)
    w = device.weight(raw, dtype, shape)
    y = device.filled((12, 256), "f32", 0xFF)
    monkeypatch.setattr(type(device), "max_range", property(lambda self: y.nbytes))
    chain = Chain(device).dispatch("embed", ids=device.array(ids.astype(np.uint32)), w=w, y=y)
    assert len(chain) > 1
    chain.run()
    np.testing.assert_array_equal(y.numpy(), reference(ids, values(raw, dtype, shape)))
