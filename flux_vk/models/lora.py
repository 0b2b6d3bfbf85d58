"""Adapters at run time: y += scale * (x A^T) B^T behind each product of a model whose weights stay as they are.

Several adapters of one weight are laid along the rank (A below A, B beside B with the scales multiplied in), so that a
weight has one pair of products whatever their number. Not for: their files (flux_vk.formats.adapter).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flux_vk.errors import AdapterError, InputError
from flux_vk.formats import layout
from flux_vk.formats.adapter import Adapter, LoraPair, read_adapter
from flux_vk.gpu.upload import Piece, fill, weight_pieces
from flux_vk.models.tensors import model_tensors

if TYPE_CHECKING:
    from flux_vk.gpu import Buffer, Device
    from flux_vk.models.config import ModelConfig

AdapterLike: TypeAlias = "Adapter | str | os.PathLike[str]"
Lora: TypeAlias = "AdapterLike | tuple[AdapterLike, float] | Sequence[AdapterLike | tuple[AdapterLike, float]]"

# Tensors of a layer that read the same rows (as weights.JOINED): one product with their A matrices may do for all.
TOGETHER = (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up"))

SPARE = 512 << 10
"""Bytes of zeros that a common pair of products may read for each pair that it saves: more takes longer than those."""


@dataclass(frozen=True)
class Scaled:
    """An adapter and the factor that its user gives it, on top of its own alpha / rank."""

    adapter: Adapter
    scale: float = 1.0


def read_loras(lora: Lora | None, cfg: ModelConfig) -> list[Scaled]:
    """The adapters that `load(lora=...)` names, read and checked against the model.

    lora: a path, "path:scale", an Adapter, a pair (path or Adapter, scale), or a list of these. Raises AdapterError
    naming file or tensor, what was found and what was expected; InputError for what is none of these.
    """
    if lora is None:
        return []
    single = isinstance(lora, (Adapter, str, os.PathLike)) or _is_pair(lora)
    entries: Sequence[Any] = [lora] if single else lora  # type: ignore[assignment]
    if not isinstance(entries, (list, tuple)):
        raise InputError(f"lora is {type(lora).__name__}; expected a path, an Adapter, (either, scale), or a list")
    found = [_read(entry, cfg) for entry in entries]
    for entry, scaled in zip(entries, found, strict=True):
        given = entry[0] if _is_pair(entry) else entry
        check_adapter_fits(scaled.adapter, cfg, "" if isinstance(given, Adapter) else str(given))
        _check_scale(scaled)
    return found


def _check_scale(scaled: Scaled) -> None:
    """InputError where the scale makes of a factor what float32 cannot hold."""
    for name, pair in scaled.adapter.tensors.items():
        factor = scaled.scale * scaled.adapter.scale(name)
        if not abs(factor) * max(1.0, float(np.abs(pair.b).max())) <= float(np.finfo(np.float32).max):
            raise InputError(
                f"the scale of an adapter is {scaled.scale:g}, which with its alpha and rank ({factor:g}) is more than "
                f"float32 holds in {name}; expected a smaller one, such as 1"
            )


def _is_pair(lora: object) -> bool:
    return isinstance(lora, tuple) and len(lora) == 2 and isinstance(lora[1], (int, float))


def _read(entry: Any, cfg: ModelConfig) -> Scaled:
    given, scale = entry if _is_pair(entry) else (entry, 1.0)
    if isinstance(given, str) and entry is given:
        given, scale = split_scale(given)
    if not math.isfinite(scale):
        raise InputError(f"the scale of an adapter is {scale}; expected a finite number")
    if isinstance(given, Adapter):
        return Scaled(given, float(scale))
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(f"an adapter is {type(given).__name__}; expected a path or an Adapter, or (either, scale)")
    path, colon, tail = str(given).rpartition(":")
    if colon and Path(path).exists() and not Path(given).exists():
        raise InputError(f"{path}: found {tail!r} as the scale of this adapter; expected a number, such as {path}:0.5")
    return Scaled(read_adapter(given, (cfg.n_heads, cfg.n_kv_heads), arch=cfg.arch), float(scale))


def split_scale(text: str) -> tuple[str, float]:
    """ "PATH:0.5" -> PATH and 0.5; without a number behind the last colon, or where all of it is a path, 1."""
    head, colon, tail = text.rpartition(":")
    if colon and head and not Path(text).exists():
        try:
            return head, float(tail)
        except ValueError:
            pass
    return text, 1.0


def check_adapter_fits(adapter: Adapter, cfg: ModelConfig, shown: str = "") -> None:
    """AdapterError unless the adapter is for this architecture and all its tensors are the model's, with its shapes.

    shown: what the message calls it; otherwise by its name.
    """
    shown = shown or (f"adapter {adapter.name!r}" if adapter.name else "the adapter")
    if adapter.arch not in ("", cfg.arch):
        raise AdapterError(f"{shown} is for architecture {adapter.arch}; expected {cfg.arch}, the model's")
    shapes = _shapes(cfg)
    for name, pair in adapter.tensors.items():
        if name not in shapes:
            raise AdapterError(
                f"{shown} changes {name}, which is no linear layer of this model; expected names such as "
                f"{', '.join(list(shapes)[:3])}, in {cfg.n_layers} layers"
            )
        if pair.shape != shapes[name]:
            raise AdapterError(
                f"{shown}: {name}: found factors for a weight of {list(pair.shape)} (out, in); expected "
                f"{list(shapes[name])}: it was made for a model of another size"
            )


def _shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """(out, in) of every linear layer by name; the token embedding is none."""
    shapes = {spec.name: spec.shape for spec in model_tensors(cfg) if len(spec.shape) == 2}
    vocabulary = shapes.pop("token_embd.weight")
    return {**shapes, "output.weight": vocabulary}


@dataclass(frozen=True)
class LoraPlan:
    """One pair of products: for one weight, or for several that read the same rows.

    rows: name (without ".weight") -> first and last row + 1 of it in B. rank, columns: those of A; rank is a multiple
    of 4, filled up with zeros. blocks: what is in it.
    """

    rows: Mapping[str, tuple[int, int]]
    rank: int
    columns: int
    blocks: Sequence[tuple[str, LoraPair, float]]

    @property
    def height(self) -> int:
        """Rows of B."""
        return max(stop for _, stop in self.rows.values())

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        a, b = layout.row_stride("f32", self.columns), layout.row_stride("f32", self.rank)
        return self.rank * a + self.height * b

    def matrices(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """A [rank, columns] and B [height, rank], each block's scale in B."""
        a = np.zeros((self.rank, self.columns), np.float32)
        b = np.zeros((self.height, self.rank), np.float32)
        at = 0
        for name, pair, scale in self.blocks:
            start, stop = self.rows[name]
            a[at : at + pair.rank] = pair.a
            b[start:stop, at : at + pair.rank] = pair.b * np.float32(scale)
            at += pair.rank
        return a, b


def plan_lora(cfg: ModelConfig, loras: Sequence[Scaled]) -> list[LoraPlan]:
    """The pairs of products that these adapters (checked) need, in the order of the layers."""
    blocks: dict[str, list[tuple[str, LoraPair, float]]] = {}
    for scaled in loras:
        for weight, pair in scaled.adapter.tensors.items():
            name = weight.removesuffix(".weight")
            factor = scaled.scale * scaled.adapter.scale(weight)
            blocks.setdefault(name, []).append((name, pair, factor))
    shapes = {name.removesuffix(".weight"): shape[0] for name, shape in _shapes(cfg).items()}
    return [plan for group in _groups(cfg, list(blocks)) for plan in _plans(group, shapes, blocks)]


def _groups(cfg: ModelConfig, names: list[str]) -> Iterator[list[str]]:
    """Names that read the same rows, from the first to the last that has an adapter; every other by itself."""
    left = dict.fromkeys(names)
    for layer in range(cfg.n_layers):
        for parts in TOGETHER:
            group = [f"blk.{layer}.{part}" for part in parts]
            used = [i for i, name in enumerate(group) if name in left]
            if len(used) > 1:
                for i in used:
                    del left[group[i]]
                yield group[used[0] : used[-1] + 1]
    for name in left:
        yield [name]


def _plans(
    group: list[str], height: Mapping[str, int], blocks: Mapping[str, list[tuple[str, LoraPair, float]]]
) -> list[LoraPlan]:
    """One plan for the group where that wastes little, else one for each of its names that has an adapter."""
    apart = [_plan([name], height, blocks) for name in group if name in blocks]
    if len(apart) == 1:
        return apart
    joint = _plan(group, height, blocks)
    waste = joint.nbytes - sum(plan.nbytes for plan in apart)
    return [joint] if waste <= SPARE * (len(apart) - 1) else apart


def _plan(
    names: list[str], height: Mapping[str, int], blocks: Mapping[str, list[tuple[str, LoraPair, float]]]
) -> LoraPlan:
    mine = [block for name in names for block in blocks.get(name, [])]
    rows, at = {}, 0
    for name in names:
        rows[name] = (at, at + height[name])
        at += height[name]
    rank = sum(pair.rank for _, pair, _ in mine)
    return LoraPlan(rows, -(-rank // 4) * 4, int(mine[0][1].a.shape[1]), mine)


@dataclass(frozen=True, eq=False)
class LoraPart:
    """A plan on the device: a [rank, columns] and b [height, rank], f32."""

    plan: LoraPlan
    a: Buffer
    b: Buffer


def lora_bytes(plans: Sequence[LoraPlan]) -> int:
    """Bytes of weights on the device."""
    return sum(plan.nbytes for plan in plans)


def lora_row_bytes(plans: Sequence[LoraPlan]) -> int:
    """Bytes of scratch that a row needs besides what it needs without adapters: its product with the largest A."""
    return 4 * max((plan.rank for plan in plans), default=0)


def prepare_lora(dev: Device, plans: Sequence[LoraPlan]) -> dict[str, LoraPart]:
    """Device memory for all plans, not filled yet, by the names that they are for. Raises OutOfDeviceMemory."""
    parts: dict[str, LoraPart] = {}
    for plan in plans:
        a = dev.weight_room("f32", (plan.rank, plan.columns))
        b = dev.weight_room("f32", (plan.height, plan.rank))
        parts |= dict.fromkeys(plan.rows, LoraPart(plan, a, b))
    return parts


def fill_lora(dev: Device, parts: Mapping[str, LoraPart]) -> None:
    """Upload what `prepare_lora` made room for."""
    for part in {id(part): part for part in parts.values()}.values():
        pieces = []
        for buffer, values in zip((part.a, part.b), part.plan.matrices(), strict=True):
            raw = values.reshape(-1).view(np.uint8)
            pieces += [Piece(rows, write) for rows, write, _, _ in weight_pieces(buffer, raw)]
        fill(dev, pieces)
