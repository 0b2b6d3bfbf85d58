"""Shapes measured on a device and remembered: which specialization of a kernel is fastest for a given size.

A choice changes speed only, never bits: candidates must give the same result. Nothing is measured unless asked
(`python -m flux_vk.bench tune`, `tune_matmul`); without measurements the kernels' own rules hold.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..settings import settings
from . import cache
from .chain import Chain
from .device import BaseDevice, Device

log = logging.getLogger("flux_vk.gpu")

GAIN = 0.97  # a candidate replaces the rule's choice only when it takes at most this share of its time


@dataclass(frozen=True)
class Choice:
    """One measured size: the values chosen, their time and that of the rule's own choice (median, microseconds)."""

    values: dict[str, int]
    us: float
    rule_us: float


class Tuner:
    """The choices of one device. Read from and written to a file in the cache folder, by device and driver."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._choices: dict[str, Choice] = {}
        if path is not None and path.exists():
            try:
                self._choices = {k: _choice(v) for k, v in dict(json.loads(path.read_text())).items()}
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.warning("%s is no tuning file (%s); run `python -m flux_vk.bench tune` again", path, error)

    def __len__(self) -> int:
        return len(self._choices)

    def get(self, key: str) -> dict[str, int] | None:
        """The values chosen for a size, or None where it was not measured."""
        found = self._choices.get(key)
        return found.values if found else None

    def choices(self) -> dict[str, Choice]:
        """Everything that was measured, by name."""
        return dict(sorted(self._choices.items()))

    def clear(self) -> None:
        """Forget everything, on disk too."""
        self._choices.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def measure(
        self,
        device: Device,
        key: str,
        candidates: Sequence[dict[str, int]],
        build: Callable[[Chain, dict[str, int]], None],
        repeat: int = 9,
        calls: int = 1,
    ) -> Choice:
        """Time the candidates in turn, `repeat` rounds, and keep the best; the first is the rule's own choice.

        `build` appends the work of one candidate to a chain, `calls` times; the times kept are those of one call.
        Rounds alternate so that noise meets all alike.
        """
        recorded = []
        for values in candidates:
            chain = Chain(device, name=f"tune {key}")
            build(chain, values)
            step = chain.record()
            step.submit()
            step.wait()
            recorded.append(step)
        times: list[list[float]] = [[] for _ in candidates]
        for _ in range(repeat):
            for i, step in enumerate(recorded):
                started = time.perf_counter()
                step.submit()
                step.wait()
                times[i].append((time.perf_counter() - started) * 1e6)
        medians = [statistics.median(t) / calls for t in times]
        best = min(range(len(medians)), key=lambda i: medians[i])
        if medians[best] > GAIN * medians[0]:
            best = 0
        choice = Choice(dict(candidates[best]), round(medians[best], 2), round(medians[0], 2))
        self._choices[key] = choice
        log.debug("tuned %s: %s, %.1f us (rule %.1f us)", key, choice.values, choice.us, choice.rule_us)
        return choice

    def save(self) -> None:
        """Write the choices to the cache folder; nothing half-written stays."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f".{os.getpid()}.part")
        data: dict[str, Any] = {key: asdict(choice) for key, choice in sorted(self._choices.items())}
        partial.write_text(json.dumps(data, indent=1))
        partial.replace(self.path)


def _choice(data: dict[str, Any]) -> Choice:
    values = {str(k): int(v) for k, v in dict(data["values"]).items()}
    if not values:
        raise ValueError("a choice without values")
    return Choice(values, float(data["us"]), float(data["rule_us"]))


def file_of(info: dict[str, Any]) -> Path | None:
    """Where a device's choices are kept, by device and driver; None where nothing is kept (FLUX_VK_NO_CACHE)."""
    s = settings()
    return None if s.no_cache else cache.file_of(s.cache_dir, info).with_suffix(".tuning.json")


_tuners: weakref.WeakKeyDictionary[BaseDevice, Tuner] = weakref.WeakKeyDictionary()


def tuner_of(device: BaseDevice) -> Tuner | None:
    """The device's tuner with what the cache folder knows of it; None for a device that only records."""
    if not isinstance(device, Device):
        return None
    found = _tuners.get(device)
    if found is None:
        found = _tuners.setdefault(device, Tuner(file_of(device.info)))
    return found
