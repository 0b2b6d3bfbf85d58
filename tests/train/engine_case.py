"""Runs the training engine on a tiny model and given adapters, for comparison with the golden data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flux_vk.formats.adapter import Adapter, LoraPair
from flux_vk.gpu import Device
from flux_vk.train.base import Base, load_base
from flux_vk.train.batches import MicroBatch
from flux_vk.train.engine import Engine, Rules
from flux_vk.train.lora import LoRA, flat_from, make_layout
from tests.train.packed_rows import Packed
from tests.train.tiny_models import F32, MODELS, write_tiny

TARGETS = {"all": ("all-linear",), "qv": ("q_proj", "v_proj")}
Pairs = Mapping[str, tuple[F32, F32]]


def tiny_base(name: str, folder: Path, device: Device) -> Base:
    """The tiny model of this name on the device."""
    return load_base(write_tiny(MODELS[name], folder / f"{name}.gguf"), device)


def tiny_engine(
    base: Base, lora: Pairs, targets: str, scale: float, rows: int, *, recompute: bool = False,
    rules: Rules | None = None,
) -> Engine:  # fmt: skip
    """An engine whose adapters begin as `lora`; scale = alpha / rank."""
    rank = next(iter(lora.values()))[0].shape[0]
    spec = LoRA(rank=rank, alpha=scale * rank, target=TARGETS[targets])
    start = Adapter(base.config.arch, spec.alpha, {name: LoraPair(a, b) for name, (a, b) in lora.items()})
    layout = make_layout(base.config, spec)
    return Engine(base, spec, rows, rules=rules, recompute=recompute, start=flat_from(layout, start))


def micro(batch: Packed) -> MicroBatch:
    """The batch as the engine takes it."""
    return MicroBatch(
        batch.ids, batch.pos, batch.first, batch.last, batch.labels, tokens=batch.tokens, counted=batch.counted
    )


@dataclass(frozen=True)
class Found:
    """What one micro-batch gave: its loss, and (dA, dB) by weight."""

    loss: float
    gradients: Mapping[str, tuple[F32, F32]]


def gradients(engine: Engine, batch: Packed) -> Found:
    """Loss and gradients of this batch alone, whatever was added up before."""
    engine.clear_gradients()
    result = engine.forward_backward(micro(batch))
    assert result.finite and result.grad_norm is None
    return Found(result.loss, engine.gradients())
