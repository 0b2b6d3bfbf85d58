"""The frozen model that training stands on: its weights on a device, once, whatever number of adapters learn over them.

Not for: adapters and their state (engine.py), or the model's tokenizer (data.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

from ..formats.gguf import open_gguf
from ..gpu.chain import Arena
from ..models import read_config
from ..models.weights import fill_weights, prepare_weights

if TYPE_CHECKING:
    from ..gpu import Device
    from ..gpu.device import BaseDevice
    from ..models import ModelConfig
    from ..models.weights import Weights


@dataclass
class Base:
    """Configuration and weights. `arena`: scratch memory, shared by all chains over this model."""

    device: BaseDevice
    config: ModelConfig
    weights: Weights
    arena: Arena
    path: str

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device."""
        return self.weights.nbytes


def load_base(
    path: str | PathLike[str],
    device: BaseDevice,
    context: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    fill: bool = True,
) -> Base:
    """The model of a GGUF file on a device, its weights in their own block types.

    context: tokens of the longest sequence (LongRoPE chooses by it). fill: False leaves the weights' memory as it is,
    for working out what would be taken. Raises GGUFError, ModelError, OutOfDeviceMemory.
    """
    real = cast("Device", device)  # a device that only records has all that is asked of it here
    with open_gguf(path) as file:
        config = read_config(file)
        weights = prepare_weights(real, file, config, context=context)
        if fill:
            fill_weights(weights, file, progress)
    return Base(device, config, weights, Arena(device), str(path))


def device_like(device: BaseDevice) -> Any:
    """A device that only records, with the features and limits of this one."""
    from ..gpu.null import NullDevice

    return NullDevice(device.kind, device.features, **device.limits)
