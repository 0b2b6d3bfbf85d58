"""A model's weights on a device: checked against the architecture, then packed and uploaded piece by piece.

Not for: which tensors there must be (tensors.py and the architectures' files).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from flux_vk.gpu.upload import Piece, fill, weight_pieces
from flux_vk.models.rope import rope_tables
from flux_vk.models.tensors import check_tensors, read_floats

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile
    from flux_vk.gpu import Buffer, Device
    from flux_vk.models.config import ModelConfig
    from flux_vk.models.lora import LoraPart

# Tensors of a layer that read the same rows: laid behind each other where their types agree, for one matmul.
JOINED = (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up"))

READ_AHEAD = 64 << 20
"""Bytes of the file that the system is asked for before they are wanted."""

Progress = Callable[[int, int], None]
U8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DeviceRope:
    """A rope table on the device; see rope.RopeTable."""

    turns: Buffer
    mscale: float


class Weights(Mapping[str, "Buffer"]):
    """Tensors by their GGUF name, and the rope tables in the order of the configuration.

    `output.weight` of a tied model is the buffer of `token_embd.weight`. lora: what adapters add, by the names of
    linear layers ("blk.0.attn_q"); empty without adapters.
    """

    def __init__(
        self, buffers: dict[str, Buffer], ropes: list[DeviceRope], context: int, names: Sequence[str] = ()
    ) -> None:
        self._buffers = buffers
        self.names = tuple(names)  # the tensors of the file that they are filled from
        self.ropes = ropes
        self.context = context
        self.lora: Mapping[str, LoraPart] = {}

    def __getitem__(self, name: str) -> Buffer:
        return self._buffers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def __len__(self) -> int:
        return len(self._buffers)

    @property
    def nbytes(self) -> int:
        """Bytes on the device, adapters included; a tied head counts once."""
        unique: dict[int, Buffer] = {id(buffer): buffer for buffer in self._buffers.values()}
        adapters = {id(part): part.plan.nbytes for part in self.lora.values()}
        tensors = sum(b.nbytes for b in unique.values()) + sum(adapters.values())
        return tensors + sum(r.turns.nbytes for r in self.ropes)


def load_weights(
    dev: Device, f: GGUFFile, cfg: ModelConfig, progress: Progress | None = None, context: int | None = None
) -> Weights:
    """Room for all tensors, filled: `prepare_weights` and `fill_weights` in one."""
    weights = prepare_weights(dev, f, cfg, context)
    fill_weights(weights, f, progress)
    return weights


def prepare_weights(dev: Device, f: GGUFFile, cfg: ModelConfig, context: int | None = None) -> Weights:
    """Device memory for all tensors, not filled yet; matrices in the device layout of their type, the others as f32.

    `context` is the session's context in tokens (None: the model's own): LongRoPE chooses its factors by it.
    Raises ModelError (names, shapes, types; before anything is allocated) and OutOfDeviceMemory.
    """
    specs = check_tensors(f, cfg)
    tables = rope_tables(f, cfg, context or cfg.context_length)
    buffers = joint_rooms(dev, f, cfg.n_layers)
    for spec in specs:
        if spec.name in buffers:
            continue
        if len(spec.shape) == 2:
            buffers[spec.name] = dev.weight_room(f.tensors[spec.name].type, (spec.shape[0], spec.shape[1]))
        else:
            buffers[spec.name] = dev.empty(f.tensors[spec.name].shape, "f32")
    names = [spec.name for spec in specs]
    if cfg.tied:
        buffers["output.weight"] = buffers["token_embd.weight"]
    ropes = [DeviceRope(dev.array(table.turns), table.mscale) for table in tables]
    return Weights(buffers, ropes, context or cfg.context_length, names)


def fill_weights(weights: Weights, f: GGUFFile, progress: Progress | None = None) -> None:
    """Upload all tensors, several threads at once, in the file's order.

    `progress` gets (bytes done, bytes in all) of the file, in this thread. The system is asked to read ahead, and pages
    of the file are given back as they are used. Raises what goes wrong in any of the threads, when all have ended.
    """
    names = sorted(weights.names, key=lambda name: (f.tensors[name].part, f.tensors[name].offset))
    cuts = [cut for name in names for cut in _cut(f, name, weights[name])]
    ahead = _read_ahead(f, cuts)
    pieces = [
        Piece(c.target, c.write, c.stop - c.start, ahead(i), partial(f.release, c.name, c.start, c.stop))
        for i, c in enumerate(cuts)
    ]
    total, done = sum(piece.nbytes for piece in pieces), 0

    def tell(piece: Piece) -> None:
        nonlocal done
        done += piece.nbytes
        if progress is not None:
            progress(done, total)

    if pieces:
        fill(cast("Device", weights[names[0]].device), pieces, tell)


@dataclass(frozen=True)
class _Cut:
    """Bytes start..stop of a tensor in the file, and where they go."""

    name: str
    target: Buffer
    write: Callable[[U8Array], None]
    start: int
    stop: int


def _cut(f: GGUFFile, name: str, buffer: Buffer) -> Iterator[_Cut]:
    if buffer.row_bytes:
        for target, write, start, stop in weight_pieces(buffer, f.raw(name)):
            yield _Cut(name, target, write, start, stop)
    else:

        def write_floats(view: U8Array) -> None:
            view[...] = read_floats(f, name).reshape(-1).view(np.uint8)

        yield _Cut(name, buffer, write_floats, 0, f.tensors[name].nbytes)


def _read_ahead(f: GGUFFile, cuts: list[_Cut]) -> Callable[[int], Callable[[], None]]:
    """For each cut the call that asks for what lies READ_AHEAD bytes behind it; the first asks for all up to there."""
    ends = list(itertools.accumulate(c.stop - c.start for c in cuts))

    def reach(i: int) -> int:
        return bisect.bisect_left(ends, ends[i] + READ_AHEAD)

    def ask(first: int, last: int) -> None:
        for cut in cuts[first : last + 1]:
            f.prefetch(cut.name, cut.start, cut.stop)

    return lambda i: partial(ask, reach(i - 1) + 1 if i else 0, reach(i))


def joint_rooms(dev: Device, f: GGUFFile, n_layers: int) -> dict[str, Buffer]:
    """Memory for runs of JOINED tensors of one type (and their biases, where all have one), by tensor name."""
    rooms: dict[str, Buffer] = {}
    for layer in range(n_layers):
        for group in JOINED:
            names = [f"blk.{layer}.{name}" for name in group]
            if not all(f"{name}.weight" in f.tensors for name in names):
                continue
            for run in _runs(f, names):
                infos = [f.tensors[f"{name}.weight"] for name in run]
                rows = [info.shape[0] for info in infos]
                whole = dev.weight_room(infos[0].type, (sum(rows), infos[0].shape[1]))
                _deal(rooms, whole, [f"{name}.weight" for name in run], rows)
                if all(f"{name}.bias" in f.tensors for name in run):
                    _deal(rooms, dev.empty((sum(rows),), "f32"), [f"{name}.bias" for name in run], rows)
    return rooms


def _runs(f: GGUFFile, names: list[str]) -> list[list[str]]:
    """Neighbours whose weights have the same type and row length, and that all have a bias or all have none."""
    runs: list[list[str]] = []
    last: object = None
    for name in names:
        info = f.tensors[f"{name}.weight"]
        kind = (info.type, info.shape[1:], f"{name}.bias" in f.tensors)
        if kind == last:
            runs[-1].append(name)
        else:
            runs.append([name])
        last = kind
    return [run for run in runs if len(run) > 1]


def _deal(rooms: dict[str, Buffer], whole: Buffer, names: list[str], rows: list[int]) -> None:
    start = 0
    for name, n in zip(names, rows, strict=True):
        rooms[name] = whole.rows(start, start + n)
        start += n
