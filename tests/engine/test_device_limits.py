"""The engine on devices with narrower limits than this one's: coarse alignment of ranges, small bindings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flux_vk as fx
from flux_vk.gpu import Device, arguments

PROMPT = "It was in July, 1805"


def generated(path: Path, device: Device, **load: Any) -> list[int]:
    with fx.load(path, device=device, context=96, sequences=1, **load) as model:
        generation = model.start(PROMPT, fx.SamplingParams(temperature=0), max_tokens=24)
        for _ in generation:
            pass
        return list(generation.tokens)


@pytest.fixture(scope="module")
def usual(demo_model: Path, device: Device) -> list[int]:
    return generated(demo_model, device)


@pytest.mark.parametrize("alignment", [64, 256])
def test_coarse_alignment(demo_model: Path, device: Device, usual: list[int], alignment: int) -> None:
    """Vulkan allows up to 256 bytes between the places where a range may begin; llvmpipe asks for 16."""
    narrow = Device(device.info["index"])
    narrow.limits["storage_alignment"] = alignment
    assert generated(demo_model, narrow) == usual


def test_small_bindings(
    demo_model: Path, device: Device, usual: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights larger than one binding are bound in windows; the text is the same."""
    narrow = Device(device.info["index"])
    narrow.limits["max_storage_buffer_range"] = 1 << 18
    windowed: set[str] = set()
    build = arguments.build

    def counting(device: Any, kernel: str, *rest: Any) -> Any:
        made = build(device, kernel, *rest)
        if len(made) > 1:
            windowed.add(kernel)
        return made

    monkeypatch.setattr(arguments, "build", counting)
    assert generated(demo_model, narrow) == usual
    assert windowed == {"embed", "matmul"}
