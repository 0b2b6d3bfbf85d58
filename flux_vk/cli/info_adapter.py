"""What `flux_vk.info FILE` tells about a LoRA adapter: a PEFT folder, a .safetensors file or a GGUF LoRA.

Not for: models (info_file.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flux_vk.cli.common import human_bytes
from flux_vk.cli.tables import aligned
from flux_vk.errors import GGUFError
from flux_vk.formats.adapter import Adapter


def is_adapter(path: Path) -> bool:
    """Whether the path is a folder, a .safetensors file, or a GGUF file that says it is an adapter."""
    from flux_vk.formats.gguf import open_gguf

    if path.is_dir() or path.suffix == ".safetensors":
        return True
    try:
        with open_gguf(path) as f:
            return bool(f.metadata.get("general.type") == "adapter")
    except GGUFError:
        return False


def collect(path: Path) -> dict[str, Any]:
    """Everything as plain data. Raises AdapterError, GGUFError for what is broken."""
    adapter, kind = _read(path)
    shapes: dict[str, dict[str, Any]] = {}
    for name, pair in adapter.tensors.items():
        part = name.removesuffix(".weight").split(".")[-1]
        row = shapes.setdefault(part, {"part": part, "count": 0, "shape": list(pair.shape), "ranks": [], "scales": []})
        row["count"] += 1
        row["ranks"] = sorted({*row["ranks"], pair.rank})
        row["scales"] = sorted({*row["scales"], adapter.scale(name)})
    layers = sorted({int(name.split(".")[1]) for name in adapter.tensors if name.startswith("blk.")})
    return {
        "adapter": {
            "path": str(path), "format": kind, "architecture": adapter.arch or None, "name": adapter.name or None,
            "base_model": adapter.base_model or None, "rank": adapter.rank, "alpha": adapter.alpha,
            "rslora": adapter.rslora, "dropout": adapter.dropout, "parameters": adapter.parameters,
            "device_bytes": adapter.nbytes, "layers": layers, "tensors": list(shapes.values()),
        }
    }  # fmt: skip


def _read(path: Path) -> tuple[Adapter, str]:
    from flux_vk.formats.adapter_gguf import read_gguf_adapter
    from flux_vk.formats.adapter_peft import read_peft

    if path.is_dir() or path.suffix == ".safetensors":
        return read_peft(path, reorder=False), "safetensors"
    return read_gguf_adapter(path), "GGUF"


def as_text(found: dict[str, Any]) -> str:
    """The same for reading."""
    a = found["adapter"]
    layers = a["layers"]
    rule = "alpha / sqrt(rank), rsLoRA" if a["rslora"] else "alpha / rank"
    lines = [
        ("architecture", a["architecture"] or "not stated (PEFT files need not; the model's is taken)"),
        ("name", a["name"]), ("base model", a["base_model"]),
        ("rank, alpha", f"{a['rank']}, {a['alpha']:g}; scale {rule}"),
        ("dropout", f"{a['dropout']:g} in training"),
        ("layers", f"{len(layers)}: {layers[0]} to {layers[-1]}" if layers else "none"),
        ("parameters", f"{a['parameters']} ({human_bytes(a['device_bytes'])} as f32)"),
    ]  # fmt: skip
    rows = [
        [t["part"], t["count"], " x ".join(map(str, t["shape"])), _some(t["ranks"]), _some(t["scales"])]
        for t in a["tensors"]
    ]
    return "\n\n".join(
        [
            f"{a['path']}: a LoRA adapter, {a['format']}",
            "\n".join(f"  {key:16} {value}" for key, value in lines if value),
            "tensors\n" + aligned(["changes", "layers", "out x in", "rank", "scale"], rows, "  "),
        ]
    )


def _some(numbers: list[float]) -> str:
    return f"{numbers[0]:g}" if len(numbers) == 1 else f"{numbers[0]:g} to {numbers[-1]:g}"
