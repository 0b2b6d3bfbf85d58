"""Progress of a training on stderr: a live line on a terminal, plain lines elsewhere. Not for: the training."""

from __future__ import annotations

import time
from typing import Any

from flux_vk.cli.common import human_bytes
from flux_vk.cli.terminal import Terminal
from flux_vk.train.events import EvalEvent, Event, NoteEvent, SavedEvent, StartEvent, StepEvent

EVERY = 2.0
"""Seconds between plain lines."""


class View:
    """Shows the events of a training. live: two lines that are written over, by rich; else lines, one in 2 seconds.

    name: of an experiment, in front of everything.
    """

    def __init__(self, terminal: Terminal, live: bool, name: str = "") -> None:
        self._terminal = terminal
        self._live = live and not terminal.quiet
        self._head = f"{name}: " if name else ""
        self._live_lines: Any = None
        self._bar: Any = None
        self._task: Any = None
        self._said = 0.0
        self._step: StepEvent | None = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, StepEvent):
            self._step = event
            self._show(event)
        elif isinstance(event, StartEvent):
            self._started(event)
        elif isinstance(event, EvalEvent):
            better = " (the best so far)" if event.improved and event.step else ""
            self._note(f"step {event.step}: validation loss {event.loss:.4f}{better}")
        elif isinstance(event, SavedEvent):
            self._note(f"step {event.step}: saved {event.path}")
        elif isinstance(event, NoteEvent):
            self._note(event.text)

    def close(self) -> None:
        """End the live lines, and leave their last state as a line."""
        if self._live_lines is not None:
            self._live_lines.stop()
            self._live_lines = None
            if self._step is not None:
                self._note(line(self._step))

    def _started(self, event: StartEvent) -> None:
        if event.resumed is not None:
            self._note(f"going on from {event.resumed}")
        self._note(f"{event.examples} examples, {event.steps - event.step} steps, {event.per_epoch} an epoch")
        if self._live:
            self._open(event)

    def _show(self, event: StepEvent) -> None:
        if self._live_lines is not None:
            from rich.console import Group
            from rich.text import Text

            self._bar.update(self._task, completed=event.step, left=duration(event.eta))
            self._live_lines.update(Group(self._bar, Text(figures(event), no_wrap=True, overflow="ellipsis")))
        elif not self._live and (time.monotonic() - self._said >= EVERY or event.step in (1, event.steps)):
            self._said = time.monotonic()
            self._note(line(event))

    def _note(self, text: str) -> None:
        if self._live_lines is not None:
            self._live_lines.console.print(f"{self._head}{text}", markup=False, highlight=False, soft_wrap=True)
        else:
            self._terminal.note(f"{self._head}{text}")

    def _open(self, event: StartEvent) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        left = TextColumn("{task.fields[left]}", markup=False)
        self._bar = Progress(TextColumn("step"), BarColumn(), MofNCompleteColumn(), left)
        self._task = self._bar.add_task("", total=event.steps, completed=event.step, left="")
        self._live_lines = Live(self._bar, console=Console(stderr=True), transient=True, refresh_per_second=4)
        self._live_lines.start()


def figures(e: StepEvent) -> str:
    """Losses, rate, norm, speed and memory of a step."""
    return (
        f"loss {e.loss:.3f}, smoothed {e.smoothed:.3f}, lr {e.lr:.2e}, norm {e.grad_norm:.3g}, "
        f"{e.tokens_per_second:.0f} tokens/s, {human_bytes(e.memory)}"
    )


def line(e: StepEvent) -> str:
    """A step as a plain line."""
    return f"step {e.step}/{e.steps}, epoch {e.epoch:.2f}: {figures(e)}, {duration(e.eta)}"


def duration(seconds: float) -> str:
    """ "1:02:03 left", "2:03 left"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02} left" if hours else f"{m}:{s:02} left"
