"""Tuned tiles are used from the size on that they were measured for, and change no bits."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Chain, Device
from flux_vk.gpu.matmul_tile import MARKS, Tile, as_values, matmul_tile, tuning_key
from flux_vk.gpu.steps import Dispatch
from flux_vk.gpu.tune_tile import candidates, tune_tiles
from flux_vk.gpu.tuner import Choice, tuner_of
from tests.gpu.weights import random_raw


def tile_of(chain: Chain) -> tuple[int, ...]:
    step = chain.steps[0]
    assert isinstance(step, Dispatch)
    named = dict(zip((s.name for s in step.contract.spec), step.spec, strict=True))
    return tuple(named[name] for name in ("BM", "BN", "TM", "TN", "AHEAD"))


def test_tuned_tiles(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_VK_PREFILL", "f32")
    n, k, r = 96, 64, MARKS[0]
    w = device.weight(random_raw(rng, "q8_0", (n, k)), "q8_0", (n, k))
    x, y = device.array(rng.standard_normal((r, k), np.float32)), device.empty((r, n))
    tuner = tuner_of(device)
    assert tuner is not None
    matmul_tile(before := Chain(device), w=w, x=x, y=y)
    before.run()
    want = y.numpy()
    key = tuning_key("q8_0.f32", n, k, r)
    other = next(v for v in candidates(device, "q8_0.f32", n, r)[::-1] if tuple(v.values()) != tile_of(before))
    try:
        tuner._choices[key] = Choice(other, 1.0, 2.0)
        matmul_tile(chain := Chain(device), w=w, x=x, y=y)
        assert tile_of(chain) == tuple(other.values())
        chain.run()
        assert (y.numpy() == want).all()
        matmul_tile(few := Chain(device), w=w, x=x.rows(0, 8), y=y.rows(0, 8))
        assert tile_of(few)[1] == 8, "measured for more tokens than these"
        tuner._choices[key] = Choice(as_values(Tile(7, 7, 7, 7)), 1.0, 2.0)
        matmul_tile(odd := Chain(device), w=w, x=x, y=y)
        assert tile_of(odd) == tile_of(before), "a choice of another version is left aside"
    finally:
        tuner._choices.pop(key, None)


def test_measuring(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_VK_PREFILL", "exact")
    assert list(tune_tiles(device, [("q8_0", 32, 32)])) == []
    monkeypatch.setenv("FLUX_VK_PREFILL", "f32")
    monkeypatch.setattr("flux_vk.gpu.tune_tile.MARKS", (8,))
    ((name, choice),) = tune_tiles(device, [("q8_0", 32, 32)] * 2, repeat=1)
    tuner = tuner_of(device)
    assert tuner is not None and tuner.get(name) == choice.values
    del tuner._choices[name]
