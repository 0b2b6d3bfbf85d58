"""A row's logits are the same bits alone, among others, and however a prompt was cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.decode import SamplingParams
from flux_vk.engine.buffers import Limits
from flux_vk.engine.runner import Runner
from flux_vk.engine.sequence import Sequence
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Chain, Device
from flux_vk.models import build_step, load_weights, read_config

LENGTH = 100
CHUNKS = (1, 7, 31, 32, 33, 64, LENGTH)
SEQUENCES = 8
ROWS = 32
GOLDEN = ("gemma2.f32", "gemma3.f32", "phi3.f32", "qwen3.f32", "qllama.q4_k_m", "qqwen2.q5_0", "qllama.iq4_xs")

Bits = npt.NDArray[np.uint32]


@pytest.fixture(autouse=True)
def one_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the GPU family is asked for, prompts take the kernels of decode, unless a test says otherwise."""
    monkeypatch.setenv("FLUX_VK_PREFILL", "exact")


@contextmanager
def running(device: Device, path: Path, kv_type: str = "f32") -> Iterator[Runner]:
    """A runner without a tokenizer, which takes whole prompts in one step."""
    with open_gguf(path) as file:
        config = read_config(file)
        weights = load_weights(device, file, config, context=128)
    runner = Runner(device, config, weights, Limits(128, 128 * SEQUENCES, SEQUENCES, kv_type, 128, False))
    yield runner
    runner.close()


def bits(logits: npt.NDArray[np.float32] | None) -> Bits:
    assert logits is not None and np.isfinite(logits).all()
    return logits.view(np.uint32)


def prefilled(runner: Runner, ids: list[int], chunk: int) -> Bits:
    """Logits of every position, `chunk` rows a step."""
    sequence = runner.open_sequence()
    parts = [bits(runner.prefill(sequence, ids[i : i + chunk], logits=True)) for i in range(0, len(ids), chunk)]
    runner.close_sequence(sequence)
    return np.concatenate(parts)


def decoded(runner: Runner, ids: list[int], n: int) -> tuple[list[int], Bits]:
    """n greedy tokens by decode chains, and the logits that each was drawn from."""
    sequence = runner.open_sequence()
    runner.set_sampling(sequence, SamplingParams(temperature=0), ids)
    runner.prefill(sequence, ids, sample=True)
    batch = runner.open_batch()
    batch.compose([sequence])
    tokens, rows = [], []
    for _ in range(n):
        tokens.append(runner.sampler.token(sequence.slot, sequence.length))
        batch.start()
        batch.finish()
        sequence.cached.append(tokens[-1])
        rows.append(runner.buffers.logits.rows(0, 1).numpy()[0])
    batch.close()
    runner.close_sequence(sequence)
    return tokens, bits(np.stack(rows))


def mixed(runner: Runner, rows: list[tuple[Sequence, int, int]]) -> Bits:
    """One ragged step over (sequence, token, position); logits of all rows."""
    b, n = runner.buffers, len(rows)
    for sequence, _, position in rows:
        sequence.table.reach(position)
        b.write_table(sequence.slot, sequence.table)
    b.ids.view()[:n] = [token for _, token, _ in rows]
    b.pos.view()[:n] = [position for _, _, position in rows]
    b.slot.view()[:n] = [sequence.slot for sequence, _, _ in rows]
    chain = Chain(runner.device, name="ragged step")
    io = b.step_io(b.ids.rows(0, n), b.pos.rows(0, n), b.slot.rows(0, n), n)
    build_step(chain, runner.config, b.weights, io, rows=n, n_logits=n)
    chain.run()
    return bits(b.logits.rows(0, n).numpy())


def check(runner: Runner, rng: np.random.Generator) -> None:
    vocab = runner.config.vocab_size
    ids = rng.integers(0, vocab, LENGTH).tolist()
    whole = prefilled(runner, ids, LENGTH)
    for chunk in CHUNKS[1:-1]:
        np.testing.assert_array_equal(prefilled(runner, ids, chunk), whole, err_msg=f"chunks of {chunk}")
    np.testing.assert_array_equal(prefilled(runner, ids[:40], 1), whole[:40], err_msg="row by row")
    tokens, rows = decoded(runner, ids[:30], 5)
    np.testing.assert_array_equal(prefilled(runner, [*ids[:30], *tokens], 35)[30:], rows, err_msg="decode and prefill")

    ours, *others = [runner.open_sequence() for _ in range(SEQUENCES)]
    runner.prefill(ours, ids[:70])
    row = (ours, ids[70], 70)
    crowd: list[tuple[Sequence, int, int]] = []
    for i, other in enumerate(others):
        length = int(rng.integers(1, 90))
        runner.prefill(other, rng.integers(0, vocab, length).tolist())
        count = 5 if i < 3 else 4  # 31 rows over seven sequences
        crowd += [(other, int(rng.integers(0, vocab)), length + j) for j in range(count)]
    assert len(crowd) == ROWS - 1
    alone = [mixed(runner, [r])[0] for r in (row, *crowd)]
    np.testing.assert_array_equal(alone[0], whole[70])
    for at in (0, 13, ROWS - 1):
        together = mixed(runner, [*crowd[:at], row, *crowd[at:]])
        np.testing.assert_array_equal(together, [*alone[1 : at + 1], alone[0], *alone[at + 1 :]], err_msg=f"row {at}")
    for sequence in (ours, *others):
        runner.close_sequence(sequence)


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_demo_model(device: Device, demo_model: Path, rng: np.random.Generator, kv_type: str) -> None:
    with running(device, demo_model, kv_type) as runner:
        check(runner, rng)


@pytest.mark.parametrize("name", GOLDEN)
def test_architectures_and_types(device: Device, reference_dir: Path, rng: np.random.Generator, name: str) -> None:
    with running(device, reference_dir / "golden" / f"{name}.gguf") as runner:
        check(runner, rng)


@pytest.mark.parametrize("arithmetic", ["f32", "f16"])
def test_prompts_by_tiles(
    device: Device, reference_dir: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, arithmetic: str
) -> None:
    """On GPUs a prompt's bits do not depend on how it is cut either, and are near those of decode's kernels."""
    monkeypatch.setenv("FLUX_VK_FAMILY", "gpu")
    with running(device, reference_dir / "golden" / "qllama.q4_k_m.gguf") as runner:
        ids = rng.integers(0, runner.config.vocab_size, 40).tolist()
        exact = prefilled(runner, ids, 40).view(np.float32)
    monkeypatch.setenv("FLUX_VK_PREFILL", arithmetic)
    with running(device, reference_dir / "golden" / "qllama.q4_k_m.gguf") as runner:
        names = {s.name.split("--")[0] for s in runner.prefill_chain(8, 1, False).plan().steps}
        assert "matmul_tile" in names
        whole = prefilled(runner, ids, 40)
        for chunk in (1, 7, 33):
            np.testing.assert_array_equal(prefilled(runner, ids, chunk), whole, err_msg=f"chunks of {chunk}")
    error = float(((whole.view(np.float32) - exact) ** 2).sum() / (exact**2).sum())
    assert error < (1e-9 if arithmetic == "f32" else 1e-4)
