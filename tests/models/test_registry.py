"""Architectures registered from outside the package: found by name, refused where unclear, taken back."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from flux_vk.errors import ModelError
from flux_vk.models import llama, registry

NAME = "not-in-the-package"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


def test_register_and_unregister() -> None:
    with pytest.raises(ModelError, match=f"'{NAME}': this architecture is not supported; known are gemma2"):
        registry.architecture(NAME)
    registry.register(NAME, llama)
    assert registry.architecture(NAME) is llama
    assert NAME in registry.known()
    with pytest.raises(ModelError, match=f"known are .*{NAME}"):
        registry.architecture("another")
    registry.unregister(NAME)
    assert NAME not in registry.known()
    registry.unregister(NAME)  # what is not there needs no undoing


def test_a_name_that_is_taken() -> None:
    other = SimpleNamespace(read_config=len, layer_tensors=len, layer=len)
    with pytest.raises(ModelError, match="'llama' is there already; pass replace=True"):
        registry.register("llama", other)
    registry.register("llama", other, replace=True)
    assert registry.architecture("llama") is other
    registry.unregister("llama")
    assert registry.architecture("llama") is llama


def test_a_part_that_is_missing() -> None:
    with pytest.raises(ModelError, match="has no function layer_tensors; it needs read_config, layer_tensors, layer"):
        registry.register(NAME, SimpleNamespace(read_config=len, layer=len, layer_tensors="no function"))
    assert NAME not in registry.known()
