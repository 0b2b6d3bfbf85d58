"""Which devices there are, which one is meant, and which family of kernel shapes suits it.

Not for: opening a device (device.py).
"""

from __future__ import annotations

from typing import Any

from ..errors import UnknownDevice
from ..settings import family, settings
from . import native

_RANK = {"discrete": 0, "integrated": 1, "virtual": 2, "cpu": 3}
_KINDS = {"DiscreteGpu": "discrete", "IntegratedGpu": "integrated", "VirtualGpu": "virtual", "Cpu": "cpu"}


def list_devices() -> list[dict[str, Any]]:
    """Every Vulkan device, with `index` and `kind` added to what the driver says. Raises VulkanUnavailable."""
    found = native.enumerate_devices()
    for index, d in enumerate(found):
        d["index"] = index
        d["kind"] = _KINDS.get(d["type"], "other")
    return found


def select_device(select: int | str | None = None) -> dict[str, Any]:
    """The device asked for by index or name part (default: FLUX_VK_DEVICE, else the best one).

    Raises UnknownDevice listing the devices there are.
    """
    found = list_devices()
    wanted = select if select is not None else settings().device
    usable = [d for d in found if d["usable"]]
    table = "; ".join(f"{d['index']}: {d['name']} ({d['kind']}, Vulkan {d['api_version']})" for d in found)
    if wanted is None:
        if not usable:
            raise UnknownDevice(f"no device with Vulkan 1.2 or newer; found {table}")
        return min(usable, key=lambda d: (_RANK.get(d["kind"], 4), d["index"]))
    if isinstance(wanted, int) or str(wanted).isdigit():
        match = [d for d in found if d["index"] == int(wanted)]
    else:
        match = [d for d in found if str(wanted).lower() in d["name"].lower()]
        match.sort(key=lambda d: not d["usable"])
    if not match:
        raise UnknownDevice(f"device {wanted!r} is not there; devices: {table}")
    if not match[0]["usable"]:
        raise UnknownDevice(f"device {match[0]['name']} has Vulkan {match[0]['api_version']}; 1.2 or newer is needed")
    return match[0]


def family_of(kind: str) -> str:
    """The family of kernel shapes for a kind of device: "cpu" or "gpu" (FLUX_VK_FAMILY overrides)."""
    return family() or ("cpu" if kind == "cpu" else "gpu")
