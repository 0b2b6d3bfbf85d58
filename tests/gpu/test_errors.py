"""What a user sees where Vulkan is missing: one line that names the thing and the package to install."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from flux_vk.errors import OutOfDeviceMemory, UnknownDevice, VulkanError, VulkanUnavailable
from flux_vk.gpu import Device, list_devices, native

OPEN = """
import sys
from flux_vk.errors import FluxError
{first}
from flux_vk.gpu import Device
try:
    Device()
except FluxError as error:
    print(type(error).__name__, error, sep=": ")
"""
STUB = """
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "flux_vk._kompute":
            raise {error}
sys.meta_path.insert(0, Missing())
"""


def open_device(first: str = "", **environment: str) -> str:
    """What opening a device prints in a process of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VK_", "FLUX_VK_DEVICE"))}
    done = subprocess.run(
        [sys.executable, "-c", OPEN.format(first=first)], env={**env, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_driver() -> None:
    said = open_device(VK_ICD_FILENAMES="/nonexistent.json", VK_DRIVER_FILES="/nonexistent.json")
    assert said.startswith("VulkanUnavailable: no Vulkan driver answers (")
    assert said.endswith("on Debian or Ubuntu: apt-get install libvulkan1 mesa-vulkan-drivers")
    assert "\n" not in said


def test_no_loader() -> None:
    library = "libvulkan.so.1: cannot open shared object file: No such file or directory"
    said = open_device(STUB.format(error=f"ImportError({library!r})"))
    assert said == (
        "VulkanUnavailable: no Vulkan loader (libvulkan.so.1) on this machine; "
        "on Debian or Ubuntu: apt-get install libvulkan1 mesa-vulkan-drivers"
    )


def test_not_built() -> None:
    said = open_device(STUB.format(error="ModuleNotFoundError('flux_vk._kompute')"))
    assert said == "VulkanUnavailable: flux_vk is not built: run `make setup`, or install the wheel"


def test_built_for_something_else() -> None:
    said = open_device(STUB.format(error="ImportError('undefined symbol: _ZN2kp')"))
    assert said == "VulkanUnavailable: the native part cannot be loaded: undefined symbol: _ZN2kp"


def test_an_unknown_device_by_variable() -> None:
    said = open_device(FLUX_VK_DEVICE="no such card")
    names = [d["name"] for d in list_devices()]
    assert said.startswith("UnknownDevice: device 'no such card' is not there; devices: 0: ")
    assert all(name in said for name in names)


def test_a_driver_without_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        @staticmethod
        def enumerate_devices() -> list[object]:
            return []

    monkeypatch.setattr(native, "module", lambda: Module)
    with pytest.raises(VulkanUnavailable, match="no Vulkan device found; .*mesa-vulkan-drivers"):
        Device()


def test_an_absurd_allocation_leaves_the_device_usable(device: Device) -> None:
    with pytest.raises(OutOfDeviceMemory, match=r"one allocation of \d{13} bytes asked for; .*at most \d+ at once"):
        device.empty((1 << 40,), "f32")
    with pytest.raises(OutOfDeviceMemory, match=r"refused an allocation of \d+ bytes \(device memory: \d+ bytes in"):
        device.native.allocate(1 << 60, "device")
    assert (device.array(np.arange(9, dtype=np.uint32)).numpy() == np.arange(9)).all()


def test_native_errors_are_typed(device: Device) -> None:
    with pytest.raises(VulkanError, match="index outside the recording's query pool"):
        device.native.recording(0, 0).timestamp(0)
    ended = device.native.recording(0, 0)
    ended.end()
    with pytest.raises(VulkanError, match="this recording has ended"):
        ended.barrier()


def test_a_shader_that_does_not_compile_is_named(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Device(device.info["index"])

    class Refusing:
        def pipeline(self, *args: object) -> None:
            raise VulkanError("vk::Device::createComputePipeline: ErrorInvalidShaderNV", "ErrorInvalidShaderNV")

    monkeypatch.setattr(own, "native", Refusing())
    with pytest.raises(VulkanError, match=r"does not compile rms_norm--default \(WG=64\): .*ErrorInvalidShaderNV"):
        own.pipeline("rms_norm", "default", (64,))
    monkeypatch.undo()


def test_errors_carry_exit_codes() -> None:
    assert VulkanUnavailable("x").exit_code == 1
    assert UnknownDevice("x").exit_code == 2
