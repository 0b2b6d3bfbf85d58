"""Which architectures there are, by the name that `general.architecture` gives them.

`register` adds one from outside the package. Not for: what they compute; that stands in the file of each.
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
"""Those of the package; each has a module of the same name in it."""

_registered: dict[str, Architecture] = {}


_PARTS = ("read_config", "layer_tensors", "layer")


class Architecture(Protocol):
    """What the module of an architecture offers (any object with these three functions will do)."""

    read_config: Callable[[GGUFFile], ModelConfig]
    """Keys to configuration; GGUFError or ModelError names the key."""
    layer_tensors: Callable[[ModelConfig, int], Iterator[TensorSpec]]
    """The tensors of layer i."""
    layer: Callable[[Step, int, Buffer], Buffer]
    """Appends layer i to the step's chain: rows in, rows out."""


def register(name: str, module: object, *, replace: bool = False) -> None:
    """Make a module with `read_config`, `layer_tensors` and `layer` the architecture of files that carry this name.

    For the whole process; to be done before a model of that name is loaded.
    replace: allow a name that is there already, also one of the package.
    Raises ModelError where the name is taken or one of the three functions is missing.
    """
    missing = [part for part in _PARTS if not callable(getattr(module, part, None))]
    if missing:
        shown = getattr(module, "__name__", repr(module))
        raise ModelError(f"architecture {name!r}: {shown} has no function {missing[0]}; it needs {', '.join(_PARTS)}")
    if name in known() and not replace:
        raise ModelError(f"architecture {name!r} is there already; pass replace=True to use yours instead")
    _registered[name] = cast(Architecture, module)


def unregister(name: str) -> None:
    """Undo `register`; an architecture of the package that was replaced is back."""
    _registered.pop(name, None)


def known() -> tuple[str, ...]:
    """The names of all architectures, registered ones included, in alphabetical order."""
    return tuple(sorted({*ARCHITECTURES, *_registered}))


def architecture(name: str) -> Architecture:
    """The module of an architecture; ModelError lists the known ones."""
    if name in _registered:
        return _registered[name]
    if name not in ARCHITECTURES:
        raise ModelError(
            f"general.architecture = {name!r}: this architecture is not supported; known are {', '.join(known())}"
        )
    return cast(Architecture, importlib.import_module(f"flux_vk.models.{name}"))


def read_config(f: GGUFFile) -> ModelConfig:
    """The configuration of an open GGUF file.

    Raises ModelError for an adapter, an unknown architecture (listing the known ones) or values that cannot run here,
    GGUFError for a missing required key or one of the wrong type.
    """
    if f.get("general.type", str, "model") == "adapter":
        raise ModelError(f"{f.path}: a LoRA adapter; expected a model, which adapters are given to besides (lora)")
    return architecture(f.get("general.architecture", str)).read_config(f)
