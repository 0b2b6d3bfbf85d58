"""The engine's own laws: dropout's gradients and streams, tiles of the head, fresh adapters, how many rows fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.formats.adapter import Adapter, LoraPair
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.null import NullDevice
from flux_vk.train.base import Base, load_base
from flux_vk.train.engine import Engine
from flux_vk.train.lora import LoRA, flat_from, initial, make_layout
from tests.train.engine_case import Found, gradients, micro, tiny_base, tiny_engine
from tests.train.golden_data import SCALE, golden, relative
from tests.train.packed_rows import pack, unpack
from tests.train.tiny_models import MODELS, write_tiny

ALL = LoRA(rank=4, alpha=4 * SCALE, dropout=0.3, target=("all-linear",))


@pytest.fixture
def null_base(tmp_path: Path) -> Base:
    """The weights' places, on a device that only records."""
    return load_base(write_tiny(MODELS["llama"], tmp_path / "null.gguf"), NullDevice(), fill=False)


def start_of(base: Base, spec: LoRA, alpha: float) -> np.ndarray:
    """The golden adapter, written with this alpha, as numbers for `spec`."""
    pairs = {name: LoraPair(a, b) for name, (a, b) in golden("llama", "all").lora.items()}
    return flat_from(make_layout(base.config, spec), Adapter("llama", alpha, pairs))


def sides(engine: Engine) -> dict[str, np.ndarray]:
    """The gradients of all A and of all B, each as a flat array with zeros elsewhere."""
    flat, found = engine.grads.numpy(), {}
    for side in (0, 1):
        only = np.zeros_like(flat)
        for _, *parts in engine.layout.matrices():
            only[parts[side]] = flat[parts[side]]
        found["AB"[side]] = only
    return found


@pytest.mark.kernel
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_with_dropout(device: Device, tmp_path: Path, recompute: bool) -> None:
    """Along its gradient the loss rises as that says: central differences, with the same elements left out."""
    base, batch = tiny_base("llama", tmp_path, device), micro(golden("llama", "all").batch)
    engine = Engine(base, ALL, len(batch.ids), recompute=recompute, seed=3, start=start_of(base, ALL, ALL.alpha))
    start = engine.params.numpy()

    def loss(at: np.ndarray) -> float:
        engine.params.write(at.astype(np.float32))
        engine.micro = 5  # what dropout is counted by
        return engine.forward_backward(batch).loss

    first = loss(start)
    along = sides(engine)
    for side, gradient in along.items():
        length = np.linalg.norm(gradient)
        step = 0.1 / length  # a change of 0.2 in all
        slope = (loss(start + step * gradient / length) - loss(start - step * gradient / length)) / (2 * step)
        print(f"{side}: {slope / length - 1:.1e}")
        assert slope == pytest.approx(length, rel=0.01), side
    assert loss(start) == first
    assert engine.forward_backward(batch).loss != first, "the next micro-batch leaves out others"


def test_every_layer_leaves_out_others(null_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """q, k and v read the same rows; each has a stream of its own, the same forward and backward."""
    seen: list[int] = []

    def spy(chain: Chain, **given: Any) -> Chain:
        seen.append(given["site"])
        return chain.dispatch("dropout", **given)

    monkeypatch.setattr(Chain, "dropout", spy, raising=False)
    engine = Engine(null_base, ALL, 64)
    engine.chain(64, "gradient")
    forward = seen[: len(engine.pairs)]
    assert sorted(forward) == list(range(len(engine.pairs)))
    assert set(seen[len(forward) :]) == set(forward)
    seen.clear()
    engine.chain(64, "loss")
    assert not seen


@pytest.mark.kernel
def test_the_head_in_several_tiles(device: Device, tmp_path: Path) -> None:
    """More rows than logits exist for at a time, the last tile not full: three times the batch, three times all."""
    want, base = golden("llama", "all"), tiny_base("llama", tmp_path, device)
    engine = tiny_engine(base, want.lora, "all", SCALE, 99)
    found = gradients(engine, pack(unpack(want.batch) * 3))
    thrice = Found(3 * want.loss, {name: (3 * a, 3 * b) for name, (a, b) in want.gradients.items()})
    assert found.loss == pytest.approx(thrice.loss, rel=1e-3)
    for weight, pair in found.gradients.items():
        for side in (0, 1):
            assert relative(pair[side], thrice.gradients[weight][side]) < 1e-3, weight


def test_an_adapter_of_another_alpha_begins_as_the_same_layer(null_base: Base) -> None:
    """s B A stays as it was: B takes what the scales differ by."""
    same, half = start_of(null_base, ALL, ALL.alpha), start_of(null_base, ALL, ALL.alpha / 2)
    for _, a, b in make_layout(null_base.config, ALL).matrices():
        np.testing.assert_array_equal(half[a], same[a])
        np.testing.assert_array_equal(half[b], same[b] / 2)


def test_fresh_adapters_begin_as_pefts(null_base: Base) -> None:
    """A fills +-1/sqrt(in), each of its own numbers, B is 0; another seed gives others."""
    layout = make_layout(null_base.config, ALL)
    flat = initial(layout, 1)
    for site, a, b in layout.matrices():
        assert 0.9 < np.abs(flat[a]).max() * site.n_in**0.5 <= 1, site.weight
        assert abs(flat[a].mean()) * site.n_in**0.5 < 0.2 and not flat[b].any()
    first, second, *_ = [flat[a] for _, a, _ in layout.matrices()]
    assert not np.array_equal(first, second)
    assert not np.array_equal(flat, initial(layout, 2))


def test_state_and_seed(null_base: Base) -> None:
    """The seed is 64 bits wide; what was added up before a state is loaded is forgotten."""
    engine = Engine(null_base, ALL, 64, seed=(7 << 32) + 5)
    engine.grads.write(np.ones(engine.layout.size, np.float32))
    engine.load_state({**engine.state(), "micro": np.array([9], np.uint64)})
    assert not engine.grads.numpy().any()
    engine.evaluate(micro(golden("llama", "all").batch))
    assert engine.counter.view().tolist() == [5, 7, 9, 0]


def test_more_rows_than_a_binding_holds(null_base: Base) -> None:
    """Said at once, with how many would do."""
    config = null_base.config
    most = null_base.device.max_range // (4 * max(config.qkv_width, 2 * config.ffn_dim, config.dim)) // 64 * 64
    with pytest.raises(InputError, match=f"at most {most} rows .*smaller batch-size or max-length"):
        Engine(null_base, ALL, most + 1)
