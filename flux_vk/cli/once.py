"""One prompt, one answer: streamed text or one JSON object, figures, log-probabilities, profile.

Not for: conversations (chat.py).
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flux_vk.cli.common import EXIT_INTERRUPTED
from flux_vk.cli.options import RunOptions
from flux_vk.cli.prompt import chat_ids, opening, template_of
from flux_vk.cli.terminal import Terminal, summary

if TYPE_CHECKING:
    from flux_vk.cli.steering import Steering
    from flux_vk.decode import SamplingParams
    from flux_vk.engine.generation import Generation, Token
    from flux_vk.engine.model import Model, Session
    from flux_vk.gpu import Profile


def run_once(
    options: RunOptions, model: Model, terminal: Terminal, prompt: str, params: SamplingParams, steering: Steering
) -> int:
    """Write the answer to `prompt`. Returns the exit code: 0, or 130 after Ctrl-C, which keeps text and figures."""
    begin: str | list[int] = prompt
    if options.chat:
        if model.template is None:
            terminal.note(f"{options.model.name} has no chat template; a plain transcript is used instead")
        messages = [*opening(options), {"role": "user", "content": prompt}]
        begin = chat_ids(model, template_of(model, options.model), messages)
    elif terminal.shown and not options.quiet and not options.json:
        terminal.write(prompt)  # on a terminal a text reads better with its beginning
    wanted = bool(options.sampling.get("logprobs"))
    tokens: list[Token] = []
    clock = HostClock()

    def show(token: Token) -> None:
        clock.tick()
        if wanted:
            tokens.append(token)
        if not options.json:
            terminal.write(token.piece)

    with terminal.whole_lines():
        generation = answer(options, model, terminal, begin, params, show, steering)
    profile = None
    if options.profile:
        profile = model.profile(len(generation.prompt_tokens), params=params, agents=steering.swarm)
    if options.json:
        found = as_object(generation, model)
        if wanted:
            found["logprobs"] = [logprob_entry(model, t) for t in tokens]
        found |= steering.objects()
        if profile is not None:
            found["profile"] = {"prefill": profile[0].by_kernel(), "decode": profile[1].by_kernel()}
            found["profile"]["gaps"] = {"prefill": profile[0].gaps(), "decode": profile[1].gaps()}
            found["profile"]["token"] = token_share(generation, profile[1], clock)
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        terminal.end_line()
        terminal.note(summary(generation, model.device.name, seed="seed" not in options.sampling and not params.greedy))
        for note in steering.notes(generation):
            terminal.note(note)
        if wanted:
            terminal.report(logprob_table(model, tokens))
    if profile is not None:
        terminal.report(f"prefill of {min(len(generation.prompt_tokens), model.context)} tokens:\n{profile[0]}")
        terminal.report(f"decode of one token:\n{profile[1]}")
        terminal.report(token_line(token_share(generation, profile[1], clock)))
    return EXIT_INTERRUPTED if generation.finish_reason == "cancelled" else 0


class HostClock:
    """Processor time of this thread from the first token to the last: what the host does for each, waiting left out."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0
        self._tokens = 0

    def tick(self) -> None:
        """A token has come."""
        self._last = time.thread_time()
        self._tokens += 1
        if self._first is None:
            self._first = self._last

    @property
    def seconds(self) -> float:
        """For each token behind the first."""
        return (self._last - (self._first or 0.0)) / (self._tokens - 1) if self._tokens > 1 else 0.0


def token_share(generation: Generation, decode: Profile, clock: HostClock) -> dict[str, float]:
    """Where a generated token's time went, in ms: all of it, the chain's replay, the rest, this thread's work."""
    rate = generation.timings["generated_per_second"]
    whole, chain = 1e3 / rate if rate else 0.0, decode.replay_ns / 1e6
    return {"token_ms": whole, "replay_ms": chain, "beside_ms": whole - chain if rate else 0.0,
            "host_ms": 1e3 * clock.seconds}  # fmt: skip


def token_line(share: dict[str, float]) -> str:
    """The same for reading."""
    whole = share["token_ms"]
    if not whole:
        return "a token's time: fewer than two tokens were generated, nothing to compare with"
    return (
        f"a token of this answer took {whole:.3f} ms: a replay of the decode chain takes {share['replay_ms']:.3f} ms "
        f"({share['replay_ms'] / whole:.0%}), beside it {share['beside_ms']:.3f} ms; this program's own thread worked "
        f"{share['host_ms']:.3f} ms ({share['host_ms'] / whole:.1%}), which on a GPU runs while the next step does"
    )


def answer(
    options: RunOptions,
    model: Model,
    terminal: Terminal,
    prompt: str | list[int],
    params: SamplingParams,
    show: Callable[[Token], None],
    steering: Steering,
    session: Session | None = None,
) -> Generation:
    """Generate with a progress bar for a long prompt; `show` gets every token. Ctrl-C ends it after the next token."""
    with terminal.progress("Reading the prompt") as progress:
        generation = model.start(
            prompt, params, max_tokens=options.max_tokens, stop=options.stop, session=session,
            grammar=steering.grammar, agents=steering.swarm, trace=options.agents.trace, prompt_progress=progress,
        )  # fmt: skip
        with interrupt_cancels(generation):
            for token in generation:
                show(token)
    return generation


@contextmanager
def interrupt_cancels(generation: Generation) -> Iterator[None]:
    """Inside, Ctrl-C cancels the generation; a second one raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    pressed = False

    def handler(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        generation.cancel()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def as_object(generation: Generation, model: Model) -> dict[str, Any]:
    """What --json prints."""
    return {
        "text": generation.text,
        "tokens": list(generation.tokens),
        "prompt_tokens": list(generation.prompt_tokens),
        "finish_reason": generation.finish_reason,
        "device": model.device.name,
        "timings": {name: round(value, 6) for name, value in generation.timings.items()},
    }


def logprob_entry(model: Model, token: Token) -> dict[str, Any]:
    """One token with its log-probability and the alternatives, best first."""
    top = [{"id": i, "text": _piece(model, i), "logprob": round(p, 6)} for i, p in token.top]
    logprob = None if token.logprob is None else round(token.logprob, 6)
    return {"id": token.id, "text": _piece(model, token.id), "logprob": logprob, "top": top}


def logprob_table(model: Model, tokens: list[Token]) -> str:
    """The same for reading: a line a token."""
    lines = [f"{'id':>7}  {'token':16} {'logprob':>8}  alternatives"]
    for t in tokens:
        others = "  ".join(f"{_piece(model, i)!r} {p:.3f}" for i, p in t.top)
        own = "" if t.logprob is None else f"{t.logprob:8.3f}"
        lines.append(f"{t.id:7d}  {_piece(model, t.id)!r:16} {own:>8}  {others}".rstrip())
    return "\n".join(lines)


def _piece(model: Model, token_id: int) -> str:
    return model.tokenizer.piece(token_id).decode("utf-8", "replace")
