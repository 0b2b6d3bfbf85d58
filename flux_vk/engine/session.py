"""A sequence that is kept over several generations: a conversation.

Not for: the generations themselves (generation.py).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import FluxError, InputError
from .sequence import Sequence

if TYPE_CHECKING:
    from .model import Model
    from .stream import Stream


class Session:
    """A conversation that keeps its keys and values between generations: only what is new in a prompt is run.

    One generation at a time. Close it (or use `with`) to give its pages back.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._runner = model.runner
        self._lock = threading.RLock()
        self._running: Stream | None = None
        self._sequence: Sequence | None = self._runner.open_sequence(timeout=60)
        self._closed = False

    @property
    def sequence(self) -> Sequence:
        """The sequence behind the session. Raises FluxError after close()."""
        if self._sequence is None or self._closed:
            raise FluxError("the session is closed; make a new one with model.session()")
        return self._sequence

    @property
    def cached_tokens(self) -> list[int]:
        """Tokens whose keys and values are kept."""
        return list(self.sequence.cached)

    def prefill(self, ids: Seq[int]) -> npt.NDArray[np.float32]:
        """Run tokens behind those that are kept; the logits after the last one, float32 [vocabulary].

        Raises InputError for no ids or ids outside the vocabulary, ContextFull at the limit.
        """
        with self._lock:
            self._check_idle()
            model, sequence = self.model, self.sequence
            checked = model.checked_ids(ids)
            if not checked:
                raise InputError("prefill of no tokens; expected at least one")
            model.check_room(sequence.length + len(checked))
            runner, done = model.runner, 0
            while done < len(checked) - 1:
                n = runner.chunk(sequence, len(checked) - 1 - done, runner.limits.max_rows)
                runner.prefill(sequence, checked[done : done + n])
                done += n
            logits = runner.prefill(sequence, checked[-1:], logits=True)
            assert logits is not None
            return np.asarray(logits[0])

    def decode_step(self, token: int) -> npt.NDArray[np.float32]:
        """Run one token behind those that are kept; its logits, float32 [vocabulary]. For loops that choose alone."""
        return self.prefill([token])

    def begin(self, stream: Stream) -> Sequence:
        """Used by generations: take the session. Raises FluxError while another one has it."""
        with self._lock:
            self._check_idle()
            sequence = self.sequence
            self._running = stream
            return sequence

    def end(self) -> None:
        """Used by generations: hand the session back, with nothing in flight."""
        with self._lock:
            self._running = None
            if self._closed:
                self._release()

    def _check_idle(self) -> None:
        if self._running is not None:
            raise FluxError("the session is in use by another generation; end that one first, or make another session")

    def close(self) -> None:
        """Give the pages back. A generation that is running ends with its next token, and they are given back then."""
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._running.cancelled = True
            else:
                self._release()

    def _release(self) -> None:
        if self._sequence is not None:
            self._runner.close_sequence(self._sequence)
            self._sequence = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
