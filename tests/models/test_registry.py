"""Architectures registered from outside the package: found by name, refused where unclear, taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flux_vk.errors import ModelError
from flux_vk.formats.adapter import Adapter, LoraPair, write_gguf_adapter
from flux_vk.formats.gguf import open_gguf
from flux_vk.models import llama, read_config, registry

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


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    pair = LoraPair(np.ones((1, 8), "f4"), np.ones((8, 1), "f4"))
    write_gguf_adapter(Adapter("llama", 1.0, {"blk.0.attn_q.weight": pair}), tmp_path / "a.gguf")
    with open_gguf(tmp_path / "a.gguf") as f, pytest.raises(ModelError, match="a.gguf: a LoRA adapter; expected"):
        read_config(f)
