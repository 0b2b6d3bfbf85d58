"""The training engine against PyTorch's numbers: losses, every adapter's gradients, short trainings; and its laws.

The numbers are stored (golden/README.md); PyTorch is not needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flux_vk.gpu import Device
from flux_vk.train.base import Base
from flux_vk.train.engine import Rules
from flux_vk.train.protocol import Update
from tests.train.engine_case import Found, gradients, micro, tiny_base, tiny_engine
from tests.train.golden_data import RANK, SCALE, Golden, golden, read_batch, read_npz, relative
from tests.train.packed_rows import pack, random_batch, unpack
from tests.train.tiny_models import ARCHITECTURES, MODELS, lora_tensors

pytestmark = pytest.mark.kernel
TOLERANCE = 1e-3
"""What is asked of every gradient on every device, |got - want| / |want|."""
CPU_TOLERANCE = 3e-5
"""What a CPU driver keeps, where no product is in less than float32 (2e-6 seen; PyTorch in float32 is as far off)."""


@pytest.fixture
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A family of kernel shapes, on whatever device there is."""
    monkeypatch.setenv("FLUX_VK_FAMILY", request.param)
    return str(request.param)


@pytest.fixture
def llama(tmp_path: Path, device: Device) -> Base:
    return tiny_base("llama", tmp_path, device)


@pytest.fixture
def tolerance(device: Device) -> float:
    return CPU_TOLERANCE if device.kind == "cpu" else TOLERANCE


def compare(found: Found, want: Golden, tolerance: float) -> None:
    """Loss and every gradient within the tolerance; prints the worst."""
    assert found.gradients.keys() == want.gradients.keys()
    errors = {"loss": abs(found.loss / want.loss - 1.0)}
    for weight, (da, db) in want.gradients.items():
        errors[f"dA of {weight}"] = relative(found.gradients[weight][0], da)
        errors[f"dB of {weight}"] = relative(found.gradients[weight][1], db)
    worst = max(errors, key=lambda key: errors[key])
    print(f"{want.model.name}: loss error {errors['loss']:.1e}, worst {errors[worst]:.1e} ({worst})")
    assert not {key: error for key, error in errors.items() if not error < tolerance}


@pytest.mark.parametrize(
    ("family", "name"),
    [*(("cpu", name) for name in ARCHITECTURES), *(("gpu", name) for name in ("llama", "qwen2", "gemma2", "phi3"))],
    indirect=["family"],
)
def test_gradients_of_every_architecture(
    device: Device, tmp_path: Path, family: str, tolerance: float, name: str
) -> None:
    """All linear layers; activations kept and recomputed give the same bits.

    As GPUs do it, with one size of heads only: a kernel compiled for every other takes seconds.
    """
    want, base = golden(name, "all"), tiny_base(name, tmp_path, device)
    found = [
        gradients(tiny_engine(base, want.lora, "all", SCALE, len(want.batch), recompute=recompute), want.batch)
        for recompute in (False, True)
    ]
    compare(found[0], want, tolerance)
    assert found[0].loss == found[1].loss
    for weight, pair in found[0].gradients.items():
        for side in (0, 1):
            assert np.array_equal(pair[side], found[1].gradients[weight][side]), f"{weight}, {'AB'[side]}: recomputed"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_of_q_and_v(device: Device, tmp_path: Path, tolerance: float, name: str) -> None:
    """Layers without an adapter pass gradients on."""
    want, base = golden(name, "qv"), tiny_base(name, tmp_path, device)
    compare(gradients(tiny_engine(base, want.lora, "qv", SCALE, len(want.batch)), want.batch), want, tolerance)


@pytest.mark.parametrize(
    ("family", "name"), [("cpu", "qwen2-q8_0"), ("cpu", "llama-k"), ("gpu", "qwen2-q8_0")], indirect=["family"]
)
def test_gradients_through_quantised_weights(
    device: Device, tmp_path: Path, family: str, tolerance: float, name: str
) -> None:
    want, base = golden(name, "all"), tiny_base(name, tmp_path, device)
    engine = tiny_engine(base, want.lora, "all", SCALE, len(want.batch), recompute=True)
    compare(gradients(engine, want.batch), want, tolerance)


def test_nothing_reaches_a_where_b_is_zero(llama: Base) -> None:
    """dA = 0 to the last bit (Adam would make a full step of any rounding error), and no dB is 0."""
    batch = golden("llama", "all").batch
    engine = tiny_engine(llama, lora_tensors(MODELS["llama"], "all", RANK, zero_b=True), "all", SCALE, len(batch))
    for weight, (da, db) in gradients(engine, batch).gradients.items():
        assert not da.any(), weight
        assert np.linalg.norm(db) > 0.1 and np.isfinite(db).all(), weight


def test_a_packed_batch_is_the_sum_of_its_sequences(llama: Base, tolerance: float) -> None:
    """Each sequence alone, added up by the engine, gives what they give packed; so do they in another order."""
    want = golden("llama", "all")
    engine = tiny_engine(llama, want.lora, "all", SCALE, len(want.batch))
    sequences = unpack(want.batch)
    engine.clear_gradients()
    loss = sum(engine.forward_backward(micro(pack([s]))).loss for s in sequences)
    compare(Found(loss, engine.gradients()), want, tolerance)
    compare(gradients(engine, pack(sequences[::-1], rows=40)), want, tolerance)


def test_padding_changes_nothing(llama: Base, tolerance: float) -> None:
    """Rows of padding add neither loss nor gradient: none, 7 or 31 of them."""
    want = golden("llama", "all")
    engine = tiny_engine(llama, want.lora, "all", SCALE, 64)
    for rows in (33, 64):
        compare(gradients(engine, pack(unpack(want.batch), rows)), want, tolerance)


def test_ignored_labels_give_no_gradient(llama: Base) -> None:
    """A batch whose labels are all ignored: loss and gradients are exactly 0."""
    want = golden("llama", "all")
    engine = tiny_engine(llama, want.lora, "all", SCALE, len(want.batch))
    found = gradients(engine, random_batch("silent", (20, 13), (20, 13), 40, want.model.vocab))
    assert found.loss == 0.0
    assert not any(x.any() for pair in found.gradients.values() for x in pair)


def test_evaluation_is_the_loss_alone(llama: Base) -> None:
    """The same loss, and gradients that were added up before stay."""
    want = golden("llama", "all")
    engine = tiny_engine(llama, want.lora, "all", SCALE, len(want.batch))
    before = gradients(engine, want.batch)
    assert engine.evaluate(micro(want.batch)) == pytest.approx(want.loss, rel=1e-5)
    for weight, pair in engine.gradients().items():
        assert np.array_equal(pair[0], before.gradients[weight][0]), weight


@pytest.mark.parametrize("optim", ["adamw", "sgd"])
def test_short_trainings(llama: Base, tolerance: float, optim: str) -> None:
    """Five steps of two micro-batches, clipped, with weight decay, at rates of a cosine: losses, norms, parameters.

    Adam divides small gradients by small numbers: the parameters' changes may be off by more than the gradients.
    """
    z, m = read_npz(f"llama-{optim}"), MODELS["llama"]
    constants = {key: float(z[key]) for key in ("beta1", "beta2", "eps", "momentum", "weight_decay", "clip")}
    start = lora_tensors(m, "all", RANK, zero_b=True)
    engine = tiny_engine(llama, start, "all", SCALE, 40, rules=Rules(optim, **constants))
    weights = {name: llama.weights[name].numpy() for name in llama.weights}
    batches = [micro(read_batch(z, i)) for i in range(len(z["ids"]))]
    losses, norms = [], []
    for step, (order, lr) in enumerate(zip(z["order"], z["lr"], strict=True), start=1):
        update = Update(float(lr), step, sum(batches[i].counted for i in order))
        results = [engine.forward_backward(batches[i], update if i == order[-1] else None) for i in order]
        losses.append([r.loss for r in results])
        norms.append(results[-1].grad_norm)
    np.testing.assert_allclose(losses, z["losses"], rtol=tolerance)
    np.testing.assert_allclose(norms, z["grad_norms"], rtol=tolerance)
    for name, before in weights.items():
        assert np.array_equal(llama.weights[name].numpy(), before), f"{name} is frozen"
    errors = {}
    for weight, pair in engine.adapter().tensors.items():
        a, b = start[weight]
        errors[f"A of {weight}"] = relative(pair.a - a, z[f"a/{weight}"] - a)
        errors[f"B of {weight}"] = relative(pair.b - b, z[f"b/{weight}"] - b)
    worst = max(errors, key=lambda key: errors[key])
    print(f"{optim}: losses off by {np.abs(np.array(losses) / z['losses'] - 1).max():.1e}, {worst} {errors[worst]:.1e}")
    assert not {key: error for key, error in errors.items() if not error < 10 * tolerance}
