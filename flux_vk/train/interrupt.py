"""Ctrl-C that waits for the step at hand to end; a second one does not wait. Not for: what is done then."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """While it is entered, the first SIGINT only sets `asked`.

    Where SIGINT is ignored (as in a script's background jobs), and outside the main thread, it changes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None
        self._set = False

    def __enter__(self) -> Interrupt:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._before = signal.signal(signal.SIGINT, self._ask)
            self._set = True
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        if self._set:
            signal.signal(signal.SIGINT, self._before if self._before is not None else signal.default_int_handler)
            self._set = False
