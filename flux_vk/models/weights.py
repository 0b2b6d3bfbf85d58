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
    buffers: dict[str, Buffer] = {}
    for spec in specs:
        info = f.tensors[spec.name]
        if len(spec.shape) == 2:
            buffers[spec.name] = dev.weight(f.raw(spec.name), info.type, (spec.shape[0], spec.shape[1]))
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
