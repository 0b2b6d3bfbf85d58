"""Decode steps of several sequences together: one submit gives each its next token. Steps may run ahead.

Where the host has a say in each token (a grammar), a step is two submits: a forward pass, and the draw from its logits.
The next forward pass is submitted directly behind the draw, so that it runs while the host looks at the token.

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
        self.split = False  # steps are started by `start` and go on with `draw`
        self._agents = False  # swarms vote
        self._key: tuple[Any, ...] = ()
        self._draw_key: tuple[Any, ...] = ()
        # Weak: what a batch is still waiting for does not keep the memory of a model that was closed.
        self._flying: deque[tuple[weakref.ref[Recorded], int]] = deque()
        self._forward: tuple[weakref.ref[Recorded], int] | None = None  # one whose tokens are not drawn yet

    @property
    def in_flight(self) -> int:
        """Steps started and not yet finished."""
        return len(self._flying) + (self._forward is not None)

    @property
    def may_start(self) -> bool:
        """Whether another step may be started now.

        One that runs ahead of a swarm, which may change and have it drawn again, drops no page: what is drawn again
        sees what it saw before.
        """
        ahead = self.in_flight
        if ahead and self._agents and any(s.table.recycles(len(s.cached) + ahead) for s in self.sequences):
            return False
        return self._forward is None if self.split else ahead < self.runner.depth

    def compose(self, sequences: Seq[Sequence], drawing: Drawing = PLAIN) -> None:
        """Say whose tokens the next steps draw (at most 32, each with its first token drawn). Nothing may be in flight.

        drawing: what their sampling asks for, all together.
        """
        if self.in_flight:
            raise FluxError(f"{self.in_flight} steps are in flight; finish them before the batch is changed")
        self.sequences = tuple(sequences)
        numbers = np.full(SIZES[-1], PADDING, np.uint32)
        numbers[: len(sequences)] = [s.slot for s in sequences]
        with self.runner.lock:
            self.runner.buffers.group_slots(self.group).view()[:] = numbers
        rows = size_for(max(1, len(sequences)))
        self.split, self._agents = drawing.masked, drawing.agents > 0
        self._key = ("forward", rows, self.group) if self.split else ("decode", rows, self.group, drawing)
        self._draw_key = ("draw", rows, self.group, drawing)

    def start(self) -> None:
        """Submit one step, or the forward pass of one, behind those in flight. Raises ContextFull where a sequence
        finds no page."""
        runner, ahead = self.runner, self.in_flight
        with runner.lock:
            furthest = 0
            for sequence in self.sequences:
                position = len(sequence.cached) + ahead
                runner.reach(sequence, position)
                furthest = max(furthest, position)
            step = runner.recorded((*self._key, runner.is_long(furthest)))
            submitted = weakref.ref(step), step.submit()
        if self.split:
            self._forward = submitted
        else:
            self._flying.append(submitted)

    def draw(self) -> None:
        """Submit the second half of a split step that was started: its tokens, as the masks are now."""
        with self.runner.lock:
            step = self.runner.recorded(self._draw_key)
            self._flying.append((weakref.ref(step), step.submit()))
        self._forward = None

    def finish(self) -> None:
        """Wait for the oldest step in flight, of a split one for the tokens that were drawn."""
        reference, number = self._flying.popleft()
        step = reference()
        if step is not None:  # else it was waited for when the runner dropped it
            step.wait_for(number)

    def settle(self) -> None:
        """Wait for steps whose results nobody wants, whatever comes of them."""
        if self._forward is not None:
            self._flying.append(self._forward)
            self._forward = None
        while self._flying:
            try:
                self.finish()
            except VulkanError as error:
                log.debug("a step that was thrown away failed: %s", error)

    def close(self) -> None:
        """Settle, and let the next loop have the group."""
        self.settle()
        self.runner.close_batch(self)
