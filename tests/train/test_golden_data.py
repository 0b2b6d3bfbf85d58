"""The golden data of the training tests, checked without PyTorch: by finite differences, formulas and counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.train.golden_data import CASES, SCALE, golden, read_batch, read_npz
from tests.train.numpy_oracle import load_merged, row_losses
from tests.train.packed_rows import IGNORED, pack, unpack
from tests.train.tiny_models import MODELS, linears, lora_tensors, write_tiny

F64 = npt.NDArray[np.float64]
Pairs = dict[str, tuple[F64, F64]]
STEP = 1e-4


@pytest.mark.parametrize("name,targets", CASES)
def test_gradients_are_slopes_of_the_loss(tmp_path: Path, rng: np.random.Generator, name: str, targets: str) -> None:
    """Central differences of the reference's loss along every stored gradient, and along a random direction."""
    g = golden(name, targets)
    model = load_merged(write_tiny(g.model, tmp_path / "tiny.gguf"))
    start = wide(g.lora)

    def loss(pairs: Pairs) -> float:
        model.set_adapters(pairs, SCALE)
        return float(row_losses(model, g.batch).sum())

    model.set_adapters(start, SCALE)
    np.testing.assert_allclose(row_losses(model, g.batch), g.row_losses, rtol=1e-7, atol=1e-9)
    for weight, grads in g.gradients.items():
        for side in (0, 1):
            stored = grads[side].astype(np.float64)
            norm = np.linalg.norm(stored)
            for direction in (stored / norm, unit(rng.standard_normal(stored.shape))):
                slope = difference(loss, start, weight, side, direction)
                assert slope == pytest.approx(np.vdot(stored, direction), abs=2e-6 * norm), f"{weight}, {'AB'[side]}"


def difference(loss: Callable[[Pairs], float], start: Pairs, weight: str, side: int, direction: F64) -> float:
    """The loss's slope where A (side 0) or B of one weight moves along `direction`."""
    values = []
    for sign in (1.0, -1.0):
        a, b = start[weight]
        moved = sign * STEP * direction
        values.append(loss({**start, weight: (a, b + moved) if side else (a + moved, b)}))
    return (values[0] - values[1]) / (2.0 * STEP)


def wide(pairs: Mapping[str, tuple[Any, Any]]) -> Pairs:
    return {weight: (a.astype(np.float64), b.astype(np.float64)) for weight, (a, b) in pairs.items()}


def unit(x: F64) -> F64:
    return np.asarray(x / np.linalg.norm(x))


def test_every_linear_layer_has_gradients() -> None:
    for name, targets in CASES:
        g = golden(name, targets)
        wanted = linears(g.model) if targets == "all" else g.lora
        assert g.gradients.keys() == wanted.keys() and g.gradients.keys() == g.lora.keys()
        for weight, (rows, columns) in linears(g.model).items():
            if weight in g.gradients:
                assert [x.shape for x in g.gradients[weight]] == [(4, columns), (rows, 4)]


@pytest.mark.parametrize("name", MODELS)
def test_batches_have_what_can_go_wrong(name: str) -> None:
    """Several unequal sequences, prompts, padding; windows that end inside a sequence; ignored rows lose nothing."""
    g = golden(name, "all")
    lengths = [len(ids) for ids, _ in unpack(g.batch)]
    assert lengths == [17, 5, 11] and len(g.batch) == 40 and g.batch.tokens == 33
    assert g.batch.counted == 33 - 3 - 8 and g.model.window < 11
    assert ((g.row_losses > 0) == (g.batch.labels != IGNORED)).all()
    again = pack(unpack(g.batch), rows=40)
    for field in ("ids", "pos", "first", "last", "labels"):
        assert np.array_equal(getattr(again, field), getattr(g.batch, field)), field


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_trainings_begin_at_the_models_own_loss_and_learn(tmp_path: Path, name: str) -> None:
    z, m = read_npz(f"llama-{name}"), MODELS["llama"]
    model = load_merged(write_tiny(m, tmp_path / "tiny.gguf"))
    for i, loss in zip(z["order"][0], z["losses"][0], strict=True):
        assert row_losses(model, read_batch(z, i)).sum() == pytest.approx(loss, rel=1e-9)
    assert np.array_equal(z["order"][0], z["order"][2])
    assert (z["losses"][2] < 0.9 * z["losses"][0]).all() and (z["losses"][4] < z["losses"][2]).all()
    assert (z["grad_norms"] > float(z["clip"])).all(), "no step would show a missing clip"
    for weight in lora_tensors(m):
        assert np.linalg.norm(z[f"b/{weight}"]) > 0.01


def test_final_parameters_give_a_lower_loss(tmp_path: Path) -> None:
    """The stored adapters of both trainings, put on the model, have learnt the batches they were trained on."""
    m = MODELS["llama"]
    model = load_merged(write_tiny(m, tmp_path / "tiny.gguf"))
    for name in ("adamw", "sgd"):
        z = read_npz(f"llama-{name}")
        model.set_adapters(wide({w: (z[f"a/{w}"], z[f"b/{w}"]) for w in lora_tensors(m)}), SCALE)
        for i, before in zip(z["order"][-1], z["losses"][-1], strict=True):
            assert row_losses(model, read_batch(z, i)).sum() < before


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_schedules_have_their_corners(warmup: int) -> None:
    """From 0 up to the peak, then down to the end, the same way on both sides of the middle; the constant one stays."""
    z = read_npz("schedules")
    total, peak = int(z["total"]), float(z["peak"])
    ends = {"cosine": 0.0, "linear": 0.0, "constant": peak, "cosine-min": float(z["lowest"])}
    for kind, end in ends.items():
        rates = z[f"{kind}/{warmup}"]
        assert len(rates) == total + 1
        rise = np.arange(warmup + 1) / warmup if warmup else [1.0]
        np.testing.assert_allclose(rates[: warmup + 1] / peak, rise)
        assert rates[-1] == pytest.approx(end, abs=1e-18)
        np.testing.assert_allclose(rates[warmup:] + rates[warmup:][::-1], peak + end, rtol=1e-12)
