"""Models that the engine's tests share: the demo model, small contexts, one device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import flux_vk as fx
from flux_vk.engine.model import Model
from flux_vk.gpu import Device


@pytest.fixture(scope="session")
def model(device: Device, demo_model: Path) -> Iterator[Model]:
    """The demo model with a float32 cache and room for eight sequences. Tests give back what they take."""
    with fx.load(demo_model, device=device, kv_type="f32", kv_tokens=4096) as m:
        yield m


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test with `model`: all slots and pages are free again."""
    yield
    if "model" in request.fixturenames:
        runner = request.getfixturevalue("model").runner
        assert runner.slots.in_use == 0
        assert runner.pool.n_free == runner.pool.n_pages
