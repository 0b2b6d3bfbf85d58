"""Whether a model fits a device, and what would make it fit. Not for: how much it needs (flux_vk.models.memory)."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import OutOfDeviceMemory
from ..gpu import Device
from .buffers import Limits
from .pages import PAGE_SIZE


def check_fit(device: Device, path: str, parts: Mapping[str, int], limits: Limits) -> None:
    """Raises OutOfDeviceMemory where the parts exceed what the device has free, saying what would make it fit."""
    free = device.memory()["free"]
    needed = sum(parts.values())
    if needed <= free:
        return
    shown = ", ".join(f"{name} {n / 1e6:.0f} MB" for name, n in parts.items())
    raise OutOfDeviceMemory(
        f"{path} needs {needed / 1e6:.0f} MB on {device.name} ({shown}), and {free / 1e6:.0f} MB are free; "
        f"{_fitting(free - needed + parts['kv'], parts['kv'], limits)}"
    )


def _fitting(room: int, kv: int, limits: Limits) -> str:
    """What would make a model fit whose keys and values may take `room` bytes."""
    tokens = int(room / (kv / max(limits.kv_tokens, 1))) // PAGE_SIZE * PAGE_SIZE
    context = min(limits.context, tokens - PAGE_SIZE * (limits.sequences - 1))
    if context == limits.context:
        return f"kv_tokens={tokens} would fit"
    if context >= PAGE_SIZE:
        return f"a context of {context} tokens would fit"
    if tokens >= PAGE_SIZE:
        return f"a context of {min(tokens, limits.context)} tokens with sequences=1 would fit"
    return "take a smaller or more strongly quantised model, or another device"
