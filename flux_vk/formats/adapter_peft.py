"""Adapters as PEFT keeps them: adapter_config.json beside adapter_model.safetensors. MLX's folders are read too.

PEFT's names, `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`, become GGUF's and back. GGUF files of
`llama` have the rows of q and k in another order than PEFT's models (pairs that rotate together are neighbours), as
llama.cpp's converters write them; lora_B follows. Needs the `safetensors` package (extra `train`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flux_vk.errors import AdapterError
from flux_vk.files import replacing
from flux_vk.formats.adapter import MAX_RANK, Adapter, F32Array, LoraPair, gguf_part, peft_names
from flux_vk.formats.adapter_config import AdapterConfig, config_text, load_config, parse_config

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MLX_WEIGHTS = "adapters.safetensors"
MAX_FILE = 8 << 30

_NAME = re.compile(
    r"(?:base_model\.model\.)?(?:(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(?P<layer>\d{1,5})\."
    r"(?P<block>self_attn|mlp)\.(?P<module>\w+)|(?P<head>lm_head))"
    r"\.lora_(?P<half>[AaBb])(?:\.default)?(?:\.weight)?"
)
_DTYPES = {"F32": np.float32, "F16": np.float16}
_REORDERED = ("llama",)


@dataclass(frozen=True)
class _Facts:
    """What files written here say about themselves, in the safetensors header."""

    arch: str = ""
    heads: tuple[int, int] | None = None
    name: str = ""
    config: str = ""


def reordered(arch: str, module: str) -> bool:
    """Whether rows of this module's output stand in another order in GGUF than in PEFT."""
    return arch in _REORDERED and module in ("q_proj", "k_proj")


def to_gguf_rows(b: F32Array, heads: int) -> F32Array:
    """Rows of q or k from halves (i, i + d/2) to neighbours (2i, 2i + 1) within each head. [out, ...] -> [out, ...]"""
    return b.reshape(heads, 2, -1, *b.shape[1:]).swapaxes(1, 2).reshape(b.shape)


def to_peft_rows(b: F32Array, heads: int) -> F32Array:
    """The inverse of `to_gguf_rows`."""
    return b.reshape(heads, -1, 2, *b.shape[1:]).swapaxes(1, 2).reshape(b.shape)


def read_peft(
    path: str | os.PathLike[str], heads: tuple[int, int] | None = None, arch: str = "", reorder: bool = True
) -> Adapter:
    """Reads a folder of PEFT or MLX, or a .safetensors file with its adapter_config.json beside it.

    heads, arch: as for `read_adapter`. reorder: False leaves the rows of q and k as they are, for a look at the file.
    Raises AdapterError naming the file, and the key or tensor that is missing, unknown or of the wrong shape.
    """
    weights, config_path = _locate(Path(path))
    tensors, facts = _load(weights)
    config = load_config(config_path) if config_path.exists() or not facts.config else parse_config(
        facts.config, str(weights)
    )  # fmt: skip
    if arch and facts.arch not in ("", arch):
        raise AdapterError(f"{weights}: an adapter for {facts.arch}; expected one for {arch}, the model's architecture")
    if heads and facts.heads not in (None, heads):
        raise AdapterError(
            f"{weights}: an adapter for {facts.heads} heads (queries, keys); expected {heads}, those of the model"
        )
    reader = _Reader(weights, config, arch or facts.arch, heads or facts.heads, reorder)
    pairs, alphas = reader.pairs(tensors)
    try:
        return Adapter(
            reader.arch, config.alpha, pairs, config.rslora, config.dropout, facts.name, config.base_model, alphas
        )
    except AdapterError as error:
        raise AdapterError(f"{weights}: {error}") from None


def _locate(path: Path) -> tuple[Path, Path]:
    """The files of tensors and of configuration."""
    if not path.is_dir():
        if not path.is_file():
            found = "something that is not a file" if path.exists() else "nothing there"
            raise AdapterError(f"{path}: {found}; expected an adapter: a folder, a .safetensors or a GGUF LoRA file")
        if path.suffix != ".safetensors":
            raise AdapterError(f"{path}: neither GGUF nor .safetensors; expected an adapter in one of these formats")
        return path, path.parent / CONFIG
    for name in (WEIGHTS, MLX_WEIGHTS):
        if (path / name).is_file():
            return path / name, path / CONFIG
    old = " (adapter_model.bin is a pickle, which may run code and is not read)" if any(path.glob("*.bin")) else ""
    raise AdapterError(f"{path}: no {WEIGHTS}{old}; expected a folder that PEFT has written with safetensors")


def _safetensors() -> ModuleType:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise AdapterError(
            "adapters in safetensors files need the package `safetensors`: pip install 'flux_vk[train]' "
            "(GGUF LoRA files need nothing)"
        ) from None
    return safetensors


def _load(path: Path) -> tuple[dict[str, F32Array], _Facts]:
    """All tensors as float32, and what the header says."""
    package = _safetensors()
    size = path.stat().st_size
    if size > MAX_FILE:
        raise AdapterError(f"{path}: {size} bytes; expected an adapter of at most {MAX_FILE}")
    try:
        with package.safe_open(path, framework="np") as file:
            facts = _facts(path, file.metadata() or {})
        found: list[tuple[str, dict[str, Any]]] = package.deserialize(path.read_bytes())
    except package.SafetensorError as error:
        raise AdapterError(
            f"{path}: {error}; expected a whole .safetensors file: download or write it again"
        ) from None
    return {name: _floats(path, name, entry) for name, entry in found}, facts


def _floats(path: Path, name: str, entry: dict[str, Any]) -> F32Array:
    kind, shape = str(entry["dtype"]), tuple(entry["shape"])
    raw = bytes(entry["data"])
    if kind == "BF16":
        values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif kind in _DTYPES:
        values = np.frombuffer(raw, _DTYPES[kind]).astype(np.float32)
    else:
        raise AdapterError(f"{path}: tensor {name} has type {kind}; expected F32, F16 or BF16")
    return values.reshape(shape)


def _facts(path: Path, header: dict[str, str]) -> _Facts:
    try:
        own = json.loads(header.get("flux_vk", "{}"))
        heads = own.get("heads")
        numbers = None if heads is None else (int(heads[0]), int(heads[1]))
        return _Facts(str(own.get("arch", "")), numbers, str(own.get("name", "")), str(own.get("config", "")))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise AdapterError(f"{path}: its header's key flux_vk is damaged ({error}); write the adapter again") from None


@dataclass(frozen=True)
class _Reader:
    """Turns the tensors of one file into pairs."""

    path: Path
    config: AdapterConfig
    arch: str
    heads: tuple[int, int] | None
    reorder: bool

    def pairs(self, tensors: dict[str, F32Array]) -> tuple[dict[str, LoraPair], dict[str, float]]:
        """Pairs by GGUF name, in the order of layers and of names in one, and the alphas that differ."""
        halves: dict[str, dict[str, tuple[str, F32Array]]] = {}
        modules: dict[str, str] = {}
        for name, values in tensors.items():
            weight, module, half = self.place(name)
            mine = halves.setdefault(weight, {})
            if half in mine:
                raise AdapterError(f"{self.path}: tensors {mine[half][0]} and {name} are the same half; expected one")
            mine[half] = name, values
            modules[weight] = module
        if not halves:
            raise AdapterError(f"{self.path}: no tensors; expected lora_A and lora_B of at least one linear layer")
        ordered = sorted(halves, key=_order)
        pairs = {weight: self.pair(weight, modules[weight], halves[weight]) for weight in ordered}
        alphas = {weight: self.config.alpha_of(modules[weight]) for weight in ordered}
        return pairs, {weight: alpha for weight, alpha in alphas.items() if alpha != self.config.alpha}

    def place(self, name: str) -> tuple[str, str, str]:
        """GGUF name of the weight, full name of the module as in the file, "A" or "B"."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise AdapterError(
                f"{self.path}: tensor {name} is not supported; expected lora_A and lora_B of linear layers "
                f"(...layers.N.self_attn.q_proj.lora_A.weight), no embeddings, biases, DoRA or saved modules"
            )
        half = found["half"].upper()
        full = name.removeprefix("base_model.model.").partition(".lora_")[0]
        if found["head"]:
            return "output.weight", full, half
        try:
            part = gguf_part(self.arch, found["module"])
        except AdapterError as error:
            raise AdapterError(f"{self.path}: tensor {name}: {error}") from None
        return f"blk.{int(found['layer'])}.{part}.weight", full, half

    def pair(self, weight: str, module: str, halves: dict[str, tuple[str, F32Array]]) -> LoraPair:
        for half in ("A", "B"):
            if half not in halves:
                other, _ = next(iter(halves.values()))
                raise AdapterError(f"{self.path}: {other} is there, its lora_{half} is not; expected both halves")
        (name, a), (name_b, b) = halves["A"], halves["B"]
        if a.ndim != 2 or b.ndim != 2:
            raise AdapterError(f"{self.path}: {name} has shape {a.shape}, {name_b} {b.shape}; expected two dimensions")
        if self.config.mlx:
            a, b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
        rank = self.config.rank_of(module)
        if a.shape[0] != rank or b.shape[1] != rank or rank > MAX_RANK:
            wanted = "[in, rank] and [rank, out]" if self.config.mlx else "[rank, in] and [out, rank]"
            raise AdapterError(
                f"{self.path}: {name} has shape {halves['A'][1].shape}, {name_b} {halves['B'][1].shape}; expected "
                f"{wanted} with the rank {rank} of {CONFIG} (at most {MAX_RANK})"
            )
        return LoraPair(a, self.rows(module, name_b, b))

    def rows(self, module: str, name: str, b: F32Array) -> F32Array:
        """lora_B with its rows in GGUF's order."""
        short = module.rpartition(".")[2]
        if not self.reorder or short not in ("q_proj", "k_proj"):
            return b
        if not self.arch:
            raise AdapterError(
                f"{self.path}: {name}: the file does not say of what architecture it is, and the order of these rows "
                f"depends on it; load it with its model, or read it with arch= and heads="
            )
        if not reordered(self.arch, short):
            return b
        return to_gguf_rows(b, _heads(str(self.path), name, short, b, self.heads))


def _heads(path: str, name: str, module: str, b: F32Array, heads: tuple[int, int] | None) -> int:
    """The heads whose rows change order, after checking that there are whole heads of an even size."""
    if heads is None:
        raise AdapterError(f"{path}: {name}: the rows change order by heads; pass heads=(n_heads, n_kv_heads)")
    count = heads[0 if module == "q_proj" else 1]
    if count < 1 or b.shape[0] % (2 * count):
        raise AdapterError(f"{path}: {name} has shape {b.shape}; expected rows in {count} heads of an even size")
    return count


def _order(weight: str) -> tuple[int, str]:
    parts = weight.split(".")
    return (int(parts[1]), weight) if parts[0] == "blk" else (1 << 30, weight)


def write_peft(adapter: Adapter, folder: str | os.PathLike[str], heads: tuple[int, int] | None = None) -> None:
    """Writes a folder that PEFT loads; `read_adapter` gives the same adapter back bit for bit, without arguments.

    heads: (n_heads, n_kv_heads), needed where q or k of `llama` are among the tensors. A new folder appears at once; in
    one that is there, each file is replaced when it is whole. The same adapter gives the same bytes.
    Raises AdapterError for tensors that PEFT has no name for, OSError from the disk.
    """
    package = _safetensors()
    target = Path(folder)
    modules = _modules(adapter)
    config = AdapterConfig(
        rank=adapter.rank,
        alpha=adapter.alpha,
        rslora=adapter.rslora,
        dropout=adapter.dropout,
        base_model=adapter.base_model,
        ranks={m: adapter.tensors[w].rank for w, m in modules.items() if adapter.tensors[w].rank != adapter.rank},
        alphas={m: adapter.alphas[w] for w, m in modules.items() if w in adapter.alphas},
    )
    text = config_text(config, _targets(modules.values()))
    tensors = {}
    for weight, pair in adapter.tensors.items():
        module, b = modules[weight], pair.b
        short = module.rpartition(".")[2]
        if reordered(adapter.arch, short):
            b = to_peft_rows(b, _heads(str(target), weight, short, b, heads))
        for half, values in (("A", pair.a), ("B", b)):
            tensors[f"base_model.model.{module}.lora_{half}.weight"] = np.ascontiguousarray(values, dtype="<f4")
    # One key only: the package writes several in an order that differs from run to run.
    own = {"arch": adapter.arch, "heads": heads, "name": adapter.name, "config": text}
    data: bytes = package.numpy.save(tensors, {"flux_vk": json.dumps(own)})
    _write_folder(target, {WEIGHTS: data, CONFIG: text.encode()})


def _modules(adapter: Adapter) -> dict[str, str]:
    """Full PEFT names by GGUF name, in the order of layers and, in one, of peft_names: the files depend on no other."""
    modules = {weight: _module(adapter.arch, weight) for weight in adapter.tensors}
    ranking = [*peft_names(adapter.arch), "lm_head"]

    def place(weight: str) -> tuple[int, int]:
        return _order(weight)[0], ranking.index(modules[weight].rpartition(".")[2])

    return {weight: modules[weight] for weight in sorted(modules, key=place)}


def _module(arch: str, weight: str) -> str:
    """The module's full name in PEFT for a GGUF weight, "blk.0.attn_q.weight" -> "model.layers.0.self_attn.q_proj"."""
    if weight == "output.weight":
        return "lm_head"
    found = re.fullmatch(r"blk\.(\d{1,5})\.(\w+)\.weight", weight)
    parts = {part: module for module, part in peft_names(arch).items()}
    if found is None or found[2] not in parts:
        raise AdapterError(
            f"tensor {weight}: PEFT's {arch or 'model'} has no name for it; expected blk.N.PART.weight with PART one "
            f"of {', '.join(parts)}"
        )
    block = "self_attn" if found[2].startswith("attn_") else "mlp"
    return f"model.layers.{found[1]}.{block}.{parts[found[2]]}"


def _targets(modules: Iterable[str]) -> list[str]:
    """target_modules: short names where each is there in the same layers 0 .. n-1, else the full names."""
    layers: dict[str, set[int]] = {}
    names = list(modules)
    for name in names:
        parts = name.split(".")
        layers.setdefault(parts[-1], set()).add(int(parts[2]) if len(parts) > 2 else -1)
    sets = {frozenset(found) for short, found in layers.items() if short != "lm_head"}
    whole = len(sets) <= 1 and all(found == set(range(len(found))) for found in sets)
    return list(layers) if whole else names


def _write_folder(target: Path, files: dict[str, bytes]) -> None:
    new = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    folder = target if target.is_dir() else new
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            with replacing(folder / name) as file:
                file.write(data)
        if folder is new:
            new.replace(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
