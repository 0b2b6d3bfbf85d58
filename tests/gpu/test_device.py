"""Devices: choosing one, memory figures, leaks, compiled pipelines and their cache on disk."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import UnknownDevice, VulkanError
from flux_vk.gpu import Chain, Device, cache, list_devices, native, select_device, selection


def described(name: str, kind: str, version: str = "1.3.0", usable: bool = True) -> dict[str, Any]:
    types = {v: k for k, v in selection._KINDS.items()}
    return {"name": name, "type": types.get(kind, "Other"), "api_version": version, "usable": usable}


MANY = [
    described("llvmpipe (LLVM 15)", "cpu"),
    described("Intel UHD 770", "integrated"),
    described("Old Card 1.1", "discrete", "1.1.0", usable=False),
    described("Radeon RX 7900", "discrete"),
    described("GeForce RTX 4090", "discrete"),
]


class TestChoice:
    @pytest.fixture
    def many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(native, "enumerate_devices", lambda: [dict(d) for d in MANY])
        monkeypatch.delenv("FLUX_VK_DEVICE", raising=False)

    def test_discrete_before_integrated_before_cpu(self, many: None, monkeypatch: pytest.MonkeyPatch) -> None:
        assert select_device()["name"] == "Radeon RX 7900"
        monkeypatch.setattr(native, "enumerate_devices", lambda: [dict(d) for d in MANY[:3]])
        assert select_device()["name"] == "Intel UHD 770"

    @pytest.mark.parametrize(
        ("wanted", "name"),
        [(4, "GeForce RTX 4090"), ("1", "Intel UHD 770"), ("geforce", "GeForce RTX 4090"), ("PIPE", MANY[0]["name"])],
    )
    def test_by_index_and_name(
        self, many: None, monkeypatch: pytest.MonkeyPatch, wanted: int | str, name: str
    ) -> None:
        assert select_device(wanted)["name"] == name
        monkeypatch.setenv("FLUX_VK_DEVICE", str(wanted))
        assert select_device()["name"] == name
        assert select_device(0)["name"] == "llvmpipe (LLVM 15)", "the argument wins over the variable"

    @pytest.mark.parametrize("wanted", [7, -1, "9", "arc"])
    def test_unknown_ones_get_the_list(self, many: None, wanted: int | str) -> None:
        with pytest.raises(UnknownDevice) as error:
            select_device(wanted)
        assert str(error.value) == (
            f"device {wanted!r} is not there; devices: 0: llvmpipe (LLVM 15) (cpu, Vulkan 1.3.0); "
            "1: Intel UHD 770 (integrated, Vulkan 1.3.0); 2: Old Card 1.1 (discrete, Vulkan 1.1.0); "
            "3: Radeon RX 7900 (discrete, Vulkan 1.3.0); 4: GeForce RTX 4090 (discrete, Vulkan 1.3.0)"
        )
        assert error.value.exit_code == 2

    @pytest.mark.parametrize("wanted", [2, "old card"])
    def test_too_old(self, many: None, wanted: int | str) -> None:
        with pytest.raises(UnknownDevice, match="Old Card 1.1 has Vulkan 1.1.0; 1.2 or newer is needed"):
            select_device(wanted)

    def test_only_old_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FLUX_VK_DEVICE", raising=False)
        monkeypatch.setattr(native, "enumerate_devices", lambda: [dict(MANY[2])])
        with pytest.raises(UnknownDevice, match="no device with Vulkan 1.2 or newer; found 0: Old Card"):
            select_device()


def test_every_device_is_described() -> None:
    for d in list_devices():
        assert d["name"] and d["kind"] in ("discrete", "integrated", "virtual", "cpu", "other")
        limits = d["limits"]
        assert limits["max_storage_buffer_range"] >= 1 << 27
        assert limits["max_push_bytes"] >= 128 and limits["storage_alignment"] >= 1
        assert all(n >= 65535 for n in limits["max_grid"])
        assert len(d["cache_uuid"]) == 16


def test_an_index_that_vanished(device: Device) -> None:
    with pytest.raises(VulkanError, match="device index 99 is not there"):
        native.module().Context(99, b"")


# -- memory -----------------------------------------------------------------------------------------------------------


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_figures(device: Device) -> None:
    own = Device(device.info["index"])
    before = own.memory()
    assert before["total"] > 0 and 0 <= before["free"] <= before["total"]
    big = own.empty((4 << 20,), "f32")
    assert own.memory()["allocated"] == before["allocated"] + (16 << 20)
    view = big.rows(0, 16)
    del big
    assert own.memory()["allocated"] == before["allocated"] + (16 << 20), "a view keeps its memory"
    del view
    assert own.memory()["allocated"] == before["allocated"]


def test_memory_comes_back(device: Device) -> None:
    own = Device(device.info["index"])
    array = np.ones(2 << 20, np.float32)  # 8 MB
    small = np.ones(3000, np.float32)

    def round_trip() -> None:
        large, little = own.array(array), [own.array(small) for _ in range(8)]
        Chain(own).copy(src=large.rows(0, 3000), dst=little[0]).run()
        assert little[0].numpy()[0] == 1

    for _ in range(20):
        round_trip()
    gc.collect()
    allocated, rss = own.memory()["allocated"], resident()
    for _ in range(200):
        round_trip()
    gc.collect()
    assert own.memory()["allocated"] == allocated
    assert resident() - rss < 24 << 20, "200 rounds of 8 MB"


def test_recordings_and_devices_come_back(device: Device) -> None:
    x, y = device.array(np.ones((4, 64), np.float32)), device.empty((4, 64))

    def record() -> None:
        chain = Chain(device)
        for _ in range(20):
            chain.add(a=x, b=x, y=y)
        recorded = chain.record(copies=2)
        recorded.submit()
        recorded.wait()

    def open_and_close() -> None:
        own = Device(device.info["index"])
        own.array(np.ones(4, np.float32))

    for function, times in ((record, 100), (open_and_close, 12)):
        for _ in range(times // 4):
            function()
        gc.collect()
        rss = resident()
        for _ in range(times):
            function()
        gc.collect()
        assert resident() - rss < 16 << 20, function.__name__


# -- pipelines and their cache ----------------------------------------------------------------------------------------


def works(device: Device) -> bool:
    x, y = device.array(np.ones((4, 64), np.float32)), device.empty((4, 64))
    Chain(device).add(a=x, b=x, y=y).run()
    return bool((y.numpy() == 2).all())


def test_pipelines_are_made_once(device: Device) -> None:
    a = device.pipeline("add", "default", tuple(s.default for s in _spec("add")))
    assert a is device.pipeline("add", "default", tuple(s.default for s in _spec("add")))


def _spec(kernel: str) -> Any:
    from flux_vk.gpu import kernels

    return kernels.contract(kernel).spec


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("FLUX_VK_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.delenv("FLUX_VK_NO_CACHE", raising=False)
        return tmp_path / "cache"

    def test_written_once_and_read_again(self, device: Device, folder: Path) -> None:
        first = Device(device.info["index"])
        assert works(first)
        first.save_pipeline_cache()
        (path,) = folder.iterdir()
        assert path.name.startswith("pipelines-") and path.suffix == ".bin"
        stamp = path.stat().st_mtime_ns
        second = Device(device.info["index"])
        assert second._cache_size == len(cache.read(path)) > 0
        assert works(second)
        second.save_pipeline_cache()
        assert path.stat().st_mtime_ns == stamp, "nothing new, nothing written"

    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "headless"])
    def test_a_damaged_file_does_no_harm(self, device: Device, folder: Path, damage: str) -> None:
        first = Device(device.info["index"])
        assert works(first)
        first.save_pipeline_cache()
        (path,) = folder.iterdir()
        raw = path.read_bytes()
        flipped = bytearray(raw)
        flipped[-7] ^= 0x40
        bad = {"cut": raw[:-9], "flipped": bytes(flipped), "empty": b"", "other": b"x" * 500}
        path.write_bytes(bad[damage] if damage in bad else cache.read(path))
        assert cache.read(path) == b""
        again = Device(device.info["index"])
        assert works(again)
        again.save_pipeline_cache()
        assert cache.read(path), "replaced by a good one"

    def test_a_driver_that_chokes_gets_none(
        self, device: Device, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert cache.write(cache.file_of(folder, device.info), b"what another driver made")
        real = native.module()
        seen = []

        class Module:
            @staticmethod
            def Context(index: int, known: bytes) -> Any:
                seen.append(known)
                if known:
                    raise VulkanError("vk::Device::createPipelineCache: ErrorUnknown", "ErrorUnknown")
                return real.Context(index, known)

        monkeypatch.setattr(native, "module", lambda: Module)
        monkeypatch.setattr(native, "enumerate_devices", real.enumerate_devices)
        assert works(Device(device.info["index"]))
        assert seen == [b"what another driver made", b""]

    def test_nothing_half_written_is_left(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = folder / "pipelines-1.bin"
        assert cache.write(path, b"good")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            assert not cache.write(path, b"better")
        assert cache.read(path) == b"good"
        assert [p.name for p in folder.iterdir()] == ["pipelines-1.bin"]

    def test_a_folder_that_cannot_be_made(self, device: Device, folder: Path) -> None:
        folder.write_text("a file is in the way")
        own = Device(device.info["index"])
        assert works(own)
        own.save_pipeline_cache()
        assert folder.read_text() == "a file is in the way"

    def test_switched_off(self, device: Device, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FLUX_VK_NO_CACHE", "1")
        own = Device(device.info["index"])
        assert works(own)
        own.save_pipeline_cache()
        assert not folder.exists()
