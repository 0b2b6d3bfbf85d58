"""A model that writes prepared words without a device, for tests of the command lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from flux_vk.decode import SamplingParams
from flux_vk.engine.generation import Token


class FakeTokenizer:
    """Ids are code points; texts in <...> stand for control tokens."""

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return [ord(c) for c in text]

    def piece(self, token_id: int) -> bytes:
        return chr(token_id).encode()


class FakeTemplate:
    """role:content| for every message, then "assistant:"."""

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True, **_: Any) -> str:
        return "".join(f"{m['role']}:{m['content']}|" for m in messages) + "assistant:"


@dataclass
class FakeGeneration:
    """Yields one token a character of `answer`."""

    answer: str
    params: SamplingParams
    prompt_tokens: list[int]
    max_tokens: int | None
    on_token: Callable[[int], None] = lambda i: None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    @property
    def timings(self) -> dict[str, float]:
        return {"load_s": 0.5, "ttft_s": 0.25, "prompt_per_second": 20.0, "generated_per_second": 200.0}

    def __iter__(self) -> Iterator[Token]:
        for i, c in enumerate(self.answer):
            self.on_token(i)
            self.tokens.append(ord(c))
            self.text += c
            top = [(ord(c), -0.5), (ord("?"), -1.5)][: self.params.logprobs]
            yield Token(ord(c), c, -0.5 if self.params.logprobs else None, top)
            if self.cancelled:
                self.finish_reason = "cancelled"
                return
            if len(self.tokens) == self.max_tokens:
                self.finish_reason = "length"
                return
        self.finish_reason = "stop"


class FakeSession:
    def __init__(self) -> None:
        self.closed = False

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class FakeModel:
    """Stands in for flux_vk.engine.model.Model. `prompts` records what start() was given."""

    def __init__(self, answer: str = "Hello world.", template: FakeTemplate | None = None) -> None:
        self.answer = answer
        self.template = template
        self.tokenizer = FakeTokenizer()
        self.device = SimpleNamespace(name="Fake GPU")
        self.config = SimpleNamespace(name="fake")
        self.context = 4096
        self.prompts: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.sessions: list[FakeSession] = []
        self.on_token: Callable[[int], None] = lambda i: None
        self.fail: Exception | None = None
        self.closed = False

    def start(self, prompt: str | list[int], params: SamplingParams, **options: Any) -> FakeGeneration:
        text = prompt if isinstance(prompt, str) else "".join(map(chr, prompt))
        self.prompts.append(text)
        self.asked.append({"params": params, **options})
        if self.fail is not None:
            raise self.fail
        ids = self.tokenizer.encode(text)
        options["prompt_progress"](len(ids), len(ids))
        return FakeGeneration(self.answer, params, ids, options["max_tokens"], self.on_token)

    def session(self) -> FakeSession:
        self.sessions.append(FakeSession())
        return self.sessions[-1]

    def profile(self, prompt_tokens: int, **rest: Any) -> tuple[Any, Any]:
        class Table:
            def __init__(self, name: str) -> None:
                self.name = name
                self.replay_ns = 4e6

            def gaps(self) -> dict[str, float]:
                return {"steps_ms": 3.0, "replay_ms": 4.0, "gap_ms": 1.0}

            def by_kernel(self) -> list[dict[str, Any]]:
                return [{"kernel": self.name}]

            def __str__(self) -> str:
                return f"table of {self.name}"

        return Table("prefill"), Table("decode")

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
