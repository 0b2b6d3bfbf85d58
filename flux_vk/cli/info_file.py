"""What `flux_vk.info FILE` tells about a GGUF file: metadata, tensors, the model it holds, how it would run here.

A file that is not broken but cannot be run is described all the same. Not for: loading anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flux_vk.cli.common import human_bytes
from flux_vk.cli.tables import aligned
from flux_vk.errors import ArgumentError, FluxError

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile

FIRST = 6
"""Elements of an array that are shown."""
WIDTH = 80
"""Characters of a text that are shown."""
DEFAULT_CONTEXT = 4096
STEP_ROWS = {"cpu": 64}
STEP_ROWS_GPU = 256


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
    from flux_vk.gpu import select_device
    from flux_vk.gpu.device import family_of
    from flux_vk.models import memory_needed, read_config

    found: dict[str, Any] = {"runs": False, "device": None, "error": None}
    config = None
    try:
        config = read_config(f)
        context = min(config.context_length, DEFAULT_CONTEXT) if context is None else context
        if context > config.context_length:
            raise ArgumentError(f"context is {context}; the model's own limit is {config.context_length}")
        rows = max(STEP_ROWS_GPU, *STEP_ROWS.values())
        found["memory"] = memory_needed(f, config, context, kv_type, rows)
        device = select_device(select)
        found["device"] = device["name"]
        rows = STEP_ROWS.get(device["kind"], STEP_ROWS_GPU)
        found["memory"] = memory_needed(f, config, context, kv_type, rows)
        found |= {"context": context, "kv_type": kv_type, "free": _free(device["index"])}
        found["kernels"] = _variants(f, device["features"], family_of(device["kind"]), kv_type)
        needed = sum(found["memory"].values())
        found["runs"] = needed <= found["free"]
        if not found["runs"]:
            found["error"] = f"{human_bytes(needed)} are needed and {human_bytes(found['free'])} are free"
    except FluxError as error:
        if select is not None and config is not None and error.exit_code == 2 and found["device"] is None:
            raise  # a device that was asked for and is not there
        found["error"] = str(error)
    return found


def _free(index: int) -> int:
    from flux_vk.gpu import Device

    return int(Device(index).memory()["free"])


def _variants(f: GGUFFile, features: Iterable[str], family: str, kv_type: str) -> dict[str, str]:
    """The variants of the kernels that depend on types: "matmul q4_k" -> "q4_k.lane"."""
    from flux_vk.gpu import kernels

    found = {}
    types = dict.fromkeys(t.type for t in f.tensors.values() if len(t.shape) == 2)
    for name in types:
        c = kernels.contract("matmul")
        found[f"matmul {name}"] = kernels.choose(c, {"w": name}, features, family).name
    embedding = f.tensors["token_embd.weight"].type
    found[f"embed {embedding}"] = kernels.choose(kernels.contract("embed"), {"w": embedding}, features, family).name
    cache = {"kcache": kv_type, "vcache": kv_type}
    found[f"attention {kv_type}"] = kernels.choose(kernels.contract("attention"), cache, features, family).name
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
