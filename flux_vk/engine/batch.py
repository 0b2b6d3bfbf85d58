"""Decode steps of several sequences together: one submit gives each its next token. Steps may run ahead.

Not for: what comes of the tokens (stream.py) or who takes part (loop.py).
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decode.drawing import Drawing
from ..errors import FluxError, VulkanError

if TYPE_CHECKING:
    from ..gpu import Recorded
    from .runner import Runner
    from .sequence import Sequence

log = logging.getLogger("flux_vk.engine")

SIZES = (1, 2, 4, 8, 16, 32)  # rows a decode chain may have; what is over is padding
PLAIN = Drawing()
PADDING = 0xFFFFFFFF  # a slot that is in no table


def size_for(rows: int) -> int:
    """Rows of the chain that decodes that many sequences."""
    return next(size for size in SIZES if size >= rows)


class Batch:
    """The decode steps of one loop. `group` names its buffer of slot numbers, which no other loop has meanwhile.

    Belongs to one thread; what is submitted is submitted under the runner's lock. Made by `Runner.open_batch`, handed
    back by `close()`.
    """

    def __init__(self, runner: Runner, group: int) -> None:
        self.runner = runner
        self.group = group
        self.sequences: tuple[Sequence, ...] = ()
        self._key: tuple[Any, ...] = ()
        # Weak: what a batch is still waiting for does not keep the memory of a model that was closed.
        self._flying: deque[tuple[weakref.ref[Recorded], int]] = deque()

    @property
    def in_flight(self) -> int:
        """Steps submitted and not yet finished."""
        return len(self._flying)

    def compose(self, sequences: Seq[Sequence], drawing: Drawing = PLAIN) -> None:
        """Say whose tokens the next steps draw (at most 32, each with its first token drawn). Nothing may be in flight.

        drawing: what their sampling asks for, all together.
        """
        if self._flying:
            raise FluxError(f"{len(self._flying)} steps are in flight; finish them before the batch is changed")
        self.sequences = tuple(sequences)
        numbers = np.full(SIZES[-1], PADDING, np.uint32)
        numbers[: len(sequences)] = [s.slot for s in sequences]
        with self.runner.lock:
            self.runner.buffers.group_slots(self.group).view()[:] = numbers
        self._key = ("decode", size_for(max(1, len(sequences))), self.group, drawing)

    def start(self) -> None:
        """Submit one step behind those in flight. Raises ContextFull where a sequence finds no page."""
        runner, ahead = self.runner, len(self._flying)
        with runner.lock:
            furthest = 0
            for sequence in self.sequences:
                position = len(sequence.cached) + ahead
                runner.reach(sequence, position)
                furthest = max(furthest, position)
            step = runner.recorded((*self._key, runner.is_long(furthest)))
            self._flying.append((weakref.ref(step), step.submit()))

    def finish(self) -> None:
        """Wait for the oldest step in flight."""
        reference, number = self._flying.popleft()
        step = reference()
        if step is not None:  # else it was waited for when the runner dropped it
            step.wait_for(number)

    def settle(self) -> None:
        """Wait for steps whose results nobody wants, whatever comes of them."""
        while self._flying:
            try:
                self.finish()
            except VulkanError as error:
                log.debug("a step that was thrown away failed: %s", error)

    def close(self) -> None:
        """Settle, and let the next loop have the group."""
        self.settle()
        self.runner.close_batch(self)
