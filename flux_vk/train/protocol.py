"""What the training loop knows of the device: an engine takes micro-batches and keeps adapters and optimiser.

Not for: how it does that (engine.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from flux_vk.formats.adapter import Adapter

    from .batches import MicroBatch

State = Mapping[str, npt.NDArray[Any]]
"""What a training goes on from, bit for bit: "params", "m", "v" (float32) and "micro" (micro-batches so far)."""


@dataclass(frozen=True)
class Update:
    """The optimiser's step that ends a group of micro-batches. step: from 1; counted: labels of all of the group."""

    lr: float
    step: int
    counted: int


@dataclass(frozen=True)
class StepResult:
    """loss: the sum over the micro-batch's counted labels. grad_norm: of the mean loss, before clipping; only with an
    update. finite: neither is NaN or infinite; otherwise the update has changed nothing.
    """

    loss: float
    grad_norm: float | None
    finite: bool


class Engine(Protocol):
    """One adapter in training on one device."""

    def forward_backward(self, batch: MicroBatch, update: Update | None = None) -> StepResult:
        """Add the gradients of a micro-batch, one submit; with `update` the optimiser runs in the same submit."""

    def evaluate(self, batch: MicroBatch) -> float:
        """The sum of the losses of a micro-batch's counted labels; nothing changes."""

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Exact copies of what `load_state` needs."""

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""

    def adapter(self) -> Adapter:
        """The adapter as it is now."""

    def memory(self) -> dict[str, int]:
        """Bytes on the device by part."""


def finite(state: State) -> bool:
    """Whether all adapter weights are finite numbers."""
    return bool(np.isfinite(state["params"]).all())
