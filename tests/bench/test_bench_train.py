"""`bench train`: what it tells is consistent with itself and with what the device has allocated."""

from __future__ import annotations

import json

import pytest

from flux_vk import bench


def told(capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    capsys.readouterr()
    code = bench.main(["train", "--batch-size", "2", "--length", "16", "--rank", "4", "--format", "json", *options])
    out = capsys.readouterr().out
    assert code == 0
    return dict(json.loads(out))


def test_steps_prompts_memory_and_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--repeat", "2", "--recompute", "--target", "all-linear", "--dropout", "0.1")
    facts, (step, prompt, ratio) = found["facts"], found["results"]
    assert (step["test"], prompt["test"], ratio["test"]) == ("train 2x16", "pp16", "train / prompt")
    assert step["tokens"] == 32 and step["note"] == "recompute"
    assert step["tokens/s"] > 0 and prompt["tokens/s"] > 0 and ratio["tokens/s"] > 0
    parts = ("weights", "adapter", "gradients", "optimizer", "inputs", "activations")
    assert sum(facts[part] for part in parts) == facts["in_all"] == facts["predicted"]
    # Small buffers stand in slabs of 16 MiB.
    assert facts["in_all"] <= facts["allocated"] <= facts["in_all"] + 4 * (16 << 20)
    names = {row["kernel"].split("--")[0] for row in facts["kernels"]}
    assert {"matmul_backward", "attention_back_kv", "cross_entropy", "dropout", "adamw"} <= names
    assert sum(row["share"] for row in facts["kernels"]) == pytest.approx(1.0)


def test_without_prompts_and_profile(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--repeat", "1", "--no-prompts", "--no-profile", "--optim", "sgd")
    assert [row["test"] for row in found["results"]] == ["train 2x16"]
    assert "kernels" not in found["facts"]
    assert found["facts"]["optimizer"] == found["facts"]["adapter"]


def test_longer_than_the_context_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["train", "--length", "300"]) == 2
    assert "the model's context is 256" in capsys.readouterr().err
