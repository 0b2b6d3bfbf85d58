"""The door to the compiled part (`flux_vk._kompute`): imports it late, and says what is missing when it cannot.

Not for: anything a caller outside flux_vk.gpu should touch.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import VulkanError, VulkanUnavailable

_PACKAGES = "on Debian or Ubuntu: apt-get install libvulkan1 mesa-vulkan-drivers"


def module() -> Any:
    """The native module. Raises VulkanUnavailable with the package to install."""
    try:
        return importlib.import_module("flux_vk._kompute")
    except ModuleNotFoundError:
        raise VulkanUnavailable("flux_vk is not built: run `make setup`, or install the wheel") from None
    except ImportError as error:
        if "vulkan" in str(error):
            raise VulkanUnavailable(f"no Vulkan loader (libvulkan.so.1) on this machine; {_PACKAGES}") from None
        raise VulkanUnavailable(f"the native part cannot be loaded: {error}") from None


def enumerate_devices() -> list[dict[str, Any]]:
    """All Vulkan devices as dicts. Raises VulkanUnavailable where there is no driver or no device."""
    native = module()
    try:
        found: list[dict[str, Any]] = native.enumerate_devices()
    except VulkanError as error:
        raise VulkanUnavailable(f"no Vulkan driver answers ({error}); {_PACKAGES}", error.result) from None
    if not found:
        raise VulkanUnavailable(f"no Vulkan device found; {_PACKAGES} (Mesa's CPU driver works without a GPU)")
    return found
