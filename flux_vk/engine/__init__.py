"""Sequences, paged KV and the generation loop: what stands between a model's step and a user's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generation import Generation as Generation
    from .many import Many as Many
    from .model import Model as Model
    from .model import load as load
    from .session import Session as Session
    from .stream import Token as Token

_HOMES = {
    "Generation": "generation",
    "Many": "many",
    "Model": "model",
    "Session": "session",
    "Token": "stream",
    "load": "model",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"flux_vk.engine has no {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
