"""The chain of a training step: submits, recordings, what is computed again, what cannot be trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flux_vk.errors import InputError, ModelError
from flux_vk.gpu import Device
from flux_vk.models import llama, registry
from flux_vk.train.base import Base, device_like, load_base
from flux_vk.train.batches import Example, MicroBatch, micro_batch
from flux_vk.train.engine import Engine, Rules
from flux_vk.train.lora import LoRA
from flux_vk.train.protocol import Update

ALL = LoRA(rank=4, alpha=8.0, target=("all-linear",))


def batch(rows: int, seed: int = 0) -> MicroBatch:
    ids = np.random.default_rng(seed).integers(3, 2000, rows + 1).astype(np.uint32)
    return micro_batch([Example(ids[:-1], ids[1:])])


@pytest.fixture
def planned(demo_model: Path, device: Device) -> Base:
    """The demo model on a device that only records."""
    return load_base(demo_model, device_like(device), 64, fill=False)


def kernels(base: Base, lora: LoRA, kind: str, recompute: bool = False, scope: str = "") -> list[str]:
    chain = Engine(base, lora, 64, recompute=recompute).chain(64, kind)
    steps = zip(chain.steps, chain.tags, strict=True)
    return [step.name.split("--")[0] for step, tag in steps if scope in ("", tag)]


def test_one_submit_a_micro_batch_recorded_once(demo_model: Path, device: Device) -> None:
    engine = Engine(load_base(demo_model, device, 64), ALL, 64)
    counts = device.counts
    for i, want in enumerate([(1, 1), (1, 0), (1, 1), (1, 0)]):  # (submits, recordings)
        before = replace(counts)
        update = Update(1e-3, 1, 64) if i >= 2 else None
        result = engine.forward_backward(batch(32, i), update)
        taken = counts - before
        assert (taken.submits, taken.recordings) == want
        assert (result.grad_norm is None) == (update is None)
    before = replace(counts)
    engine.evaluate(batch(32))
    assert (counts - before).submits == 1


def test_layers_below_the_first_adapter_have_no_backward_part(planned: Base) -> None:
    every = kernels(planned, ALL, "gradient", scope="backward")
    assert every.count("attention_back_q") == planned.config.n_layers
    down = kernels(planned, LoRA(rank=4, alpha=8.0, target=("down",)), "gradient", scope="backward")
    assert down.count("attention_back_q") == planned.config.n_layers - 1
    assert "embed_backward" not in every
    assert not kernels(planned, ALL, "loss", scope="backward")


def test_what_nobody_reads_is_not_computed_again(planned: Base) -> None:
    """The last product of a layer and the gated unit in front of it, where no adapter needs them."""
    qv = LoRA(rank=4, alpha=8.0)
    again = kernels(planned, qv, "gradient", recompute=True, scope="recompute")
    assert again.count("attention_train") == planned.config.n_layers
    assert "swiglu" not in again
    per_layer = 3 + 1 + 2  # q, k, v; output; gate, up: without down
    assert again.count("matmul_train") + again.count("matmul") == per_layer * planned.config.n_layers
    assert not kernels(planned, qv, "gradient", scope="recompute")
    assert "swiglu" in kernels(planned, ALL, "gradient", recompute=True, scope="recompute")


def test_an_architecture_of_ones_own_trains_as_it_is(
    demo_model: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = SimpleNamespace(**{name: getattr(llama, name) for name in ("read_config", "layer_tensors", "layer")})
    base = load_base(demo_model, device, 64)
    want = Engine(base, ALL, 64).forward_backward(batch(32)).loss
    monkeypatch.setitem(registry._registered, "llama", own)
    engine = Engine(base, ALL, 64)
    assert engine.forward_backward(batch(32)).loss == want
    for name in ("chain", "mixture_of_experts"):  # kernels of its own have no gradient that anybody knows
        own.layer = lambda s, i, x, name=name: getattr(s, name)
        with pytest.raises(ModelError, match=f"step.{name}, which cannot be trained"):
            Engine(base, ALL, 64).chain(32, "gradient")


def test_sizes_and_names_that_do_not_fit(planned: Base) -> None:
    engine = Engine(planned, ALL, 64)
    with pytest.raises(InputError, match="65 rows"):
        engine.forward_backward(batch(65))
    with pytest.raises(InputError, match="optim"):
        Rules(optim="adam")
    with pytest.raises(InputError, match="qkv"):
        Engine(planned, LoRA(target=("qkv",)), 64)
    state = engine.state()
    with pytest.raises(InputError, match="'v'"):
        engine.load_state({name: array for name, array in state.items() if name != "v"})
    with pytest.raises(InputError, match="rank or targets"):
        engine.load_state({**state, "m": np.zeros(3, np.float32)})
