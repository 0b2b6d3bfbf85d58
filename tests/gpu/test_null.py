"""The recording-only device: buffers hold what was written, nothing is computed, no Vulkan is loaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from flux_vk.gpu import Chain, NullDevice


def test_buffers_hold_what_was_written() -> None:
    device = NullDevice()
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    buffer = device.array(array)
    np.testing.assert_array_equal(buffer.numpy(), array)
    np.testing.assert_array_equal(buffer.rows(1, 3).numpy(), array[1:])
    buffer.rows(0, 1).write(np.zeros(4, np.float32))
    assert buffer.numpy()[0].sum() == 0
    assert device.host((4,), "u32").view().tolist() == [0] * 4


def test_limits_and_features_can_be_chosen() -> None:
    device = NullDevice("discrete", frozenset({"int8"}), storage_alignment=256, max_storage_buffer_range=1 << 20)
    assert (device.kind, device.alignment, device.max_range) == ("discrete", 256, 1 << 20)
    assert device.features == {"int8"}


def test_calls_are_kept_in_order() -> None:
    device = NullDevice()
    a, b = device.empty((4,)), device.empty((4,))
    Chain(device).fill(dst=a, value=3).copy(src=a, dst=b).run()
    (recording,) = device.native.recordings
    assert recording.calls[1] == ("fill", (a.memory.native, 0, 16), 3)
    assert recording.calls[3] == ("copy", (a.memory.native, 0, 16), (b.memory.native, 0, 16))
    assert recording.submits == 1


def test_no_vulkan_is_loaded() -> None:
    code = (
        "import sys; from flux_vk.gpu import Chain, NullDevice; d = NullDevice(); "
        "Chain(d).fill(dst=d.empty((4,))).run(); sys.exit('flux_vk._kompute' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
