"""The loop's own state: where in the data, which losses so far; from checkpoints. Not for: the engine's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from flux_vk.errors import InputError

from .batches import Example
from .checkpoint import Checkpoint
from .data import fingerprint
from .options import TrainOptions

FREE = (
    "model", "data", "valid", "out", "device", "epochs", "steps", "recompute", "eval_every", "save_every",
    "keep", "early_stop", "skip_bad", "resume",
)  # fmt: skip
"""Options that may be others when a training is resumed. What data it was is checked by its contents."""


@dataclass
class Progress:
    """step: optimiser steps done. epoch, index: the next micro-batch. smoothed: the training loss so far.

    first_valid, last_valid, best: validation losses; best_step: when it was best; worse: evaluations since then.
    """

    step: int = 0
    epoch: int = 0
    index: int = 0
    smoothed: float | None = None
    first_valid: float | None = None
    last_valid: float | None = None
    best: float | None = None
    best_step: int | None = None
    worse: int = 0

    def evaluated(self, loss: float) -> bool:
        """Take note of a validation loss; whether it is the best."""
        if self.first_valid is None:
            self.first_valid = loss
        self.last_valid = loss
        if self.best is None or loss < self.best:
            self.best, self.best_step, self.worse = loss, self.step, 0
            return True
        self.worse += 1
        return False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def fingerprints(train: Sequence[Example], valid: Sequence[Example]) -> dict[str, Any]:
    """What says that the data is the same."""
    return {"data_sha256": fingerprint(train), "valid_sha256": fingerprint(valid) if valid else None}


def resumed(checkpoint: Checkpoint, options: TrainOptions, about: Mapping[str, Any]) -> Progress:
    """The progress in a checkpoint. InputError where options, model or data are others than those it was made with."""
    training = checkpoint.training
    try:
        made = TrainOptions.from_dict({**training["options"], "resume": True}, str(checkpoint.path))
        before = dict(training["about"])
        progress = Progress(**{f.name: training[f.name] for f in fields(Progress)})
        whole = all(
            isinstance(n, int) and n >= 0 for n in (progress.step, progress.epoch, progress.index, progress.worse)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{checkpoint.path}: a checkpoint with a part missing or wrong ({error!r})") from error
    if not whole:
        raise InputError(f"{checkpoint.path}: a checkpoint with a part missing or wrong ({progress})")
    was, wanted = made.to_dict(), options.to_dict()
    differ = [
        f"{name.replace('_', '-')} {was[name]}, not {wanted[name]}"
        for name in was
        if name not in FREE and was[name] != wanted[name] and (name, wanted[name]) != ("init_from", None)
    ]
    differ += [
        f"{key.replace('_', ' ')} {before.get(key)}, not {now}" if key != "data_sha256" else "other training data"
        for key, now in about.items()
        if key != "valid_sha256" and before.get(key) != now
    ]
    if differ:
        raise InputError(
            f"{checkpoint.path}: was made with {'; '.join(differ)}; give the same to resume, or begin in another folder"
        )
    if before.get("valid_sha256") != about.get("valid_sha256"):  # losses of other data say nothing about these
        progress.best = progress.best_step = progress.first_valid = progress.last_valid = None
        progress.worse = 0
    return progress
