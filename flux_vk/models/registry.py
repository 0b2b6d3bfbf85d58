"""Which architectures there are, by the name that `general.architecture` gives them.

Not for: what they compute; that stands in the file of each.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, cast

from flux_vk.errors import ModelError

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile
    from flux_vk.gpu import Buffer
    from flux_vk.models.config import ModelConfig
    from flux_vk.models.step import Step
    from flux_vk.models.tensors import TensorSpec

ARCHITECTURES = ("gemma2", "gemma3", "llama", "phi3", "qwen2", "qwen3")
"""Each has a module of the same name in this package."""


class Architecture(Protocol):
    """What the module of an architecture offers."""

    read_config: Callable[[GGUFFile], ModelConfig]
    """Keys to configuration; GGUFError or ModelError names the key."""
    layer_tensors: Callable[[ModelConfig, int], Iterator[TensorSpec]]
    """The tensors of layer i."""
    layer: Callable[[Step, int, Buffer], Buffer]
    """Appends layer i to the step's chain: rows in, rows out."""


def architecture(name: str) -> Architecture:
    """The module of an architecture; ModelError lists the known ones."""
    if name not in ARCHITECTURES:
        raise ModelError(
            f"general.architecture = {name!r}: this architecture is not supported; known are {', '.join(ARCHITECTURES)}"
        )
    return cast(Architecture, importlib.import_module(f"flux_vk.models.{name}"))


def read_config(f: GGUFFile) -> ModelConfig:
    """The configuration of an open GGUF file.

    Raises ModelError for an unknown architecture (listing the known ones) or values that cannot run here,
    GGUFError for a missing required key or one of the wrong type.
    """
    return architecture(f.get("general.architecture", str)).read_config(f)
