"""Pipelines made by several threads: each once, errors told, and kernels compiled by an empty dispatch."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import VulkanError
from flux_vk.gpu import Chain, Device, kernels
from flux_vk.gpu.pipelines import Key, keys_of, make_all, warm
from flux_vk.gpu.steps import Dispatch

KERNELS = ("add", "mul", "rms_norm", "softmax", "gather", "swiglu")


def keys() -> list[Key]:
    found = []
    for name in KERNELS:
        c = kernels.contract(name)
        found.append((name, c.variants[0].name, tuple(s.default for s in c.spec)))
    return found


class Counting:
    """The native device, with every pipeline counted; `slow` makes threads meet while one is being made."""

    def __init__(self, native: Any, slow: bool = False) -> None:
        self._native = native
        self.made: Counter[str] = Counter()
        self._pause = threading.Event() if slow else None

    def pipeline(self, name: str, *args: Any) -> Any:
        self.made[name] += 1
        if self._pause is not None:
            self._pause.wait(0.02)
        return self._native.pipeline(name, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


@pytest.fixture
def own(device: Device) -> Device:
    return Device(device.info["index"])


def test_threads_that_race_for_a_pipeline_get_the_same(own: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(own.native, slow=True)
    monkeypatch.setattr(own, "native", counting)
    found: list[list[Any]] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append([own.pipeline(*key) for key in keys()])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8 and all(row == found[0] for row in found)
    assert set(counting.made.values()) == {1} and len(counting.made) == len(KERNELS)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_make_all_makes_what_is_missing(own: Device, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    own.pipeline(*keys()[2])
    counting = Counting(own.native)
    monkeypatch.setattr(own, "native", counting)
    told: list[Key] = []
    make_all(own, keys(), told.append, threads=n)
    assert sorted(told) == sorted(k for k in keys() if k != keys()[2])
    assert set(counting.made.values()) == {1} and len(counting.made) == len(KERNELS) - 1
    make_all(own, keys(), told.append, threads=n)
    assert len(told) == len(KERNELS) - 1
    assert not [t for t in threading.enumerate() if t.name.startswith("flux_vk")]


@pytest.mark.parametrize("n", [1, 3])
def test_a_kernel_that_does_not_compile_is_named(own: Device, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    real = own.native

    class Refusing(Counting):
        def pipeline(self, name: str, *args: Any) -> Any:
            if name.startswith("softmax") and not self.made["softmax"]:
                self.made["softmax"] += 1
                raise VulkanError("vk::Device::createComputePipeline: ErrorInvalidShaderNV", "ErrorInvalidShaderNV")
            return super().pipeline(name, *args)

    monkeypatch.setattr(own, "native", Refusing(real))
    with pytest.raises(VulkanError, match="does not compile softmax--.*ErrorInvalidShaderNV"):
        make_all(own, keys(), threads=n)
    assert not [t for t in threading.enumerate() if t.name.startswith("flux_vk")]
    make_all(own, keys(), threads=n)  # a failure is not remembered
    assert all(own.pipelines.has(key) for key in keys())


def test_keys_of_a_chain(device: Device) -> None:
    a, b, y = (device.zeros((4, 32)) for _ in range(3))
    chain = Chain(device).add(a=a, b=b, y=y).mul(a=a, b=y, y=y).fill(dst=y).add(a=a, b=b, y=y)
    found = keys_of(chain.steps)
    assert [key[0] for key in found] == ["add", "mul"]
    assert found[0][2] == next(s.spec for s in chain.steps if isinstance(s, Dispatch))


def test_an_empty_dispatch_touches_nothing(device: Device) -> None:
    a, y = device.filled((4, 32), "f32", 0x3F), device.filled((4, 32), "f32", 0x55)
    before = device.dummy.numpy()
    chain = Chain(device)
    chain.add(a=a, b=a, y=y).mul(a=a, b=a, y=chain.scratch((4, 32)))
    for step in chain.steps:
        assert isinstance(step, Dispatch)
        warm(device, step).wait()
    np.testing.assert_array_equal(device.dummy.numpy(), before)
    assert (y.numpy().view(np.uint8) == 0x55).all()
