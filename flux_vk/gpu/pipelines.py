"""Compute pipelines of a device: made once each, several at a time, and on CPU drivers compiled to the end.

Not for: the driver's cache on disk (cache.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..errors import VulkanError
from . import kernels
from .steps import Dispatch, Step

if TYPE_CHECKING:
    from .device import Device

Key = tuple[str, str, tuple[int, ...]]
"""Kernel, variant, specialization constants."""


class _Once:
    """One pipeline: whoever comes first makes it, others wait; after a failure the next one tries again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.made: Any = None

    def get(self, make: Callable[[], Any]) -> Any:
        if self.made is None:
            with self._lock:
                if self.made is None:
                    self.made = make()
        return self.made


class Pipelines:
    """The pipelines of one device. Thread-safe; the driver compiles without the GIL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[Any, ...], _Once] = {}

    def __len__(self) -> int:
        return sum(once.made is not None for once in self._known.values())

    def get(self, device: Device, kernel: str, variant: str, spec: tuple[int, ...]) -> Any:
        """The native pipeline. Raises VulkanError naming kernel, variant and constants."""
        return self._once(kernel, variant, spec).get(lambda: _make(device, kernel, variant, spec))

    def has(self, key: Key) -> bool:
        """Whether it is made already."""
        return self._once(*key).made is not None

    def _once(self, kernel: str, variant: str, spec: tuple[int, ...]) -> _Once:
        c = kernels.contract(kernel)
        # The code is part of the key, because kernels.use_folder may put another in its place.
        key = (kernel, variant, spec, kernels.spirv(kernel, variant), len(c.bindings), c.push_bytes)
        with self._lock:
            return self._known.setdefault(key, _Once())


def _make(device: Device, kernel: str, variant: str, spec: tuple[int, ...]) -> Any:
    c, code, name = kernels.contract(kernel), kernels.spirv(kernel, variant), f"{kernel}--{variant}"
    form = c.variant(variant)
    texel = c.texel_mask(form.shader)
    lanes = next((v for s, v in zip(c.spec, spec, strict=True) if s.name == form.subgroup), 0)
    try:
        return device.native.pipeline(name, code, len(c.bindings), c.push_bytes, list(spec), lanes, texel)
    except VulkanError as error:
        constants = ", ".join(f"{s.name}={v}" for s, v in zip(c.spec, spec, strict=True)) or "no constants"
        raise type(error)(f"{device.name} does not compile {name} ({constants}): {error}", error.result) from None


def keys_of(steps: Iterable[Step]) -> list[Key]:
    """The pipelines that steps need, each once."""
    return list(first_steps(steps))


def first_steps(steps: Iterable[Step]) -> dict[Key, Dispatch]:
    """For each pipeline the first step that needs it."""
    found: dict[Key, Dispatch] = {}
    for s in steps:
        if isinstance(s, Dispatch):
            found.setdefault((s.contract.name, s.variant.name, s.spec), s)
    return found


def make_all(
    device: Device, keys: Iterable[Key], made: Callable[[Key], None] | None = None, threads: int | None = None
) -> None:
    """Make those that are missing, several at a time, largest first. `made` is called by the thread that has made one.

    Raises the first error, when all threads have ended.
    """
    missing = [key for key in keys if not device.pipelines.has(key)]
    missing.sort(key=lambda key: -len(kernels.spirv(*key[:2])))
    todo, lock = iter(missing), threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            with lock:
                key = next(todo, None)
            if key is None:
                return
            try:
                device.pipeline(*key)
                if made is not None:
                    made(key)
            except BaseException as error:  # raised again below, in the caller's thread
                errors.append(error)

    count = min(threads or os.cpu_count() or 1, len(missing))
    others = [threading.Thread(target=work, name=f"flux_vk pipelines {i}", daemon=True) for i in range(1, count)]
    try:
        for thread in others:
            thread.start()
        work()
    except BaseException as error:
        errors.append(error)
        raise
    finally:
        for thread in others:
            if thread.ident is not None:
                thread.join()
    if errors:
        raise errors[0]


def warm(device: Device, step: Dispatch) -> Any:
    """Submit a step with an empty grid: CPU drivers compile a kernel when it is first dispatched, not before.

    With its real buffers where they have a place already, since the code depends on the kind of a texel buffer. Returns
    the recording, which may not be dropped before it has run.
    """
    pipeline = device.pipeline(step.contract.name, step.variant.name, step.spec)
    bound = [b if b.memory.native is not None else device.dummy for b in step.buffers.values()]
    recording = device.native.recording(0, 0)
    recording.barrier()
    recording.dispatch(pipeline, [(b.memory.native, b.offset, b.nbytes) for b in bound], step.push, 0, 0, 0)
    recording.submit()
    return recording
