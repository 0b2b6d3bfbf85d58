"""The demo model's shape on the recording-only device: everything of the engine runs, nothing is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from flux_vk.engine.buffers import RING, Limits
from flux_vk.engine.model import Model
from flux_vk.engine.runner import Runner
from flux_vk.formats import layout
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Buffer, Device, NullDevice
from flux_vk.models import read_config
from flux_vk.models.tensors import check_tensors
from flux_vk.models.weights import DeviceRope, Weights
from flux_vk.text import Tokenizer


def null_model(path: Path, kind: str = "cpu", context: int = 128, sequences: int = 2, shift: bool = False) -> Model:
    """A Model whose steps do nothing; `script` puts the tokens there that they would have drawn."""
    null = NullDevice(kind)
    device = cast(Device, null)
    with open_gguf(path) as file:
        config = read_config(file)
        buffers = {}
        for spec in check_tensors(file, config):
            kind_of = file.tensors[spec.name].type
            if len(spec.shape) == 2:
                stride = layout.row_stride(kind_of, spec.shape[1])
                memory = null.allocate(spec.shape[0] * stride)
                buffers[spec.name] = Buffer(null, memory, 0, memory.nbytes, kind_of, spec.shape, row_bytes=stride)
            else:
                buffers[spec.name] = null.empty(spec.shape)
        if config.tied:
            buffers["output.weight"] = buffers["token_embd.weight"]
        tokenizer = Tokenizer.from_gguf(file)
    ropes = [DeviceRope(null.zeros((config.ropes[0].n_rot // 2,), "u32"), 1.0) for _ in config.ropes]
    tokens = context + 32 * (sequences - 1)
    limits = Limits(context, tokens, sequences, "f16", max_rows=64, context_shift=shift)
    return Model(device, config, tokenizer, None, Runner(device, config, Weights(buffers, ropes, context), limits), {})


def script(model: Model, token: int, at: dict[int, int] | None = None) -> None:
    """Every step draws `token`, but at the positions of `at` the token given there."""
    ring = model.runner.sampler.ring.view()
    ring[...] = token
    for position, other in (at or {}).items():
        ring[:, position % RING] = other


def submits(model: Model) -> dict[str, int]:
    """Submits so far by chain name."""
    count: dict[str, int] = {}
    chains: Any = model.runner._chains
    for recorded in chains.values():
        count[recorded.name] = count.get(recorded.name, 0) + recorded.submits
    return count
