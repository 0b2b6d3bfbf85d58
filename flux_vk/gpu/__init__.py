"""Devices, buffers, kernel contracts, chains. Knows nothing of models or tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .buffer import Buffer as Buffer
    from .chain import Arena as Arena
    from .chain import Chain as Chain
    from .device import Device as Device
    from .null import NullDevice as NullDevice
    from .profile import Profile as Profile
    from .record import Recorded as Recorded
    from .selection import list_devices as list_devices
    from .selection import select_device as select_device

_HOMES = {
    "Arena": "chain", "Buffer": "buffer", "Chain": "chain", "Device": "device", "NullDevice": "null",
    "Profile": "profile", "Recorded": "record", "list_devices": "selection", "select_device": "selection",
}  # fmt: skip
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"flux_vk.gpu has no {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
