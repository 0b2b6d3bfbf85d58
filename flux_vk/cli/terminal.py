"""Text to stdout as it comes; notes, progress bars and figures to stderr. Not for: what is written."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux_vk.engine.generation import Generation

Progress = Callable[[int, int], None]

# What a terminal would act on instead of showing: a model's text must not move the cursor or set the title.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PATIENCE = 0.3  # seconds until a bar appears: what is over sooner needs none


class Terminal:
    """The two streams of a command line. quiet: nothing but the text (and errors)."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.shown = sys.stdout.isatty()
        self._ends_line = True
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:  # a character that the encoding lacks becomes "?" instead of an error
                reconfigure(errors="replace")

    def write(self, text: str) -> None:
        """A piece of the text, shown at once. Raises BrokenPipeError when nobody reads any more."""
        if not text:
            return
        if self.shown:
            text = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
        sys.stdout.write(text)
        sys.stdout.flush()
        self._ends_line = text.endswith("\n")

    def end_line(self) -> None:
        """Finish the line that the text left open."""
        if not self._ends_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._ends_line = True

    @contextmanager
    def whole_lines(self) -> Iterator[None]:
        """Where the body fails, the error message gets a line of its own."""
        try:
            yield
        except BrokenPipeError:
            raise
        except BaseException:
            self.end_line()
            raise

    def note(self, line: str) -> None:
        """A line for the reader on stderr; nothing with --quiet."""
        if not self.quiet:
            self.report(line)

    def report(self, line: str) -> None:
        """A line on stderr that was asked for, so --quiet does not drop it."""
        print(line, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, title: str, unit: str = "") -> Iterator[Progress]:
        """A bar on stderr that appears when the work takes longer than a moment; only on a terminal.

        unit: "bytes" shows amounts. Yields a function of (done, total).
        """
        bar = Bar(title, unit) if sys.stderr.isatty() and not self.quiet else None
        try:
            yield bar.update if bar is not None else _nothing
        finally:
            if bar is not None:
                bar.close()


def _nothing(done: int, total: int) -> None:
    pass


class Bar:
    """One progress bar, made when it is needed and gone when it is full."""

    def __init__(self, title: str, unit: str) -> None:
        self._title = title
        self._unit = unit
        self._started = time.monotonic()
        self._progress: Any = None
        self._task: Any = None

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` are ready."""
        if done >= total:
            self.close()
            return
        if self._progress is None:
            if time.monotonic() - self._started < _PATIENCE:
                return
            self._open()
        self._progress.update(self._task, completed=done, total=total)

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        amount = DownloadColumn() if self._unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
        self._progress = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()
        self._task = self._progress.add_task(self._title)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._started = time.monotonic()


def summary(generation: Generation, device: str, *, seed: bool) -> str:
    """The line of figures: device, speeds, time to the first token. seed: tell the seed that was drawn."""
    t = generation.timings
    parts = [device, f"prompt {len(generation.prompt_tokens)} tokens"]
    if t["prompt_per_second"] > 0:
        parts[-1] += f", {_rate(t['prompt_per_second'])} tokens/s"
    parts.append(f"generated {len(generation.tokens)} tokens")
    if t["generated_per_second"] > 0:
        parts[-1] += f", {_rate(t['generated_per_second'])} tokens/s"
    if generation.tokens:
        parts.append(f"first token after {t['ttft_s']:.2f} s")
    parts.append(f"loaded in {t['load_s']:.2f} s")
    if seed:
        parts.append(f"seed {generation.params.resolved_seed}")
    return f"[{' | '.join(parts)} | {_REASONS.get(generation.finish_reason or '', 'ended')}]"


_REASONS = {
    "stop": "the model ended",
    "length": "stopped at --max-tokens",
    "context": "the context is full",
    "cancelled": "interrupted",
}


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
