"""The PyTorch oracle: against the package's reference forward, against transformers with PEFT, and the stored data.

Skipped where those packages are not installed (the `oracle` extra); the golden data stand in for them then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flux_vk.formats.gguf import open_gguf
from flux_vk.models import reference
from tests.train.golden_data import CASES, RANK, SCALE, golden, read_npz, relative
from tests.train.packed_rows import unpack
from tests.train.tiny_models import ARCHITECTURES, MODELS, lora_tensors, write_tiny

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[oracle]')")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_reference(tmp_path: Path, name: str) -> None:
    """Each sequence of a packed batch with B = 0 against the NumPy forward of that sequence alone."""
    from tests.train.torch_oracle import Oracle, leaves

    m, batch = MODELS[name], golden(name, "all").batch
    got = Oracle(m).logits(batch, leaves(lora_tensors(m, zero_b=True)), SCALE).detach().numpy()
    with open_gguf(write_tiny(m, tmp_path / "tiny.gguf")) as f:
        begin = 0
        for ids, _ in unpack(batch):
            np.testing.assert_allclose(got[begin : begin + len(ids)], reference.forward(f, ids), atol=1e-9)
            begin += len(ids)
    assert got.std() > 0.5


@pytest.mark.parametrize("name,targets", CASES)
def test_golden_gradients_are_reproduced(name: str, targets: str) -> None:
    from tests.train.torch_oracle import gradients

    g = golden(name, targets)
    rows, found = gradients(g.model, g.lora, g.batch, SCALE)
    np.testing.assert_allclose(rows, g.row_losses, rtol=1e-10)
    for weight, (da, db) in found.items():
        assert relative(g.gradients[weight][0], da) < 1e-6, weight
        assert relative(g.gradients[weight][1], db) < 1e-6, weight


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_golden_trainings_are_reproduced(name: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed (pip install '.[oracle]')")
    from tests.train.make_golden import training

    stored, again = read_npz(f"llama-{name}"), training(MODELS["llama"], name)
    assert stored.keys() == again.keys()
    for key, value in again.items():
        np.testing.assert_allclose(stored[key], value, rtol=1e-6, atol=1e-8, err_msg=key)


def test_golden_schedules_are_reproduced() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed (pip install '.[oracle]')")
    from tests.train.make_golden import schedules

    stored, again = read_npz("schedules"), schedules()
    assert stored.keys() == again.keys()
    for key, value in again.items():
        np.testing.assert_allclose(stored[key], value, rtol=1e-12, atol=1e-15, err_msg=key)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("targets", ["all", "qv"])
def test_golden_gradients_are_those_of_transformers_and_peft(name: str, targets: str) -> None:
    """Their model, their adapters, the same weights, one sequence at a time: losses and every gradient."""
    pytest.importorskip("transformers", reason="transformers is not installed (pip install '.[oracle]')")
    pytest.importorskip("peft", reason="PEFT is not installed (pip install '.[oracle]')")
    from tests.train.hugging_face import run

    g = golden(name, targets)
    rows, found = run(g.model, targets, RANK, SCALE, g.batch)
    np.testing.assert_allclose(rows, g.row_losses, rtol=1e-5, atol=1e-6)
    worst = 0.0
    for weight, (da, db) in found.items():
        worst = max(worst, relative(g.gradients[weight][0], da), relative(g.gradients[weight][1], db))
    print(f"{name}, {targets}: largest loss error {np.abs(rows - g.row_losses).max():.1e}, gradient {worst:.1e}")
    assert worst < 1e-5
