"""A model and its adapters as one model: W + scale * B A for every weight that an adapter changes.

The sum is made on the device in float32, from the weights as they are stored, and quantised again. Not for adapters at
run time (`load(lora=...)`), which leave the weights as they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flux_vk.engine.quantize import Plan, Progress, plan, planned, write_planned
from flux_vk.errors import InputError
from flux_vk.formats.gguf import GGUFFile, open_gguf
from flux_vk.gpu.convert import Change, writable
from flux_vk.models import read_config
from flux_vk.models.lora import Lora, Scaled, read_loras

if TYPE_CHECKING:
    from flux_vk.gpu import Device


def merge(
    model: str | os.PathLike[str],
    adapters: Lora,
    out: str | os.PathLike[str],
    type: str | None = None,
    *,
    pure: bool = False,
    output_type: str | None = None,
    force: bool = False,
    device: Device | str | int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Writes the GGUF model `model` with its adapters merged to the file `out`; returns what was done.

    adapters: a path (PEFT folder, .safetensors, GGUF LoRA), "path:scale", an Adapter, a pair (either, scale), or a list
    of these; scales multiply an adapter's own alpha / rank. type: "q4_k_m", "f16" ... for the whole file, as in
    `quantize` (with `pure` and `output_type`); by default every tensor keeps its type, and all that no adapter changes
    keeps its bytes, metadata included. force: replace `out`. progress: (bytes done, bytes in all).
    Raises AdapterError where an adapter does not fit, InputError for what was asked wrongly, GGUFError for a broken
    file, VulkanError from the device.
    """
    with open_gguf(model) as f:
        found = read_loras(adapters, read_config(f))
        changes = changes_of(f, found)
        types = {name: t.type for name, t in f.tensors.items()}
        work = planned(f, types) if type is None else plan(f, type, pure=pure, output_type=output_type)
        _check_types(f, changes, work)
        write_planned(f, out, work, changes=changes, force=force, device=device, progress=progress)
    return work


def changes_of(f: GGUFFile, adapters: Sequence[Scaled]) -> dict[str, list[Change]]:
    """Tensor -> its changes, in the order of the adapters. InputError where there are none, or no such tensor."""
    if not adapters:
        raise InputError("merging: found no adapter, expected one or more")
    changes: dict[str, list[Change]] = {}
    for scaled in adapters:
        for name, pair in scaled.adapter.tensors.items():
            if name not in f.tensors:
                raise InputError(
                    f"{f.path}: an adapter changes {name}, which this file does not have (its token embedding serves "
                    "as output too); expected a tensor of its own: use the adapter at run time"
                )
            scale = scaled.adapter.scale(name) * scaled.scale
            changes.setdefault(name, []).append(Change(pair.b, pair.a, scale))
    return changes


def _check_types(f: GGUFFile, changes: dict[str, list[Change]], work: Plan) -> None:
    """InputError where a changed tensor would have to be written in a type that no kernel writes."""
    for t in work.tensors:
        if t.name in changes and t.target not in writable():
            raise InputError(
                f"{f.path}: {t.name} has type {t.target}, which cannot be written; expected one of "
                f"{', '.join(writable())}: choose a type for the merged model (--type)"
            )
