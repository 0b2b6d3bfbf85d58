"""The float64 forward pass against logits that llama.cpp computed: every architecture, rope scaling and block type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flux_vk.formats.gguf import open_gguf
from flux_vk.models import reference
from flux_vk.models.config import RopeConfig
from flux_vk.models.rope import frequencies, magnitude, to_turns, yarn_range

F32_FILES = [
    "llama", "llama-small", "llama-bias", "llama-linear", "llama-yarn", "llama-ropefreqs", "llama-swakey",
    "qwen2", "qwen3", "phi3", "phi3-longrope", "gemma2", "gemma3",
]  # fmt: skip
CONTEXT = 512
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", F32_FILES)
def test_f32_files(reference_dir: Path, name: str) -> None:
    """Logits at the recorded positions and behind 24 greedy tokens, argmax and log-sum-exp at every position."""
    check(reference_dir / "golden" / f"{name}.f32.gguf", reference_dir / "golden" / f"{name}.golden.npz")


@pytest.mark.parametrize("name", ["qllama.q4_k", "qllama.q2_k_mix", "qqwen2.q5_1", "qllama.bf16", "phi3.q4_0"])
def test_quantised_files(reference_dir: Path, name: str) -> None:
    """The same on dequantised weights."""
    check(reference_dir / "golden" / f"{name}.gguf", reference_dir / "golden" / f"{name}.golden.npz")


def check(model: Path, golden: Path) -> None:
    with open_gguf(model) as f, np.load(golden) as want:
        for j in range(3):
            prompt, greedy = want[f"ids_{j}"], want[f"greedy_{j}"]
            logits = reference.forward(f, np.concatenate([prompt, greedy]), CONTEXT)
            n = len(prompt)
            assert np.abs(logits[want[f"pos_{j}"]] - want[f"logits_{j}"]).max() < TOLERANCE
            assert np.abs(logits[-2] - want[f"greedy_last_logits_{j}"]).max() < TOLERANCE
            assert logits[n - 1 : -1].argmax(1).tolist() == greedy.tolist()
            lse = np.log(np.exp(logits[:n]).sum(1))
            assert np.abs(lse - want[f"lse_{j}"]).max() < TOLERANCE


def test_yarn_numbers() -> None:
    """Worked by hand: base 10000, 32 rotated elements, original context 64, factor 4."""
    rope = RopeConfig(base=10000.0, n_rot=32, neox=False, scaling="yarn", factor=4.0, original_context=64)
    # pair_of(32) = 32 ln(64 / 64 pi) / (2 ln 10000) = -1.99 -> 0; pair_of(1) = 32 ln(64 / 2 pi) / ... = 4.03 -> 5
    assert yarn_range(rope) == (0.0, 5.0)
    w = frequencies(rope)
    assert w[0] == pytest.approx(1.0)  # not scaled at all
    assert w[15] == pytest.approx(10000.0 ** (-30 / 32) / 4)  # divided by the factor
    assert w[1] == pytest.approx(10000.0 ** (-2 / 32) * (0.2 / 4 + 0.8))
    assert magnitude(rope) == pytest.approx(1 + 0.1 * np.log(4))


def test_turns() -> None:
    """Fractions of a turn in 2^-32: whole turns vanish, rounding never reaches 2^32."""
    w = 2 * np.pi * np.array([0.25, 1.5, 0.0, 1 - 1e-12])
    assert to_turns(w).tolist() == [1 << 30, 1 << 31, 0, 0]
