"""The learning rate of each step: warmup, then cosine, a straight line, or constant. Not for: the optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flux_vk.errors import InputError

from .options import SCHEDULES, TrainOptions


@dataclass(frozen=True)
class Schedule:
    """kind: cosine, linear or constant. From 0 the rate rises in a straight line to `highest` at step `warmup`, then
    falls to `lowest` at step `total` and stays there (constant: it stays at `highest`). Steps count from 0, as in
    PyTorch's LambdaLR: the first update is made with rate(0).

    cosine: lowest + (highest - lowest) (1 + cos(pi p)) / 2, p the share of the steps behind the warmup (Loshchilov and
    Hutter 2016, arXiv 1608.03983, without restarts). linear: highest - (highest - lowest) p.
    """

    kind: str
    highest: float
    total: int
    warmup: int = 0
    lowest: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise InputError(f"schedule: found {self.kind!r}, expected one of {', '.join(SCHEDULES)}")

    @classmethod
    def of(cls, options: TrainOptions, total: int) -> Schedule:
        """The schedule of a training of `total` steps. A share of warmup is rounded down to whole steps."""
        warmup = int(options.warmup) if options.warmup >= 1 else math.floor(options.warmup * total)
        return cls(options.schedule, options.lr, total, warmup, options.min_lr)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        if step < self.warmup:
            return self.highest * step / self.warmup
        if self.kind == "constant":
            return self.highest
        p = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        fall = p if self.kind == "linear" else (1 - math.cos(math.pi * p)) / 2
        return self.highest - (self.highest - self.lowest) * fall
