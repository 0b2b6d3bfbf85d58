"""Recordings on the device: replay, several submits in flight, indirect grids, waiting, threads, markers."""

from __future__ import annotations

import re
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import DeviceLost, VulkanError, WaitTimeout
from flux_vk.gpu import Buffer, Chain, Device, NullDevice
from flux_vk.gpu.record import Recorded


def counter(device: Device, copies: int = 1) -> tuple[Buffer, Recorded]:
    """A chain that adds one to every element of a buffer."""
    x, one = device.zeros((4, 64)), device.array(np.ones((4, 64), np.float32))
    chain = Chain(device, name="counter")
    t = chain.scratch((4, 64))
    chain.add(a=x, b=one, y=t).copy(src=t, dst=x)
    return x, chain.record(copies=copies)


def busy(device: Device, seconds: float) -> Recorded:
    """A recording that keeps the device busy for about this long."""
    x, y = device.array(np.ones((256, 4096), np.float32)), device.empty((256, 4096))

    def chain(n: int) -> Recorded:
        made = Chain(device, name="busy")
        for _ in range(n):
            made.softmax(x=x, y=y).softmax(x=y, y=x)
        return made.record()

    n = 4
    while True:
        recorded = chain(n)
        start = time.perf_counter()
        recorded.submit()
        recorded.wait()
        took = time.perf_counter() - start
        if took >= seconds or n >= 1 << 14:
            return recorded
        n = min(1 << 14, max(2 * n, int(1.5 * n * seconds / max(took, 1e-4))))


# -- replay -----------------------------------------------------------------------------------------------------------


def test_replay_does_the_same_again(device: Device) -> None:
    x, recorded = counter(device)
    for i in range(1, 6):
        recorded.submit()
        recorded.wait()
        assert (x.numpy() == i).all()
    assert recorded.submits == 5


def test_a_submit_is_waited_for_by_its_number(device: Device) -> None:
    x, recorded = counter(device, copies=4)
    assert [recorded.submit() for _ in range(4)] == [1, 2, 3, 4]
    recorded.wait_for(2)
    assert len(recorded._running) == 2, "those behind it are not waited for"
    recorded.wait_for(1)
    assert len(recorded._running) == 2
    recorded.wait_for(4)
    assert recorded._running == [] and (x.numpy() == 4).all()
    assert recorded.submit() == 5
    recorded.wait()
    recorded.wait_for(5)


@pytest.mark.parametrize("copies", [1, 3])
def test_submits_in_flight_run_in_order(device: Device, copies: int) -> None:
    """Without waiting in between: what one submit wrote is seen by the next."""
    x, recorded = counter(device, copies)
    for _ in range(20):
        recorded.submit()
        assert len(recorded._running) <= copies
    recorded.wait()
    assert recorded.poll()
    assert (x.numpy() == 20).all()


def test_wait_oldest_leaves_the_others(device: Device) -> None:
    x, recorded = counter(device, 3)
    for _ in range(3):
        recorded.submit()
    recorded.wait_oldest()
    assert len(recorded._running) <= 2
    recorded.wait()
    assert (x.numpy() == 3).all()
    recorded.wait_oldest()


def test_a_recording_outlives_what_it_was_made_from(device: Device) -> None:
    x, recorded = counter(Device(device.info["index"]))
    recorded.submit()
    del recorded  # while it may be running
    assert (x.numpy() == 1).all()


def test_an_empty_chain_runs(device: Device) -> None:
    Chain(device).run()


def test_a_running_recording_cannot_be_submitted_twice(device: Device) -> None:
    _, recorded = counter(device)
    native = recorded._natives[0]
    native.submit()
    with pytest.raises(VulkanError, match="still running; wait for it"):
        native.submit()
    native.wait()


def test_ranges_are_checked_again_below(device: Device) -> None:
    buffer = device.empty((64,))
    recording = device.native.recording(0, 0)
    memory = buffer.memory.native
    for bad in ((memory, 0, 0), (memory, 0, memory.nbytes + 1), (memory, memory.nbytes, 4), (memory, 2**64 - 4, 8)):
        with pytest.raises(VulkanError, match="outside its buffer"):
            recording.fill(bad, 0)
    with pytest.raises(VulkanError, match="never allocated"):
        recording.fill((None, 0, 4), 0)


# -- copy, fill, indirect ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "stop"), [(0, 64), (3, 17), (63, 64)])
def test_copies_and_fills_touch_their_range_only(device: Device, start: int, stop: int) -> None:
    source = device.array(np.arange(64, dtype=np.uint32))
    target = device.array(np.full(64, 7, np.uint32))
    Chain(device).copy(src=source.rows(start, stop), dst=target.rows(start, stop)).run()
    want = np.full(64, 7, np.uint32)
    want[start:stop] = np.arange(start, stop)
    assert (target.numpy() == want).all()
    Chain(device).fill(dst=target.rows(start, stop), value=0xFFFFFFFF).run()
    want[start:stop] = 0xFFFFFFFF
    assert (target.numpy() == want).all()


@pytest.mark.parametrize("groups", [0, 1, 3, 5])
def test_indirect_grids(device: Device, groups: int) -> None:
    """rms_norm has one workgroup a row: a grid of n groups does the first n rows and leaves the others."""
    x, w = device.array(np.ones((5, 64), np.float32)), device.array(np.ones(64, np.float32))
    y, grid = device.filled((5, 64), "f32", 0xFF), device.array(np.array([groups, 1, 1], np.uint32))
    Chain(device).rms_norm(x=x, w=w, y=y, eps=0.0, indirect=grid).run()
    got = y.numpy()
    assert (got[:groups] == 1).all()
    assert np.isnan(got[groups:]).all()


def test_a_grid_written_by_the_chain_itself(device: Device) -> None:
    """One kernel writes the grid, the next is dispatched from it: the barrier between them is derived."""
    x, w = device.array(np.ones((5, 64), np.float32)), device.array(np.ones(64, np.float32))
    y, grid = device.empty((5, 64)), device.empty((3,), "u32")
    wish = device.host((3,))
    chain = Chain(device)
    chain.cast(x=wish, y=grid)
    chain.rms_norm(x=x, w=w, y=y, eps=0.0, indirect=grid)
    assert "barrier, RAW: grid touches what step 0 had as y" in chain.explain()
    recorded = chain.record()
    for rows in (2, 0, 5, 1):
        wish.view()[:] = [rows, 1, 1]
        y.write(np.zeros((5, 64), np.float32))
        recorded.submit()
        recorded.wait()
        assert y.numpy()[:, 0].tolist() == [1.0] * rows + [0.0] * (5 - rows)


# -- waiting ----------------------------------------------------------------------------------------------------------


def test_wait_gives_up_and_the_work_goes_on(device: Device) -> None:
    recorded = busy(device, 0.3)
    recorded.submit()
    with pytest.raises(WaitTimeout, match="chain 'busy' is still running") as error:
        recorded.wait(timeout=0.02)
    assert error.value.result == "VK_TIMEOUT"
    assert not recorded.poll()
    recorded.wait(timeout=60)
    assert recorded.poll()


def test_other_threads_run_while_one_waits(device: Device) -> None:
    recorded = busy(device, 0.3)
    count, stop = 0, threading.Event()

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    recorded.submit()
    before = count
    recorded.wait()
    during = count - before
    stop.set()
    thread.join()
    assert during >= 10, "the interpreter was held while the device worked"


def test_two_threads_with_chains_of_their_own(device: Device) -> None:
    failures: list[BaseException] = []

    def work(value: float) -> None:
        try:
            for _ in range(15):
                x = device.array(np.full((16, 256), value, np.float32))
                y = device.empty((16, 256))
                chain = Chain(device)
                t = chain.scratch((16, 256))
                chain.add(a=x, b=x, y=t).mul(a=t, b=x, y=y)
                recorded = chain.record(copies=2)
                for _ in range(4):
                    recorded.submit()
                recorded.wait()
                assert (y.numpy() == 2 * value * value).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(float(v),)) for v in (2, 3, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures


def test_one_recording_from_two_threads(device: Device) -> None:
    x, recorded = counter(device, 2)

    def work() -> None:
        for _ in range(25):
            recorded.submit()
            recorded.wait()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert (x.numpy() == 50).all()


# -- a lost device ----------------------------------------------------------------------------------------------------


class Lost:
    """A native recording whose device goes away at the call named."""

    def __init__(self, at: str) -> None:
        self.at = at

    def _reach(self, call: str) -> bool:
        if call == self.at:
            raise DeviceLost("vk::Device::waitForFences: ErrorDeviceLost", "ErrorDeviceLost")
        return False

    def submit(self) -> None:
        self._reach("submit")

    def poll(self) -> bool:
        return self._reach("poll")

    def wait(self, timeout_ns: int = 0) -> bool:
        return not self._reach("wait")


@pytest.mark.parametrize("at", ["submit", "poll", "wait"])
def test_a_lost_device_names_the_kernels(device: Device, at: str) -> None:
    _, recorded = counter(device)
    recorded._natives = [Lost(at)]
    with pytest.raises(DeviceLost) as error:
        recorded.submit()
        recorded.poll()
        recorded.wait()
    assert error.value.result == "ErrorDeviceLost"
    for part in ("chain 'counter' (kernels: add, copy)", "FLUX_VK_MARKERS=1", "ErrorDeviceLost", "open it again"):
        assert part in str(error.value)


def test_markers_name_the_very_kernel(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_VK_MARKERS", "1")
    x, recorded = counter(device, 2)
    for _ in range(3):
        recorded.submit()
    recorded.wait()
    assert (x.numpy() == 3).all(), "markers change nothing but time"
    markers: Any = recorded._markers
    assert markers.view()[0] == 1, "the last step that began"
    markers.view()[0] = 0
    recorded._natives = [Lost("wait")]
    recorded.submit()
    with pytest.raises(DeviceLost, match=re.escape("in kernel add (step 0 of 2 of chain 'counter')")):
        recorded.wait()


def test_markers_are_recorded_in_front_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_VK_MARKERS", "1")
    null = NullDevice()
    a, b = null.empty((4,)), null.empty((4,))
    Chain(null).fill(dst=a, value=9).copy(src=a, dst=b).record()
    calls = [c[0] if c[0] != "fill" else f"fill {c[2]}" for c in null.native.recordings[0].calls]
    assert calls == [
        "barrier", "fill 0", "barrier", "fill 9", "barrier", "fill 1", "barrier", "copy", "end",
    ]  # fmt: skip
