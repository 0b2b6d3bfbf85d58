"""One stream of text being written: what was asked for, what has come of it so far, and the rules that end it.

Nothing here runs steps (loop.py) or knows the `Generation` that shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..decode.drawing import Drawing
from .stops import StopText

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..decode import Breakers, SamplingParams
    from ..flux.trace import TracedToken
    from ..text import StreamDecoder, Tokenizer
    from ..text.matching import Matcher
    from .buffers import Limits
    from .sequence import Sequence
    from .swarms import StreamSwarm

NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Token:
    """One generated token. `piece` is the text it completes ("" where a character or a stop string may be cut).

    logprob and top (id, log-probability; best first) are there where `logprobs` was asked for, vote where agents voted
    and a trace is written.
    """

    id: int
    piece: str
    logprob: float | None = None
    top: list[tuple[int, float]] = field(default_factory=list)
    vote: TracedToken | None = None


@dataclass(eq=False)
class Stream:
    """A prompt, how to go on from it, and the tokens so far. `sequence` is there while it has a slot.

    started, begun, first, last: seconds of time.perf_counter: asked for, prompt begun, first and newest token.
    """

    tokenizer: Tokenizer
    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    stop: StopText
    swarm: StreamSwarm | None = None
    progress: Callable[[int, int], None] | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    cancelled: bool = False
    wake: Callable[[], None] = lambda: None  # those who wait for a slot
    sequence: Sequence | None = None
    started: float = 0.0
    begun: float = 0.0
    first: float = 0.0
    last: float = 0.0
    prefilled: int = 0
    index: int = 0  # among those of a Many
    breakers: Breakers | None = None  # of DRY
    carry: npt.NDArray[np.float32] | None = None  # what its sampler goes on with behind the newest token
    matcher: Matcher | None = None  # what a grammar still allows
    _decoder: StreamDecoder | None = None

    @property
    def drawing(self) -> Drawing:
        """What its sampling needs of a chain."""
        own = Drawing(
            logprobs=self.logprobs, complete=self.params.complete, masked=self.matcher is not None
        )
        if self.swarm is None:
            return own
        return Drawing.joined((own, self.swarm.drawing, Drawing(banned=bool(self.params.banned))))

    @property
    def logprobs(self) -> bool:
        """Whether log-probabilities are wanted."""
        return self.params.logprobs > 0

    def cancel(self) -> None:
        """End after the token in flight. From any thread."""
        self.cancelled = True
        self.wake()

    @property
    def length(self) -> int:
        """Tokens of prompt and text."""
        return len(self.prompt) + len(self.tokens)

    def tell(self, n: int, done: int, total: int) -> None:
        """n more tokens of the prompt are through; not counted when a text is only taken up again."""
        if not self.tokens:
            self.prefilled += n
            if self.progress is not None:
                self.progress(done, total)

    def ids(self) -> list[int]:
        """All tokens, prompt and text: what is prefilled when the stream gets a slot (again)."""
        return self.prompt + self.tokens

    def may_run(self, limits: Limits, length: int) -> int:
        """Decode steps that are still wanted and fit the context behind `length` cached tokens."""
        wanted = self.max_tokens - len(self.tokens)
        return wanted if limits.context_shift else min(wanted, limits.context - length - 1)

    def take(self, token: int, limits: Limits, length: int, now: float) -> str:
        """Add a token that was drawn behind `length` cached ones; the text that can be shown now.

        Sets `finish_reason` where it is the last.
        """
        if not self.tokens:
            self.first = now
        self.last = now
        if self._decoder is None:
            # A grammar counts the space that begins a text as the others.
            self._decoder = self.tokenizer.stream(after=self.prompt, first_space=self.matcher is not None)
        self.tokens.append(token)
        if token in self.tokenizer.eog_ids:
            self.finish_reason, text = "stop", ""
        else:
            text = self._decoder.push(token)
            if self.matcher is not None:
                self.matcher.accept(token)
            if self.matcher is not None and self.matcher.finished:
                self.finish_reason = "stop"
            elif len(self.tokens) >= self.max_tokens:
                self.finish_reason = "length"
            elif self.cancelled:
                self.finish_reason = "cancelled"
            elif self.may_run(limits, length) <= 0:
                self.finish_reason = "context"
        if self.finish_reason is not None:
            text += self._decoder.flush()
        shown = self.stop.push(text) if text else ""
        if self.stop.hit:
            self.finish_reason = "stop"
        elif self.finish_reason is not None:
            shown += self.stop.flush()
        self.text += shown
        return shown
