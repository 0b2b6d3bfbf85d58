"""What a training tells while it runs, and what it ends with. Not for: showing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StartEvent:
    """The training begins, or goes on behind `step`. steps: how many there will be; per_epoch: of the next epoch."""

    step: int
    steps: int
    per_epoch: int
    examples: int
    resumed: Path | None


@dataclass(frozen=True)
class StepEvent:
    """An optimiser step is done. epoch: passes over the data, with a fraction; loss: mean over the step's labels in
    nats; grad_norm: before clipping; tokens: rows without padding; seconds: of the step; memory: bytes on the device;
    eta: seconds to the end.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    smoothed: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    seconds: float
    memory: int
    eta: float


@dataclass(frozen=True)
class EvalEvent:
    """The validation data was evaluated. loss: mean over its labels; improved: better than ever before."""

    step: int
    loss: float
    improved: bool
    seconds: float


@dataclass(frozen=True)
class SavedEvent:
    """A checkpoint is on the disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class NoteEvent:
    """Something that the reader should know."""

    text: str


Event = StartEvent | StepEvent | EvalEvent | SavedEvent | NoteEvent
Callback = Callable[[Event], None]


@dataclass(frozen=True)
class TrainResult:
    """How a training ended. loss: smoothed, of the last step; valid_before, valid_after: validation loss of the adapter
    it began with and of the one that was written; stopped_early: the validation loss stopped to improve; kept: the
    step whose adapter was written.
    """

    out: Path
    steps: int
    kept: int
    loss: float | None
    valid_before: float | None
    valid_after: float | None
    stopped_early: bool
