"""Devices, buffers, kernel contracts, chains. Knows nothing of models or tokens."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "Arena": "chain", "Buffer": "buffer", "Chain": "chain", "Device": "device", "NullDevice": "null",
    "Profile": "profile", "Recorded": "record", "list_devices": "device", "select_device": "device",
}  # fmt: skip
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"flux_vk.gpu has no {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
