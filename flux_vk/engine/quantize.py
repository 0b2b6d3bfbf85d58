"""A GGUF model as another file: every tensor in the type that a mixture gives it, quantised on the device.

`plan` says what would be written, `quantize` writes it, `write_planned` is what both it and the merging of adapters
stand on. Any model the reader opens will do: tensors are just tensors here. Not for: which mixture is which
(formats/mixtures.py), nor for the work on the device (gpu/convert.py).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flux_vk.errors import FluxError, InputError
from flux_vk.formats import blocks, mixtures
from flux_vk.formats.gguf import GGUFFile, open_gguf
from flux_vk.formats.gguf_types import TensorInfo
from flux_vk.formats.gguf_writer import TensorOut, Value, typed, write_gguf
from flux_vk.formats.mixtures import FLOATS
from flux_vk.gpu import convert
from flux_vk.gpu.convert import Change, Converter

if TYPE_CHECKING:
    from flux_vk.gpu import Device

Progress = Callable[[int, int], None]
Changes = Mapping[str, Sequence[Change]]
DeviceChoice = "Device | str | int | None"

_ALIASES = {"Q2_K_M": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
QUANTIZATION_VERSION = 2
_COPIED = 16 << 20  # bytes at once of tensors that stay as they are
_SPARE = 1 << 24  # bytes beside the tensors: header and temporary things


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor. before, after: bytes."""

    name: str
    shape: tuple[int, ...]
    source: str
    target: str
    before: int
    after: int


@dataclass(frozen=True)
class Plan:
    """What a file becomes. file_type: the mixture's name, "" where every tensor keeps its type."""

    file_type: str
    tensors: tuple[TensorPlan, ...]

    @property
    def before(self) -> int:
        """Bytes of all tensors."""
        return sum(t.before for t in self.tensors)

    @property
    def after(self) -> int:
        """Bytes of all tensors afterwards."""
        return sum(t.after for t in self.tensors)

    @property
    def weights(self) -> int:
        """Numbers in all tensors."""
        return sum(int(np.prod(t.shape, dtype=np.int64)) for t in self.tensors)

    @property
    def counts(self) -> dict[str, int]:
        """Tensors by their type afterwards, the most frequent first."""
        names = [t.target for t in self.tensors]
        return {name: names.count(name) for name in sorted(set(names), key=lambda n: (-names.count(n), n))}

    @property
    def requantised(self) -> tuple[TensorPlan, ...]:
        """Quantised tensors that change their type, and so lose precision twice."""
        return tuple(t for t in self.tensors if t.source not in FLOATS and t.source != t.target)


def file_types() -> tuple[str, ...]:
    """The names that `type` may have: those all of whose types can be written."""
    known = convert.writable()
    return tuple(name for name, (base, _) in mixtures.BASE.items() if base in known)


def file_type(name: str) -> str:
    """The mixture of that name in any case, "q4_k" for Q4_K_M as llama.cpp has it; InputError listing them."""
    upper = name.upper().replace("-", "_")
    found = _ALIASES.get(upper, upper)
    if found not in file_types():
        known = ", ".join(t.lower() for t in file_types())
        raise InputError(f"type {name!r}: no such mixture; expected one of {known}")
    return found


def plan(f: GGUFFile, type: str, *, pure: bool = False, output_type: str | None = None) -> Plan:
    """What `quantize` would make of an open file. Raises InputError for unknown types and for adapters."""
    if f.get("general.type", str, "model") == "adapter":
        raise InputError(f"{f.path}: a LoRA adapter; expected a model (`flux_vk.train merge` puts an adapter into one)")
    chosen = file_type(type)
    if output_type is not None and output_type not in convert.writable():
        raise InputError(
            f"output type {output_type!r}: no kernel writes it; expected one of {', '.join(convert.writable())}"
        )
    present = {name: (t.shape, t.type) for name, t in f.tensors.items()}
    types = mixtures.tensor_types(chosen, present, mixtures.facts(f), pure=pure, output_type=output_type)
    return planned(f, types, chosen)


def planned(f: GGUFFile, types: Mapping[str, str], file_type: str = "") -> Plan:
    """The plan that gives every tensor of `types` its type there, and leaves the others as they are."""
    return Plan(file_type, tuple(_tensor(t, types.get(name, t.type)) for name, t in f.tensors.items()))


def _tensor(t: TensorInfo, target: str) -> TensorPlan:
    return TensorPlan(t.name, t.shape, t.type, target, t.nbytes, convert.nbytes(target, t.shape))


def quantize(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    type: str = "q4_k_m",
    *,
    pure: bool = False,
    output_type: str | None = None,
    allow_requantize: bool = False,
    force: bool = False,
    device: Device | str | int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Writes the model `src` (any part of a split one) to the file `dst` in another type; returns what was done.

    type: "q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16" ... with llama.cpp's rules for single tensors; pure: one type for
    all but for rows it cannot hold; output_type: another type for the output matrix. Metadata and tokenizer stay, but
    for general.file_type and general.quantization_version. allow_requantize: also from types that lost precision.
    force: replace `dst`. device: opened when it is needed; casts between floats need none. progress: (done, total).
    Raises InputError for what was asked wrongly, GGUFError for a broken file, VulkanError from the device.
    """
    with open_gguf(src) as f:
        work = plan(f, type, pure=pure, output_type=output_type)
        check_requantised(f, work, allow_requantize)
        write_planned(f, dst, work, force=force, device=device, progress=progress)
    return work


def check_requantised(f: GGUFFile, work: Plan, allowed: bool) -> None:
    """InputError where quantised tensors change their type and that was not allowed."""
    again = work.requantised
    if again and not allowed:
        raise InputError(
            f"{f.path}: {len(again)} tensors are quantised already ({again[0].name} as {again[0].source}), expected "
            "f32, f16 or bf16: start from such a file, or allow it (--allow-requantize) and lose precision twice"
        )


def write_planned(
    f: GGUFFile,
    dst: str | os.PathLike[str],
    work: Plan,
    *,
    changes: Changes | None = None,
    force: bool = False,
    device: Device | str | int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `f` to `dst` as planned, with `changes` (tensor -> low-rank changes) added to the weights on the way."""
    target = Path(dst)
    check_target(f, target, work, force)
    source = _Source(f, changes or {}, device)
    outs = [TensorOut(t.name, t.target, t.shape, lambda t=t: source.pieces(t)) for t in work.tensors]  # type: ignore[misc]
    metadata = _metadata(f, work)
    write_gguf(target, metadata, outs, None, progress)


def check_target(f: GGUFFile, target: Path, work: Plan, force: bool) -> None:
    """Raises InputError where `target` cannot or must not be written, FluxError where the disk has no room."""
    if not target.parent.is_dir():
        raise InputError(f"{target}: no folder {target.parent}; make it first")
    if target.is_dir():
        raise InputError(f"{target}: a folder; expected the name of a file to write")
    if target.exists() and any(target.samefile(part) for part in f.parts):
        raise InputError(f"{target}: the model that is read; give another name")
    if target.exists() and not force:
        raise InputError(f"{target}: it is there already; --force replaces it, or give another name")
    free = shutil.disk_usage(target.parent).free
    if free < work.after + _SPARE:
        raise FluxError(f"{target}: {free / 1e6:.0f} MB are free, {(work.after + _SPARE) / 1e6:.0f} MB are needed")


def _metadata(f: GGUFFile, work: Plan) -> dict[str, Value]:
    kept = typed(f.metadata, f.types)
    for key in ("split.no", "split.count", "split.tensors.count"):
        kept.pop(key, None)
    if work.file_type:
        kept["general.quantization_version"] = Value("u32", QUANTIZATION_VERSION)
        kept["general.file_type"] = Value("u32", mixtures.BASE[work.file_type][1])
    return kept


class _Source:
    """Gives the tensors of the new file piece by piece, and the pages of the old one back."""

    def __init__(self, f: GGUFFile, changes: Changes, device: Device | str | int | None) -> None:
        self._f = f
        self._changes = changes
        self._device = device
        self._made: Converter | None = None

    def pieces(self, t: TensorPlan) -> Iterator[npt.NDArray[np.uint8]]:
        """The bytes of one tensor. An error names it."""
        try:
            done = 0
            for piece in self._converted(t):
                yield piece
                done += piece.nbytes
                self._f.release(t.name, 0, done * t.before // t.after)  # the pages that were read
        except InputError as error:
            raise InputError(f"{self._f.path}: tensor {t.name!r}: {error}") from None

    def _converted(self, t: TensorPlan) -> Iterator[npt.NDArray[np.uint8]]:
        raw, changes = self._f.raw(t.name), self._changes.get(t.name, ())
        if t.source == t.target and not changes:
            return iter(np.array_split(raw, max(1, raw.nbytes // _COPIED)))
        if t.source in FLOATS and t.target in FLOATS and not changes:
            return convert.cast(raw, t.source, t.target, t.shape)
        blocks.runnable(t.source)
        return self._converter().convert(raw, t.source, t.target, t.shape, changes)

    def _converter(self) -> Converter:
        if self._made is None:
            from flux_vk.gpu import Device

            device = self._device
            self._made = Converter(Device(device) if device is None or isinstance(device, (str, int)) else device)
        return self._made
