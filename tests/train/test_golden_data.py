"""The golden data of the training tests, checked without PyTorch: by finite differences and counts; the schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.train.schedules import Schedule
from tests.train.golden_data import CASES, SCALE, Golden, golden, read_batch, read_npz
from tests.train.numpy_oracle import load_merged, row_losses
from tests.train.packed_rows import IGNORED, pack, unpack
from tests.train.tiny_models import MODELS, linears, lora_tensors, write_tiny

F64 = npt.NDArray[np.float64]
Pairs = dict[str, tuple[F64, F64]]
STEP = 1e-4


@pytest.mark.parametrize("name,targets", [(name, targets) for name, targets in CASES if not MODELS[name].types])
def test_gradients_are_slopes_of_the_loss(tmp_path: Path, rng: np.random.Generator, name: str, targets: str) -> None:
    """Central differences of the reference's loss along every stored gradient, and along a random direction."""
    g = golden(name, targets)
    loss, start = loss_of(g, tmp_path), wide(g.lora)
    for weight, grads in wide(g.gradients).items():
        for side in (0, 1):
            norm = np.linalg.norm(grads[side])
            for direction in (unit(grads[side]), unit(rng.standard_normal(grads[side].shape))):
                pair = (0.0, direction) if side else (direction, 0.0)
                want = np.vdot(grads[side], direction)
                slope = difference(loss, start, {weight: pair})
                assert slope == pytest.approx(want, abs=2e-6 * norm), f"{weight}, {'AB'[side]}"


@pytest.mark.parametrize("name", [name for name, m in MODELS.items() if m.types])
def test_gradients_through_blocks_are_slopes_of_the_loss(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    """Quantised weights, dequantised: along sums of all gradients with random factors, since this takes longer."""
    g = golden(name, "all")
    loss, start, stored = loss_of(g, tmp_path), wide(g.lora), wide(g.gradients)
    for _ in range(4):
        parts = {weight: tuple(unit(x) * rng.uniform(-1, 1) for x in pair) for weight, pair in stored.items()}
        slope = difference(loss, start, parts)
        want = sum(np.vdot(x, d) for weight, pair in parts.items() for x, d in zip(stored[weight], pair, strict=True))
        norm = np.sqrt(sum(np.linalg.norm(x) ** 2 for pair in stored.values() for x in pair))
        assert slope == pytest.approx(want, abs=1e-5 * norm)


def loss_of(g: Golden, folder: Path) -> Callable[[Pairs], float]:
    """The reference's loss as a function of all A and B, once it has been seen to be the stored one at theirs."""
    model = load_merged(write_tiny(g.model, folder / "tiny.gguf"))
    model.set_adapters(wide(g.lora), SCALE)
    np.testing.assert_allclose(row_losses(model, g.batch), g.row_losses, rtol=1e-7, atol=1e-9)

    def loss(pairs: Pairs) -> float:
        model.set_adapters(pairs, SCALE)
        return float(row_losses(model, g.batch).sum())

    return loss


def difference(loss: Callable[[Pairs], float], start: Pairs, direction: Mapping[str, Any]) -> float:
    """The loss's slope where these A and B move along (dA, dB)."""
    values = []
    for h in (STEP, -STEP):
        moved = {w: (start[w][0] + h * da, start[w][1] + h * db) for w, (da, db) in direction.items()}
        values.append(loss({**start, **moved}))
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


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "cosine-min"])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_schedules_of_the_package(name: str, warmup: int) -> None:
    """Every step's rate is that of transformers' schedule of the same name."""
    z = read_npz("schedules")
    lowest = float(z["lowest"]) if name == "cosine-min" else 0.0
    schedule = Schedule(name.split("-")[0], float(z["peak"]), int(z["total"]), warmup, lowest)
    rates = [schedule.rate(step) for step in range(int(z["total"]) + 1)]
    np.testing.assert_allclose(rates, z[f"{name}/{warmup}"], rtol=1e-12, atol=1e-18)
