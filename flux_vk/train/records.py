"""One record of training data to tokens: which text the model sees, and which of its tokens are to be learned.

Not for: files of records (data.py) and for what is done with the tokens (batches.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_vk.errors import TokenizerError
from flux_vk.text.template import ChatTemplate
from flux_vk.text.tokenizer import Tokenizer
from flux_vk.text.vocab import CHAT_TEMPLATE, HasMetadata

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
FORMS = "text; prompt and completion; instruction and output, perhaps input; messages"


class BadRecord(Exception):
    """What is wrong with a record, in words that fit behind the file's name and the line's number."""


@dataclass(frozen=True)
class Tokens:
    """Token ids, and for each whether it is to be learned (the first one never is: nothing precedes it)."""

    ids: list[int]
    learned: list[bool]


class Encoder:
    """Turns records into tokens as a model's tokenizer and chat template want them.

    template: the model's own, or None; fallback: for `messages` where the model has none. mask_prompt: only completions
    and the assistant's turns are learned, otherwise everything is.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, fallback: ChatTemplate | None = None,
        mask_prompt: bool = False,
    ) -> None:  # fmt: skip
        self.tokenizer = tokenizer
        self.template = template
        self._chat = template or fallback
        self.mask_prompt = mask_prompt

    @classmethod
    def from_gguf(cls, file: HasMetadata, mask_prompt: bool = False) -> Encoder:
        """The encoder of a model's opened file. Raises TokenizerError where its vocabulary or template is unusable."""
        own = ChatTemplate.from_gguf(file) if file.metadata.get(CHAT_TEMPLATE) else None
        return cls(Tokenizer.from_gguf(file), own, ChatTemplate.fallback(file), mask_prompt)

    def record(self, record: Any) -> Tokens:
        """The tokens of a record. Raises BadRecord."""
        if not isinstance(record, Mapping):
            raise BadRecord(f"found {_kind(record)}, expected a JSON object with {FORMS}")
        if "messages" in record:
            return self.messages(record["messages"], record.get("tools"))
        if "instruction" in record and "output" in record:
            extra = _text(record, "input", empty=True) if record.get("input") is not None else ""
            return self.instruction(_text(record, "instruction"), extra, _text(record, "output"))
        if "prompt" in record and "completion" in record:
            return self.completion(_text(record, "prompt", empty=True), _text(record, "completion"))
        if "text" in record:
            return self.text(_text(record, "text"))
        found = ", ".join(map(str, record)) or "none"
        raise BadRecord(f"found the keys {found[:200]}; expected {FORMS}")

    def text(self, text: str) -> Tokens:
        """A document: BOS where the model wants it, the text, EOS. Names of special tokens in it are special tokens."""
        ids = self._ended(self._begun(text))
        return Tokens(ids, [True] * len(ids))

    def completion(self, prompt: str, completion: str) -> Tokens:
        """The completion behind its prompt, each tokenised by itself, as it is when the model is asked."""
        if not prompt:
            return self.text(completion)
        head = self._begun(prompt)
        ids = self._ended(head + self.tokenizer.encode_inside(completion, parse_special=True))
        return Tokens(ids, [not self.mask_prompt] * len(head) + [True] * (len(ids) - len(head)))

    def instruction(self, instruction: str, extra: str, output: str) -> Tokens:
        """An instruction: a chat of two turns where the model has a template, else Alpaca's wording."""
        if self.template is not None:
            asked = f"{instruction}\n\n{extra}" if extra else instruction
            return self.messages([{"role": "user", "content": asked}, {"role": "assistant", "content": output}])
        wording = ALPACA_INPUT if extra else ALPACA
        return self.completion(wording.format(instruction=instruction, input=extra), output)

    def messages(self, messages: Any, tools: Any = None) -> Tokens:
        """A conversation, through the chat template."""
        _check_messages(messages)
        if self._chat is None:
            raise BadRecord("found messages, but the model has no chat template; expected another form of data")
        template = self._chat
        extra: dict[str, Any] = {"tools": tools} if tools else {}

        def render(part: Sequence[Any], add_generation_prompt: bool) -> str:
            return template.render(part, add_generation_prompt, **extra)

        try:
            whole = render(messages, False)
        except TokenizerError as error:
            raise BadRecord(str(error)) from None
        ids = self.tokenizer.encode(whole, add_special=False, parse_special=True)
        learned = [not self.mask_prompt] * len(ids)
        if self.mask_prompt:
            for turn in assistant_turns(messages, whole, render):
                self._learn(ids, learned, whole, turn)
        if not self.tokenizer.eog_ids.intersection(ids[-3:]) and self.tokenizer.eos_id is not None:
            ids.append(self.tokenizer.eos_id)
            learned.append(not self.mask_prompt or messages[-1]["role"] == "assistant")
        return Tokens(ids, learned)

    def _learn(self, ids: list[int], learned: list[bool], whole: str, turn: Turn) -> None:
        """Mark the tokens of a turn: those of the whole text that are not in front of it nor in the part behind."""
        start = _shared(ids, self.tokenizer.encode(whole[: turn.start], add_special=False, parse_special=True))
        end = _shared(ids, self.tokenizer.encode(whole[: turn.end], add_special=False, parse_special=True))
        if not turn.exact and end < len(ids) and ids[end] in self.tokenizer.eog_ids:
            end += 1
        learned[start:end] = [True] * (end - start)

    def _begun(self, text: str) -> list[int]:
        """Ids of a text from its beginning, without what the tokenizer may put at the end."""
        t = self.tokenizer
        ids = t.encode(text, add_special=True, parse_special=True)
        if t.add_eos and ids and ids[-1] == t.eos_id:
            ids.pop()
        if t.add_bos and ids[:2] == [t.bos_id, t.bos_id]:  # the text has it by name already
            ids.pop(0)
        return ids

    def _ended(self, ids: list[int]) -> list[int]:
        """`ids` with EOS behind, unless something that ends a text stands there."""
        t = self.tokenizer
        return ids if t.eos_id is None or (ids and ids[-1] in t.eog_ids) else [*ids, t.eos_id]


@dataclass(frozen=True)
class Turn:
    """What the assistant writes, as characters of the rendered text; exact: the end of the turn is part of it."""

    start: int
    end: int
    exact: bool


def assistant_turns(
    messages: Sequence[Mapping[str, Any]], whole: str, render: Callable[[Sequence[Any], bool], str]
) -> list[Turn]:
    """Where the assistant's turns stand in `whole`, the rendered conversation.

    A turn begins where the conversation before it ends with the head of an answer, and ends where the conversation up
    to it ends. Some templates write earlier turns in another way than the last (reasoning is left out); there the
    turn is where its content is found. Raises BadRecord where neither finds it.
    """
    turns: list[Turn] = []
    cursor = 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            asked = message["content"].strip()
            at = whole.find(asked, cursor)
            cursor = at + len(asked) if at >= 0 else cursor
            continue
        head, past = _rendered(render, messages[:i], True), _rendered(render, messages[: i + 1], False)
        if head and past and whole.startswith(past) and past.startswith(head) and len(head) >= cursor:
            turn = Turn(len(head), len(past), True)
        else:
            content = message["content"].strip()
            at = whole.find(content, cursor)
            if at < 0:
                content = content.split("</think>")[-1].strip()
                at = whole.find(content, cursor)
            if at < 0:
                raise BadRecord(f"message {i + 1}: the chat template does not show the assistant's words as they are")
            turn = Turn(at, at + len(content), False)
        turns.append(turn)
        cursor = turn.end
    return turns


def _rendered(render: Callable[[Sequence[Any], bool], str], part: Sequence[Any], head: bool) -> str:
    """The text of part of a conversation, "" where the template refuses it."""
    try:
        return render(part, head)
    except TokenizerError:
        return ""


def _shared(ids: Sequence[int], other: Sequence[int]) -> int:
    """How many ids are the same from the beginning on."""
    return next((i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), min(len(ids), len(other)))


def _text(record: Mapping[str, Any], key: str, empty: bool = False) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise BadRecord(f"{key}: found {_kind(value)}, expected a text")
    if not value.strip() and not empty:
        raise BadRecord(f"{key}: found an empty text, expected one to learn from")
    return value


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        found = "an empty list" if messages == [] else _kind(messages)
        raise BadRecord(f'messages: found {found}, expected a list of objects with "role" and "content"')
    for i, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise BadRecord(f"messages: message {i}: found {_kind(message)}, expected an object")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                found = _kind(message[key]) if key in message else "none"
                raise BadRecord(f"messages: message {i}: {key}: found {found}, expected a text")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, (int, float)):
        return "null" if value is None else f"the number {value}"
    words: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
    return words.get(type(value), type(value).__name__)
