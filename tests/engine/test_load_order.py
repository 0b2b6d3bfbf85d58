"""What happens beside each other while a model loads: errors of each part are told, nothing stays behind."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest

import flux_vk as fx
from flux_vk.engine.background import Background
from flux_vk.engine.runner import Runner
from flux_vk.errors import TokenizerError, VulkanError
from flux_vk.gpu import Device
from flux_vk.text import Tokenizer


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("flux_vk")]


def test_results_and_the_first_error() -> None:
    with Background() as background:
        jobs = [background.start(lambda i=i: i * i) for i in range(5)]  # type: ignore[misc]
    assert [job.result() for job in jobs] == [0, 1, 4, 9, 16]

    def fails() -> None:
        raise VulkanError("no", "VK_ERROR")

    with pytest.raises(VulkanError), Background() as background:
        background.start(fails)
        other = background.start(lambda: 3)
    assert other.result() == 3 and not threads()


def test_progress_stops_when_a_job_has_failed() -> None:
    def fails() -> None:
        raise TokenizerError("broken vocabulary")

    told: list[tuple[int, int]] = []
    with pytest.raises(TokenizerError, match="broken vocabulary"), Background() as background:
        job = background.start(fails)
        job.thread.join()
        background.watched(lambda done, total: told.append((done, total)))(1, 2)
    assert not told


def after_a_run(device: Device, path: Path) -> int:
    """Bytes still allocated when a model was loaded, has written, and was closed."""
    with fx.load(path, device=device) as m:
        assert len(list(m.start("It was in July", max_tokens=3))) == 3
    del m
    gc.collect()
    return device.memory()["allocated"]


@pytest.mark.parametrize("part", ["tokenizer", "kernels", "weights", "progress"])
def test_a_part_that_fails_fails_the_load(demo_model: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    own = Device()
    allocated = after_a_run(own, demo_model)

    def fails(*_: Any, **__: Any) -> Any:
        raise {"tokenizer": TokenizerError, "progress": KeyboardInterrupt}.get(part, VulkanError)("as planned")

    with monkeypatch.context() as m:
        if part == "tokenizer":
            m.setattr(Tokenizer, "from_gguf", fails)
        elif part == "kernels":
            m.setattr(Runner, "prepare", fails)
        elif part == "weights":
            m.setattr("flux_vk.formats.layout.pack_into", fails)
        wanted = {"tokenizer": TokenizerError, "progress": KeyboardInterrupt}.get(part, VulkanError)
        with pytest.raises(wanted, match="as planned"):
            fx.load(demo_model, device=own, progress=fails if part == "progress" else None)
    assert not threads()
    assert after_a_run(own, demo_model) <= allocated  # the device is as good as before


def test_the_first_step_of_a_loaded_model_makes_no_pipeline(
    device: Device, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """load() has made the kernels of prefill; the first token of a prompt of full tiles needs no other."""
    own = Device(device.info["index"])
    with fx.load(demo_model, device=own, context=128) as m:
        made = len(own.pipelines)
        list(m.start([1] * 64, max_tokens=1))
        assert len(own.pipelines) == made


def test_progress_counts_every_byte(demo_model: Path, device: Device) -> None:
    told: list[tuple[int, int]] = []
    with fx.load(demo_model, device=device, progress=lambda done, total: told.append((done, total))):
        pass
    assert told == sorted(told) and told[-1][0] == told[-1][1]
