"""Sequences, paged KV and the generation loop: what stands between a model's step and a user's text."""

from __future__ import annotations

from typing import Any

_HOMES = {"Generation": "generation", "Model": "model", "Session": "model", "Token": "generation", "load": "model"}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"flux_vk.engine has no {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
