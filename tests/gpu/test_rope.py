"""The rotary embedding kernel against its reference, and against plain float64 angles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Device
from flux_vk.gpu.reference import reference
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel


def _frequencies(base: float, n_rot: int) -> np.ndarray:
    return base ** (-np.arange(0, n_rot, 2, dtype=np.float64) / n_rot)


def _turns(frequencies: np.ndarray) -> np.ndarray:
    fraction = np.mod(frequencies / (2 * np.pi), 1.0)
    return (np.rint(fraction * 2**32).astype(np.uint64) & 0xFFFFFFFF).astype(np.uint32)


def _run(device: Device, x: np.ndarray, pos: np.ndarray, turns: np.ndarray, neox: int, **scalars: float) -> np.ndarray:
    inputs = {"x": x, "pos": pos, "turns": turns}
    return run_kernel(device, "rope", inputs, {}, NEOX=neox, **scalars)["x"]


@pytest.mark.parametrize("neox", [0, 1])
@pytest.mark.parametrize(
    ("heads", "head_dim", "n_rot", "offset", "extra"),
    [
        (3, 64, 64, 0, 0),
        (1, 2, 2, 0, 0),
        (2, 80, 20, 0, 0),
        (5, 128, 32, 8, 20),
        (2, 10, 6, 3, 5),
        (9, 256, 256, 4, 4),
    ],
)
def test_layouts(
    device: Device,
    rng: np.random.Generator,
    neox: int,
    heads: int,
    head_dim: int,
    n_rot: int,
    offset: int,
    extra: int,
) -> None:
    rows, stride = 5, offset + heads * head_dim + extra
    x = rng.standard_normal((rows, stride)).astype(np.float32)
    pos = rng.integers(0, 131072, rows, dtype=np.uint32)
    turns = _turns(_frequencies(1e4, n_rot))
    scalars: dict[str, Any] = {"stride": stride, "offset": offset, "heads": heads, "head_dim": head_dim}
    scalars |= {"n_rot": n_rot, "mscale": 1.25}
    got = _run(device, x, pos, turns, neox, **scalars)
    want = reference("rope")(x, pos, turns, neox=neox, **scalars)
    assert nmse(got, want) < 1e-12  # far below the contract's 1e-7: the angles are exact
    same = np.ones(stride, bool)
    for head in range(heads):
        same[offset + head * head_dim : offset + head * head_dim + n_rot] = False
    np.testing.assert_array_equal(got[:, same], x[:, same])


@pytest.mark.parametrize("wg", [64, 128])
@pytest.mark.parametrize("base", [1e4, 5e5])
def test_against_plain_angles(device: Device, rng: np.random.Generator, base: float, wg: int) -> None:
    n_rot = 128
    frequencies = _frequencies(base, n_rot)
    pos = np.array([0, 1, 2, 31, 1000, 4095, 32767, 65535, 100003, 131071], np.uint32)
    x = rng.standard_normal((len(pos), n_rot)).astype(np.float32)
    layout = {"stride": n_rot, "offset": 0, "heads": 1, "head_dim": n_rot, "n_rot": n_rot, "WG": wg}
    got = _run(device, x, pos, _turns(frequencies), 1, **layout)
    angle = pos[:, None].astype(np.float64) * frequencies[None, :]
    a, b = x[:, :64].astype(np.float64), x[:, 64:].astype(np.float64)
    cosine, sine = np.cos(angle), np.sin(angle)
    want = np.concatenate([a * cosine - b * sine, a * sine + b * cosine], axis=1)
    assert nmse(got, want) < 1e-7
    assert np.abs(got - want).max() < 1e-3
    np.testing.assert_array_equal(got[0], x[0])  # position 0 changes nothing


def test_sine_and_cosine_around_the_circle(device: Device, rng: np.random.Generator) -> None:
    fractions = rng.integers(0, 2**32, 65536, dtype=np.uint32)
    fractions[:9] = [0, 1, 2**29, 2**29 - 1, 2**30, 2**31, 2**31 - 1, 3 * 2**30, 2**32 - 1]
    x = np.zeros((len(fractions), 2), np.float32)
    x[:, 0] = 1  # rotated, it becomes (cosine, sine)
    turns = np.ones(1, np.uint32)
    got = _run(device, x, fractions, turns, 0, stride=2, offset=0, heads=1, head_dim=2, n_rot=2)
    angle = fractions.astype(np.float64) * (2 * np.pi / 2**32)
    assert np.abs(got[:, 0] - np.cos(angle)).max() < 1.2e-7
    assert np.abs(got[:, 1] - np.sin(angle)).max() < 1.2e-7


def test_refuses_heads_that_do_not_fit(device: Device) -> None:
    x, pos, turns = np.zeros((2, 64), np.float32), np.zeros(2, np.uint32), np.zeros(16, np.uint32)
    with pytest.raises(ArgumentError, match="rope: x has 64 elements along axis 1"):
        _run(device, x, pos, turns, 0, stride=64, offset=8, heads=2, head_dim=32, n_rot=32)
