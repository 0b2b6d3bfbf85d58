"""What `flux_vk.info FILE` tells about a GGUF file: metadata, tensors, the model it holds, how it would run here.

A file that is not broken but cannot be run is described all the same. Not for: loading anything.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flux_vk.cli.common import human_bytes
from flux_vk.cli.tables import aligned
from flux_vk.errors import FluxError, InputError, UnknownDevice

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile
    from flux_vk.gpu import Device

FIRST = 6
"""Elements of an array that are shown."""
WIDTH = 80
"""Characters of a text that are shown."""


def collect(path: Path, select: str | None, context: int | None, kv_type: str) -> dict[str, Any]:
    """Everything as plain data. Raises GGUFError for a broken file; what cannot run says so under `model.error`."""
    from flux_vk.formats.gguf import open_gguf

    with open_gguf(path) as f:
        tokenizer, here = _tokenizer(f), _here(f, select, context, kv_type)
        if "error" in tokenizer and here["runs"]:
            here |= {"runs": False, "error": tokenizer["error"]}
        return {
            "file": {
                "path": str(path), "parts": [str(p) for p in f.parts], "bytes": sum(p.stat().st_size for p in f.parts),
                "version": f.version, "alignment": f.alignment,
            },
            "metadata": {k: {"type": f.types[k], "value": _plain(v)} for k, v in f.metadata.items()},
            "tensors": [
                {"name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.nbytes} for t in f.tensors.values()
            ],
            "totals": _totals(f),
            "model": _model(f),
            "tokenizer": tokenizer,
            "here": here,
        }  # fmt: skip


def _plain(value: Any) -> Any:
    """A metadata value for JSON: arrays by length and beginning, numbers JSON knows."""
    if isinstance(value, (list, np.ndarray)):
        return {"length": len(value), "first": [_plain(v) for v in list(value[:FIRST])]}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _totals(f: GGUFFile) -> list[dict[str, Any]]:
    totals: dict[str, dict[str, Any]] = {}
    for t in f.tensors.values():
        row = totals.setdefault(t.type, {"type": t.type, "tensors": 0, "weights": 0, "bytes": 0})
        row["tensors"] += 1
        row["weights"] += t.n_elements
        row["bytes"] += t.nbytes
    return sorted(totals.values(), key=lambda r: -int(r["bytes"]))


def _model(f: GGUFFile) -> dict[str, Any]:
    from flux_vk.models import read_config

    try:
        config = read_config(f)
    except FluxError as error:
        return {"error": str(error)}
    found = asdict(config)
    layers = found.pop("layers")
    found["windows"] = sorted({layer["window"] for layer in layers})
    return found


def _tokenizer(f: GGUFFile) -> dict[str, Any]:
    from flux_vk.text import ChatTemplate, Tokenizer

    try:
        t = Tokenizer.from_gguf(f)
    except FluxError as error:
        return {"error": str(error)}
    found: dict[str, Any] = {
        "model": t.vocab.model, "pre": t.vocab.pre, "vocab_size": t.vocab_size, "bos_id": t.bos_id,
        "eos_id": t.eos_id, "eog_ids": sorted(t.eog_ids), "add_bos": t.add_bos, "add_eos": t.add_eos,
    }  # fmt: skip
    try:
        ChatTemplate.from_gguf(f)
        found["chat_template"] = "yes"
    except FluxError as error:
        has = any(key.startswith("tokenizer.chat_template") for key in f.metadata)
        found["chat_template"] = f"unusable: {error}" if has else "no"
    return found


def _here(f: GGUFFile, select: str | None, context: int | None, kv_type: str) -> dict[str, Any]:
    """Whether the file would run on the selected device, with what memory and kernels; `error` says why not."""
    from flux_vk.engine.buffers import STEP_ROWS, Limits, check_kv_range
    from flux_vk.engine.model import DEFAULT_CONTEXT, check_fit
    from flux_vk.gpu import Device
    from flux_vk.models import memory_needed, read_config

    found: dict[str, Any] = {"runs": False, "device": None, "error": None}
    try:
        config = read_config(f)
        tokens = min(config.context_length, DEFAULT_CONTEXT) if context is None else context
        if tokens > config.context_length:
            raise InputError(f"context is {tokens}; the model's own limit is {config.context_length}")
        limits = Limits(tokens, tokens, 1, kv_type, STEP_ROWS["gpu"], context_shift=False)
        needed = memory_needed(f, config, tokens, kv_type, limits.max_rows, limits.logit_rows(config.vocab_size))
        found["memory"] = needed  # the upper end, for where no device can be asked
        device = Device(select)
        limits = replace(limits, max_rows=STEP_ROWS[device.family])
        needed = memory_needed(f, config, tokens, kv_type, limits.max_rows, limits.logit_rows(config.vocab_size))
        found |= {"device": device.name, "memory": needed, "free": device.memory()["free"]}
        found |= {"context": tokens, "kv_type": kv_type}
        found["kernels"] = _variants(f, device, config.head_dim, kv_type)
        check_kv_range(device, config, limits)
        check_fit(device, f.path.name, needed, limits)
        found["runs"] = True
    except FluxError as error:
        if isinstance(error, UnknownDevice) and select is not None:
            raise
        found["error"] = str(error)
    return found


def _variants(f: GGUFFile, device: Device, head_dim: int, kv_type: str) -> dict[str, str]:
    """The variants of the kernels that depend on types: "matmul q4_k" -> "q4_k.lane"."""
    from flux_vk.gpu import kernels
    from flux_vk.models.step import attention_shape

    def chosen(kernel: str, **types: str) -> str:
        return kernels.choose(kernels.contract(kernel), types, device.features, device.family).name

    found = {}
    for name in dict.fromkeys(t.type for t in f.tensors.values() if len(t.shape) == 2):
        found[f"matmul {name}"] = chosen("matmul", w=name)
    embedding = f.tensors["token_embd.weight"].type
    found[f"embed {embedding}"] = chosen("embed", w=embedding)
    attention = attention_shape(device, head_dim, kv_type).get("variant")
    found[f"attention {kv_type}"] = attention or chosen("attention", kcache=kv_type, vcache=kv_type)
    return found


# -- for reading --------------------------------------------------------------------------------------------------


def as_text(found: dict[str, Any]) -> str:
    """The same for reading."""
    file = found["file"]
    parts = f", {len(file['parts'])} files" if len(file["parts"]) > 1 else ""
    out = [f"{file['path']}: {human_bytes(file['bytes'])}, GGUF version {file['version']}{parts}"]
    rows = [[key, item["type"], value_text(item["value"])] for key, item in found["metadata"].items()]
    out.append(f"metadata ({len(rows)} keys)\n" + aligned(["", "", ""], rows, "  "))
    tensors = [[t["name"], t["type"], " x ".join(map(str, t["shape"])), t["bytes"]] for t in found["tensors"]]
    if tensors:
        out.append(f"tensors ({len(tensors)})\n" + aligned(["name", "type", "shape", "bytes"], tensors, "  "))
        out.append("totals\n" + _totals_text(found["totals"]))
    out.append("model\n" + _pairs(found["model"]))
    out.append("tokenizer\n" + _pairs(found["tokenizer"]))
    out.append("here\n" + _here_text(found["here"]))
    return "\n\n".join(out)


def _totals_text(totals: list[dict[str, Any]]) -> str:
    whole = sum(r["bytes"] for r in totals) or 1
    rows: list[list[Any]] = [
        [r["type"], r["tensors"], r["weights"], human_bytes(r["bytes"]), f"{r['bytes'] / whole:.1%}"] for r in totals
    ]
    sums = [sum(r[name] for r in totals) for name in ("tensors", "weights", "bytes")]
    rows.append(["all", sums[0], sums[1], human_bytes(sums[2]), ""])
    return aligned(["type", "tensors", "weights", "size", "share"], rows, "  ")


def value_text(value: Any) -> str:
    """A metadata value in a line: arrays and texts shortened, control characters escaped."""
    if isinstance(value, dict):
        first = ", ".join(value_text(v)[: WIDTH // 4] for v in value["first"])
        more = ", ..." if value["length"] > len(value["first"]) else ""
        return f"{value['length']}: [{first}{more}]"
    if isinstance(value, str):
        short = value[:WIDTH]
        text = short if short.isprintable() and short else repr(short)
        return text + (f" ... ({len(value)} characters)" if len(value) > WIDTH else "")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pairs(values: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return ", ".join(shown(v) for v in value) or "none"
        if isinstance(value, dict):
            return " ".join(f"{k}={shown(v)}" for k, v in value.items())
        return value_text(value) if not isinstance(value, str) else value

    return "\n".join(f"  {key:16} {shown(value)}" for key, value in values.items())


def _here_text(here: dict[str, Any]) -> str:
    lines = [f"  runs             {'yes' if here['runs'] else 'no'}" + (f": {here['error']}" if here["error"] else "")]
    if here["device"]:
        lines.append(f"  device           {here['device']}")
    if "memory" in here:
        parts = ", ".join(f"{name} {human_bytes(n)}" for name, n in here["memory"].items())
        lines.append(f"  memory needed    {human_bytes(sum(here['memory'].values()))} ({parts})")
    if "free" in here:
        lines[-1] += f"; free {human_bytes(here['free'])}"
        lines.append(f"  context          {here['context']} tokens, keys and values in {here['kv_type']}")
    if "kernels" in here:
        lines.append("  kernels          " + ", ".join(f"{k}: {v}" for k, v in here["kernels"].items()))
    return "\n".join(lines)
