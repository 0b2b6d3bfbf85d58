"""One generation as its user sees it: an iterator of tokens, with text, end reason and figures.

Not for: the loop that makes them (loop.py) or several prompts at once (many.py).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..decode import SamplingParams, Swarm
from ..decode.state import check_history
from ..errors import ContextFull, InputError
from ..text import Grammar
from .loop import Loop
from .stops import StopText
from .stream import NO_LIMIT, Stream, Token
from .swarms import StreamSwarm

if TYPE_CHECKING:
    from .model import Model
    from .session import Session

__all__ = ["Generation", "StopText", "Token", "Written"]


class Written:
    """What is written behind one prompt: `text`, `tokens`, `finish_reason` and `timings`, complete or on the way.

    finish_reason: "stop" (end token, stop string, or a grammar that allows nothing more), "length" (max_tokens),
    "context" (prompt and text fill the context), "cancelled" (`cancel()`, or the iteration was left or failed).
    """

    def __init__(self, stream: Stream, load_seconds: float) -> None:
        self._stream = stream
        self._load_seconds = load_seconds

    @property
    def params(self) -> SamplingParams:
        """How its tokens are drawn."""
        return self._stream.params

    @property
    def prompt_tokens(self) -> list[int]:
        """Ids of the prompt."""
        return self._stream.prompt

    @property
    def tokens(self) -> list[int]:
        """Ids generated so far, an end token included."""
        return self._stream.tokens

    @property
    def text(self) -> str:
        """The text shown so far: all pieces, one behind the other."""
        return self._stream.text

    @property
    def finish_reason(self) -> str | None:
        """Why it ended; None while it has not."""
        return self._stream.finish_reason

    def cancel(self) -> None:
        """End after the token in flight. May be called from another thread."""
        self._stream.cancel()

    @property
    def timings(self) -> dict[str, float]:
        """load_s, ttft_s (seconds), prompt_per_second, generated_per_second (tokens/s; 0 where unmeasured).

        ttft_s: from the beginning of the iteration to the first token, with all waiting for a slot.
        """
        s = self._stream
        n, prompt, rest = len(s.tokens), s.first - s.begun, s.last - s.first
        return {
            "load_s": self._load_seconds,
            "ttft_s": max(s.first - s.started, 0.0),
            "prompt_per_second": s.prefilled / prompt if prompt > 0 else 0.0,
            "generated_per_second": (n - 1) / rest if n > 1 and rest > 0 else 0.0,
        }


class Generation(Written):
    """Iterate to get Tokens. Afterwards (or in between) `text`, `tokens`, `finish_reason` and `timings` tell the rest.

    One thread iterates. A generation that is left gives its slot and pages back as soon as nobody holds it, or at
    close().
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
        grammar: Grammar | None = None,
        agents: Swarm | None = None,
        trace: str | PathLike[str] | None = None,
    ) -> None:
        if session is not None and session.model is not model:
            raise InputError("the session belongs to another model; make one with this model's session()")
        stream = make_stream(model, prompt, params, max_tokens, stop, prompt_progress, grammar, agents, trace)
        super().__init__(stream, model.load_seconds)
        self._iterator = Loop(model.runner, [stream], session).run()

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Token:
        return next(self._iterator)[1]

    def close(self) -> None:
        """Leave the generation now; its slot and pages are given back. By the thread that iterates."""
        self._iterator.close()


def make_stream(
    model: Model,
    prompt: str | Seq[int],
    params: SamplingParams,
    max_tokens: int | None,
    stop: Seq[str],
    progress: Callable[[int, int], None] | None,
    grammar: Grammar | None = None,
    agents: Swarm | None = None,
    trace: str | PathLike[str] | None = None,
) -> Stream:
    """A stream, checked. Raises InputError, GrammarError, ContextFull."""
    runner, ids = model.runner, model.prompt_ids(prompt)
    if max_tokens is not None and max_tokens < 0:
        raise InputError(f"max_tokens is {max_tokens}; expected 0 or more")
    _check_params(params, model.config.vocab_size, runner.limits.history)
    limit = model.context
    if len(ids) >= limit and not runner.limits.context_shift:
        raise ContextFull(
            f"the prompt has {len(ids)} tokens and the context holds {limit}; expected at most "
            f"{limit - 1}: shorten the prompt, raise the context (the model's own limit is "
            f"{model.config.context_length}), or allow the context to shift"
        )
    wanted = NO_LIMIT if max_tokens is None else max_tokens
    matcher = None
    if grammar is not None:
        if not isinstance(grammar, Grammar):
            raise InputError(f"grammar is a {type(grammar).__name__}; expected a Grammar: Grammar.from_file, ...")
        matcher = model.grammar_vocabulary.matcher(grammar)
    breakers = model.breakers(tuple(params.dry_sequence_breakers)) if params.dry else None
    stops = StopText(stop)
    swarm = _stream_swarm(model, params, agents, trace)  # last: a trace is begun for what is not refused
    return Stream(
        model.tokenizer, ids, params, wanted, stops, progress=progress, matcher=matcher, swarm=swarm,
        wake=runner.slots.wake, breakers=breakers,
    )  # fmt: skip


def _stream_swarm(
    model: Model, params: SamplingParams, agents: Swarm | None, trace: str | PathLike[str] | None
) -> StreamSwarm | None:
    if agents is None:
        if trace is not None:
            raise InputError(f"trace is {str(trace)!r} and nobody votes; give agents=, or leave trace out")
        return None
    if not isinstance(agents, Swarm):
        raise InputError(f"agents is a {type(agents).__name__}; expected a Swarm: Swarm([('conservative', 0.5), ...])")

    if trace is not None and not isinstance(trace, (str, PathLike)):
        raise InputError(f"trace is {trace!r}; expected the path of a file")

    def text_of(token: int) -> str:
        return model.tokenizer.piece(token).decode("utf-8", "replace")

    path, name = None if trace is None else Path(trace), model.config.name or ""
    return StreamSwarm(agents, model.config.vocab_size, text_of, path, name, params.resolved_seed)


def _check_params(params: SamplingParams, vocab: int, history: int) -> None:
    """What the sampler would refuse only when the generation runs."""
    outside = [t for t in params.logit_bias if t >= vocab]
    if outside:
        raise InputError(f"logit_bias names token {outside[0]}; expected ids below {vocab}")
    check_history(params, history)
