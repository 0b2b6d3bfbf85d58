"""The loop of one generation: prefill, decode, stop rules.

It knows nothing of the `Generation` that shows it: there is no reference cycle, so a generation that nobody holds any
more ends at once and gives its slot back.

Not for: running steps (runner.py) or opening models (model.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .sequence import Sequence
from .stops import StopText

if TYPE_CHECKING:
    from ..decode import SamplingParams
    from ..text import Tokenizer
    from .runner import Runner
    from .session import Session

NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Token:
    """One generated token. `piece` is the text it completes ("" where a character or a stop string may be cut).

    logprob and top (id, log-probability; best first) are there where `logprobs` was asked for.
    """

    id: int
    piece: str
    logprob: float | None = None
    top: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Loop:
    """What a generation was asked for, and what has come of it so far."""

    runner: Runner
    tokenizer: Tokenizer
    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    stop: StopText
    session: Session | None
    progress: Callable[[int, int], None] | None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    cancelled: bool = False
    started: float = 0.0  # seconds of time.perf_counter, as the next two
    first: float = 0.0
    last: float = 0.0
    prefilled: int = 0

    def run(self) -> Generator[Token, None, None]:
        """The tokens as they come; the sequence is given back however it ends."""
        self.started = self.first = self.last = time.perf_counter()
        if self.max_tokens == 0:
            self.finish_reason = "length"
            return
        sequence = None
        try:
            if self.session is not None:
                sequence = self.session.begin(self)
            else:
                sequence = self.runner.try_open(lambda: self.cancelled)
            if sequence is not None:
                yield from self._tokens(sequence)
        finally:
            if self.finish_reason is None:
                self.finish_reason = "cancelled"
            if sequence is not None:
                if self.session is not None:
                    self.session.end()
                else:
                    self.runner.close_sequence(sequence)

    def _tokens(self, sequence: Sequence) -> Iterator[Token]:
        runner = self.runner
        decoder = self.tokenizer.stream(after=self.prompt)
        if not self._prefill(sequence):
            return
        in_flight = 0
        logprobs = self.params.logprobs > 0
        while True:
            position = sequence.length  # of the token that was just drawn
            token = runner.sampler.token(sequence.slot, position)
            self.last = time.perf_counter()
            if not self.tokens:
                self.first = self.last
            if token in self.tokenizer.eog_ids:
                self.finish_reason = "stop"
            self.tokens.append(token)
            done = self._finish_rule(sequence)
            text = "" if self.finish_reason == "stop" else decoder.push(token)
            if done:
                text += decoder.flush()
            shown = self.stop.push(text)
            if self.stop.hit:
                self.finish_reason, done = "stop", True
            elif done:
                shown += self.stop.flush()
            self.text += shown
            if done:  # steps behind the last token were for nothing; their results are forgotten
                runner.settle(sequence)
            else:
                while in_flight < runner.depth and self._may_run(sequence, in_flight):
                    runner.start_decode(sequence, in_flight, logprobs)
                    in_flight += 1
            yield self._token(sequence, token, shown, position)
            if done:
                return
            runner.finish_decode(sequence, logprobs)
            in_flight -= 1
            sequence.cached.append(token)

    def _finish_rule(self, sequence: Sequence) -> bool:
        if self.finish_reason is None:
            if len(self.tokens) >= self.max_tokens:
                self.finish_reason = "length"
            elif self.cancelled:
                self.finish_reason = "cancelled"
            elif not self._may_run(sequence, 0):
                self.finish_reason = "context"
        return self.finish_reason is not None

    def _may_run(self, sequence: Sequence, ahead: int) -> bool:
        """Whether a decode step `ahead` positions on is wanted: its token is in the count and the context has room."""
        limits = self.runner.limits
        if len(self.tokens) + ahead >= self.max_tokens:
            return False
        return limits.context_shift or sequence.length + ahead + 1 < limits.context

    def _token(self, sequence: Sequence, token: int, shown: str, position: int) -> Token:
        if not self.params.logprobs:
            return Token(token, shown)
        found = self.runner.sampler.logprobs(sequence.slot, position)
        return Token(token, shown, found.logprob, list(found.top))

    def _prefill(self, sequence: Sequence) -> bool:
        """Run what is new of the prompt and draw the first token; False when cancelled before that."""
        runner, ids = self.runner, self.prompt
        logprobs = self.params.logprobs > 0
        with runner.lock:
            done = sequence.keep_prefix(ids)
        runner.set_sampling(sequence, self.params, ids)
        total = len(ids)
        while done < total:
            if self.cancelled:
                return False
            n = runner.chunk(sequence, total - done, runner.limits.max_rows)
            runner.prefill(sequence, ids[done : done + n], sample=done + n == total, logprobs=logprobs)
            done += n
            self.prefilled += n
            if self.progress is not None:
                self.progress(done, total)
        return True
