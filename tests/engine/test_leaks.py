"""A hundred times load, generate, close: device memory, host memory, files and threads are back where they were."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import flux_vk as fx
from flux_vk.gpu import Device

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ALLOWED = 6 << 20  # bytes of resident memory: the allocator's own coming and going


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Everything must go by itself, not when the collector happens to run."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def resident() -> int:
    """Bytes in memory, without what the C library keeps of memory that was freed: after thousands of other tests in the
    process its lists are long, and what it keeps is no leak."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles() -> tuple[int, int]:
    """Open files and threads."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def use(path: Path, device: Device | None = None, close: bool = True) -> fx.Model:
    m = fx.load(path, device=device, context=128)
    assert len(list(m.start("It was", fx.SamplingParams(temperature=0), max_tokens=2))) == 2
    if close:
        m.close()
    return m


def measure(repeat: int, warm: int, action: Callable[[], object]) -> None:
    for _ in range(warm):
        action()
    memory, files = resident(), handles()
    for _ in range(repeat):
        action()
    assert resident() - memory < ALLOWED
    assert handles() == files


def test_a_hundred_models_on_one_device(demo_model: Path, without_collector: None) -> None:
    device = Device()
    use(demo_model, device)
    allocated = device.memory()["allocated"]

    def action() -> None:
        use(demo_model, device)
        assert device.memory()["allocated"] == allocated

    measure(100, 20, action)


def test_models_that_are_only_let_go(demo_model: Path, without_collector: None) -> None:
    device = Device()
    use(demo_model, device)
    allocated = device.memory()["allocated"]
    for _ in range(3):
        use(demo_model, device, close=False)
        assert device.memory()["allocated"] == allocated


def test_models_with_a_device_of_their_own(demo_model: Path, repo_root: Path) -> None:
    """Device, threads of the driver and all memory go with the model.

    In a process whose allocator has one arena: the threads of every new device would get others, and what is left
    scattered over them comes and goes by 30 MB.
    """
    script = (
        "import gc, pathlib, sys; from tests.engine.test_leaks import measure, use; gc.disable(); "
        "measure(12, 4, lambda: use(pathlib.Path(sys.argv[1])))"
    )
    env = {**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(repo_root)}
    command = [sys.executable, "-c", script, str(demo_model)]
    done = subprocess.run(command, env=env, cwd=repo_root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_generations_and_sessions(model: fx.Model, without_collector: None) -> None:
    """What ends early, in every way there is, gives back everything too."""

    def action() -> None:
        with model.session() as s:
            for _ in model.start("It was", session=s, max_tokens=2):
                pass
            for _ in model.start("It was so", session=s):
                break
        g = model.start("It was", fx.SamplingParams(logprobs=2), max_tokens=3)
        next(g)
        g.close()
        for _piece in model.generate("It was"):
            break
        model.logits([1, 2, 3])
        assert model.runner.slots.in_use == 0

    before = None
    for _ in range(3):
        action()
        before = before or model.device.memory()["allocated"]
    measure(20, 5, action)
    assert model.device.memory()["allocated"] == before
