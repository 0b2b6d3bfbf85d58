"""Several prompts written together: each step gives every text its next token, and weights are read once for all.

Not for: the loop behind it (loop.py), or one prompt (generation.py).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..decode import SamplingParams, Swarm
from ..errors import FluxError, InputError
from ..text import Grammar
from .generation import Written, make_stream
from .loop import Loop
from .stream import Token

if TYPE_CHECKING:
    from .model import Model


class Many:
    """Iterate to get (index of the prompt, Token), as they come. `generations` tells text, tokens, finish_reason and
    timings of each.

    Texts that end leave the batch; prompts that found no slot or no pages take their place. One thread iterates. Left
    early, it gives all slots and pages back as soon as nobody holds it, or at close().
    """

    def __init__(
        self,
        model: Model,
        prompts: Seq[str | Seq[int]],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        max_tokens: int | Seq[int | None] | None = None,
        stop: Seq[str] | Seq[Seq[str]] = (),
        prompt_progress: Callable[[int, int, int], None] | None = None,
        grammar: Grammar | None | Seq[Grammar | None] = None,
        agents: Swarm | None | Seq[Swarm | None] = None,
    ) -> None:
        if isinstance(prompts, str):
            raise InputError("prompts is one text; expected a list of prompts (one text: model.start)")
        n = len(prompts)
        drawn = [SamplingParams() for _ in prompts] if params is None else _each("params", params, n, SamplingParams)
        most = _each("max_tokens", max_tokens, n, (int, type(None)))
        common = isinstance(stop, str) or all(isinstance(s, str) for s in stop)
        stops: list[Any] = [stop] * n if common else _each("stop", stop, n, str)
        grammars = _each("grammar", grammar, n, (Grammar, type(None)))
        swarms = _each("agents", agents, n, (Swarm, type(None)))
        streams = []
        for i in range(n):
            progress = None if prompt_progress is None else partial(prompt_progress, i)
            try:
                stream = make_stream(model, prompts[i], drawn[i], most[i], stops[i], progress, grammars[i], swarms[i])
            except FluxError as error:
                raise type(error)(f"prompt {i}: {error}") from None
            stream.index = i
            streams.append(stream)
        self.generations = [Written(stream, model.load_seconds) for stream in streams]
        self._iterator = Loop(model.runner, streams).run()

    def __iter__(self) -> Many:
        return self

    def __next__(self) -> tuple[int, Token]:
        stream, token = next(self._iterator)
        return stream.index, token

    def __len__(self) -> int:
        return len(self.generations)

    @property
    def texts(self) -> list[str]:
        """The texts shown so far, in the order of the prompts."""
        return [g.text for g in self.generations]

    def cancel(self) -> None:
        """End all after the tokens in flight. May be called from another thread; `generations[i].cancel()` ends one."""
        for generation in self.generations:
            generation.cancel()

    def close(self) -> None:
        """Leave all now; slots and pages are given back. By the thread that iterates."""
        self._iterator.close()

    def __enter__(self) -> Many:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _each(name: str, value: Any, n: int, single: type | tuple[type, ...]) -> list[Any]:
    """One value for each of n prompts: the same for all, or a list of as many."""
    if isinstance(value, single):
        return [value] * n
    values = list(value)
    if len(values) != n:
        raise InputError(f"{name} has {len(values)} entries for {n} prompts; expected one for each, or one for all")
    return values
