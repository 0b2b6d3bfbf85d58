"""A model's weights on a device: checked against the architecture, packed and uploaded tensor by tensor.

Not for: which tensors there must be (tensors.py and the architectures' files).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flux_vk.models.rope import rope_tables
from flux_vk.models.tensors import check_tensors, read_floats

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile
    from flux_vk.gpu import Buffer, Device
    from flux_vk.models.config import ModelConfig

# Tensors of a layer that read the same rows: laid behind each other where their types agree, for one matmul.
JOINED = (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up"))

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DeviceRope:
    """A rope table on the device; see rope.RopeTable."""

    turns: Buffer
    mscale: float


class Weights(Mapping[str, "Buffer"]):
    """Tensors by their GGUF name, and the rope tables in the order of the configuration.

    `output.weight` of a tied model is the buffer of `token_embd.weight`.
    """

    def __init__(self, buffers: dict[str, Buffer], ropes: list[DeviceRope], context: int) -> None:
        self._buffers = buffers
        self.ropes = ropes
        self.context = context

    def __getitem__(self, name: str) -> Buffer:
        return self._buffers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def __len__(self) -> int:
        return len(self._buffers)

    @property
    def nbytes(self) -> int:
        """Bytes on the device; a tied head counts once."""
        unique: dict[int, Buffer] = {id(buffer): buffer for buffer in self._buffers.values()}
        tensors = sum(b.nbytes for b in unique.values())
        return tensors + sum(r.turns.nbytes for r in self.ropes)


def load_weights(
    dev: Device, f: GGUFFile, cfg: ModelConfig, progress: Progress | None = None, context: int | None = None
) -> Weights:
    """Uploads all tensors; matrices in the device layout of their block type, norms and biases as f32.

    `context` is the session's context in tokens (None: the model's own): LongRoPE chooses its factors by it.
    `progress` gets (bytes done, bytes in all) of the file after each tensor. Pages of the file are given back
    as it goes. Raises ModelError (names, shapes, types; before anything is uploaded) and OutOfDeviceMemory.
    """
    specs = check_tensors(f, cfg)
    tables = rope_tables(f, cfg, context or cfg.context_length)
    total = sum(f.tensors[spec.name].nbytes for spec in specs)
    done = 0
    buffers: dict[str, Buffer] = joint_rooms(dev, f, cfg.n_layers)
    for spec in specs:
        info = f.tensors[spec.name]
        room = buffers.get(spec.name)
        if len(spec.shape) == 2:
            shape = (spec.shape[0], spec.shape[1])
            buffers[spec.name] = dev.weight(f.raw(spec.name), info.type, shape, into=room)
        elif room is not None:
            room.write(read_floats(f, spec.name))
        else:
            buffers[spec.name] = dev.array(read_floats(f, spec.name))
        f.release(spec.name)
        done += info.nbytes
        if progress is not None:
            progress(done, total)
    if cfg.tied:
        buffers["output.weight"] = buffers["token_embd.weight"]
    ropes = [DeviceRope(dev.array(table.turns), table.mscale) for table in tables]
    return Weights(buffers, ropes, context or cfg.context_length)


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
