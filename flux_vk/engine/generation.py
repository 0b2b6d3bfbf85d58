"""One generation: prompt in, tokens out, with stop rules, text and figures.

Not for: running steps (runner.py) or opening models (model.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..decode import SamplingParams
from ..errors import ContextFull, InputError
from .sequence import Sequence

if TYPE_CHECKING:
    from .model import Model, Session


@dataclass(frozen=True)
class Token:
    """One generated token. `piece` is the text it completes ("" where a character or a stop string may be cut).

    logprob and top (id, log-probability; best first) are there where `logprobs` was asked for.
    """

    id: int
    piece: str
    logprob: float | None = None
    top: list[tuple[int, float]] = field(default_factory=list)


class StopText:
    """Holds text back while it may be the beginning of a stop string."""

    def __init__(self, stops: Seq[str]) -> None:
        if any(not s for s in stops):
            raise InputError("a stop string is empty; expected at least one character")
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The text that can be shown now; sets `hit` when a stop string is complete (it is not shown)."""
        self._held += text
        found = [i for i in (self._held.find(s) for s in self._stops) if i >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = 0
        for stop in self._stops:
            for n in range(min(len(stop) - 1, len(self._held)), keep, -1):
                if self._held.endswith(stop[:n]):
                    keep = n
                    break
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        shown, self._held = self._held, ""
        return shown


class Generation:
    """Iterate to get Tokens. Afterwards (or in between) `text`, `tokens`, `finish_reason` and `timings` tell the rest.

    finish_reason: "stop" (end token or stop string), "length" (max_tokens), "context" (the context is full),
    "cancelled" (`cancel()`, or the iteration was left).
    """

    def __init__(
        self,
        model: Model,
        prompt: str | Seq[int],
        params: SamplingParams,
        max_tokens: int | None = None,
        stop: Seq[str] = (),
        session: Session | None = None,
        prompt_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.params = params
        self.prompt_tokens = model.prompt_ids(prompt)
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self._model = model
        self._runner = model.runner
        self._max = max_tokens if max_tokens is not None else 1 << 60
        if self._max < 0:
            raise InputError(f"max_tokens is {max_tokens}; expected 0 or more")
        limit = model.context
        if len(self.prompt_tokens) >= limit and not self._runner.limits.context_shift:
            raise ContextFull(
                f"the prompt has {len(self.prompt_tokens)} tokens and the context holds {limit}; expected at most "
                f"{limit - 1}: shorten the prompt, raise the context (the model's own limit is "
                f"{model.config.context_length}), or allow the context to shift"
            )
        self._stop = StopText(stop)
        self._session = session
        self._progress = prompt_progress
        self._cancelled = False
        self._started = self._first = self._last = 0.0
        self._prefilled = 0
        self._iterator = self._run()

    def __iter__(self) -> Iterator[Token]:
        return self._iterator

    def __next__(self) -> Token:
        return next(self._iterator)

    def cancel(self) -> None:
        """End after the token in flight. May be called from another thread."""
        self._cancelled = True

    def close(self) -> None:
        """Leave the generation now; its slot and pages are given back."""
        self._iterator.close()

    @property
    def timings(self) -> dict[str, float]:
        """load_s, ttft_s (seconds), prompt_per_second, generated_per_second (tokens/s; 0 where nothing was measured)."""
        n = len(self.tokens)
        prompt = self._first - self._started
        rest = self._last - self._first
        return {
            "load_s": self._model.load_seconds,
            "ttft_s": max(prompt, 0.0),
            "prompt_per_second": self._prefilled / prompt if prompt > 0 else 0.0,
            "generated_per_second": (n - 1) / rest if n > 1 and rest > 0 else 0.0,
        }

    # -- the loop -------------------------------------------------------------------------------------------------

    def _run(self) -> Generator[Token, None, None]:
        self._started = self._first = self._last = time.perf_counter()
        if self._max == 0:
            self.finish_reason = "length"
            return
        own = self._session is None
        sequence = self._session.sequence if self._session is not None else self._runner.open_sequence()
        try:
            yield from self._tokens(sequence)
        finally:
            if self.finish_reason is None:
                self.finish_reason = "cancelled"
            if own:
                self._runner.close_sequence(sequence)
            else:
                self._runner.drain_decode(sequence)

    def _tokens(self, sequence: Sequence) -> Iterator[Token]:
        runner, model = self._runner, self._model
        decoder = model.tokenizer.stream(after=self.prompt_tokens)
        if not self._prefill(sequence):
            return
        in_flight = 0
        logprobs = self.params.logprobs > 0
        while True:
            position = sequence.length  # of the token that was just drawn
            token = runner.sampler.token(sequence.slot, position)
            self._last = time.perf_counter()
            if not self.tokens:
                self._first = self._last
            if token in model.tokenizer.eog_ids:
                self.finish_reason = "stop"
            self.tokens.append(token)
            done = self._finish_rule(sequence)
            text = "" if self.finish_reason == "stop" else decoder.push(token)
            if done:
                text += decoder.flush()
            shown = self._stop.push(text)
            if self._stop.hit:
                self.finish_reason, done = "stop", True
            elif done:
                shown += self._stop.flush()
            self.text += shown
            if done:  # steps behind the last token were for nothing; their results are forgotten
                runner.drain_decode(sequence)
            else:
                while in_flight < runner.depth and self._may_run(sequence, in_flight):
                    runner.start_decode(sequence, in_flight, logprobs)
                    in_flight += 1
            yield self._token(sequence, token, shown, position)
            if done:
                return
            if in_flight == 0:
                self.finish_reason = "context"
                return
            runner.finish_decode(sequence, logprobs)
            in_flight -= 1
            sequence.cached.append(token)

    def _finish_rule(self, sequence: Sequence) -> bool:
        if self.finish_reason is None:
            if len(self.tokens) >= self._max:
                self.finish_reason = "length"
            elif self._cancelled:
                self.finish_reason = "cancelled"
            elif not self._may_run(sequence, 0):
                self.finish_reason = "context"
        return self.finish_reason is not None

    def _may_run(self, sequence: Sequence, ahead: int) -> bool:
        if len(self.tokens) + ahead >= self._max:
            return False
        return self._runner.limits.context_shift or sequence.length + ahead < self._runner.limits.context

    def _token(self, sequence: Sequence, token: int, shown: str, position: int) -> Token:
        if not self.params.logprobs:
            return Token(token, shown)
        found = self._runner.sampler.logprobs(sequence.slot, position)
        return Token(token, shown, found.logprob, [(i, p) for i, p in found.top])

    def _prefill(self, sequence: Sequence) -> bool:
        """Run what is new of the prompt and draw the first token; False when cancelled before that."""
        runner, ids = self._runner, self.prompt_tokens
        logprobs = self.params.logprobs > 0
        with runner.lock:
            done = sequence.keep_prefix(ids)
        runner.set_sampling(sequence, self.params, ids)
        total = len(ids)
        while done < total:
            n = runner.chunk(sequence, total - done, runner.limits.max_rows)
            runner.prefill(sequence, ids[done : done + n], sample=done + n == total, logprobs=logprobs)
            done += n
            self._prefilled += n
            if self._progress is not None:
                self._progress(done, total)
            if self._cancelled and done < total:
                return False
        return True
