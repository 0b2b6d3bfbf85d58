"""Decoding with workgroups that share the context gives the bits of a prompt's step, on both sides of a chunk's end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from flux_vk.engine.buffers import Limits
from flux_vk.engine.runner import Runner
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Device
from flux_vk.models import load_weights, read_config
from tests.engine.test_batch_invariance import decoded, prefilled

CONTEXT = 800


@pytest.fixture(params=[True, False], ids=["shared", "whole"])
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether there are more cores than attention has work for without sharing."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64 if request.param else 1)
    return bool(request.param)


@pytest.mark.parametrize("name", ["gemma3.f32", "qllama.q4_k_m"])
@pytest.mark.parametrize("length", [252, 508, 780])
def test_decode_and_prefill(
    device: Device, reference_dir: Path, rng: np.random.Generator, name: str, length: int, shared: bool
) -> None:
    """Chunks have 512 positions on CPU drivers, 256 on GPUs; gemma3 has layers with a window besides."""
    with open_gguf(reference_dir / "golden" / f"{name}.gguf") as file:
        config = read_config(file)
        weights = load_weights(device, file, config, context=CONTEXT)
    runner = Runner(device, config, weights, Limits(CONTEXT, 2 * CONTEXT, 2, "f16", CONTEXT, False))
    ids = rng.integers(0, config.vocab_size, length).tolist()
    tokens, rows = decoded(runner, ids, 8)
    np.testing.assert_array_equal(prefilled(runner, [*ids, *tokens], length + 8)[length:], rows)
    assert not runner.buffers.counters.numpy().any()
    assert "attention" in (plan := runner.decode_chain(long=True).explain())
    assert ("grid indirect" in plan) == (shared or device.family == "gpu") and "matmul_attention" not in plan
    runner.close()


def test_a_context_of_one_chunk_is_not_shared(device: Device, reference_dir: Path) -> None:
    with open_gguf(reference_dir / "golden" / "gemma3.f32.gguf") as file:
        config = read_config(file)
        weights = load_weights(device, file, config, context=256)
    runner = Runner(device, config, weights, Limits(256, 256, 1, "f16", 64, False))
    assert "indirect" not in runner.decode_chain(long=True).explain()
    runner.close()
