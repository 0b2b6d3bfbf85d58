"""`demo`: the agents, the text and the votes; the same on a device and on the reference VM."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flux_vk.cli.flux import main
from flux_vk.cli.flux._simulation import WORDS
from flux_vk.errors import VulkanUnavailable
from flux_vk.flux.trace import read_trace


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(["demo", *argv]) == 0
    return capsys.readouterr().out


def test_shape(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--reference")
    assert "the reference VM" in out and "simulated logits, no model" in out
    for name, weight in (("conservative", "0.5"), ("creative", "0.3"), ("penalty", "0.2")):
        assert re.search(rf"{name} +weight {weight} +\w+", out)
    words = re.search(r"^  ((?:\S+ ?)+)$", out.split("seed 0")[1], re.M)
    assert words and len(words[1].split()) == 20 and set(words[1].split()) <= set(WORDS)
    rows = out.splitlines()[-20:]
    assert [row.split()[1] for row in rows] == words[1].split()
    for row in rows:  # contributions add up to the total, which is more than the runner-up's
        at, _, *numbers = row.split()
        total, second = float(numbers[3]), float(numbers[5])
        assert abs(sum(map(float, numbers[:3])) - total) < 0.002 and total >= second


def test_a_device_and_the_reference_agree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for seed in ("0", "17", str(2**64 - 1)):
        found = []
        for where, more in (("device", ()), ("host", ("--reference",))):
            path = tmp_path / where
            out = shown(capsys, "--seed", seed, "--positions", "30", "--trace", str(path), *more)
            found.append((out.split("\n", 1)[1], read_trace(path)))
            assert ("kernels on" in out) == (where == "device")
        assert found[0][0] == found[1][0]
        for a, b in zip(found[0][1].tokens, found[1][1].tokens, strict=True):
            assert a.id == b.id and [c.score for c in a.candidates] == [c.score for c in b.candidates]


def test_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    first = shown(capsys, "--reference", "--seed", "1")
    assert shown(capsys, "--reference", "--seed", "1") == first
    assert shown(capsys, "--reference", "--seed", "2") != first


def test_without_vulkan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> None:
        raise VulkanUnavailable("no driver here")

    monkeypatch.setattr("flux_vk.gpu.Device", unavailable)
    assert "the reference VM, for there is no Vulkan device" in shown(capsys)
    assert main(["demo", "--device", "0"]) == 1
    assert "no driver here" in capsys.readouterr().err
