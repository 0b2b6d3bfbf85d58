"""Chat templates: from a list of messages to the prompt's text, by the jinja2 template in the GGUF file.

Not for: turning that text into ids. Do that with `encode(text, add_special=False, parse_special=True)`: the
template writes the special tokens, BOS included, by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from flux_vk.errors import TokenizerError
from flux_vk.text.budget import Refused, TooMuch
from flux_vk.text.sandbox import Environment
from flux_vk.text.vocab import CHAT_TEMPLATE, PREFIX, HasMetadata, file_name

KEY = CHAT_TEMPLATE
MAX_TEMPLATE = 128 << 10
MAX_OUTPUT = 4 << 20
SECONDS = 2.0

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role != 'system' %}{{ message.role|capitalize }}: {% endif %}{{ message.content }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


class ChatTemplate:
    """A compiled chat template. Immutable; may be shared by threads.

    The template runs in a sandbox, for at most 2 seconds and 4 Mi characters. It sees `messages`,
    `add_generation_prompt`, the texts `bos_token`, `eos_token`, `unk_token`, `pad_token`, and `tools` and
    `documents` (none by default).
    """

    def __init__(self, source: str, name: str = "chat template", tokens: Mapping[str, str] | None = None) -> None:
        """source: the jinja2 text, 128 KiB at most. name: for messages. tokens: values of bos_token and the
        like.

        Raises TokenizerError if the text is too long or no valid template.
        """
        self.source = source
        self.name = name
        self.tokens = {f"{word}_token": "" for word in ("bos", "eos", "unk", "pad")} | dict(tokens or {})
        if len(source) > MAX_TEMPLATE:
            raise TokenizerError(
                f"{name}: found a chat template of {len(source)} characters, expected at most "
                f"{MAX_TEMPLATE}; the file is damaged or not meant well"
            )
        self._environment = Environment()
        try:
            self._template = self._environment.compiled(source, SECONDS)
        except Exception as error:
            raise self._failed(error) from error

    @classmethod
    def from_gguf(cls, file: str | os.PathLike[str] | HasMetadata, variant: str = "") -> ChatTemplate:
        """The chat template of a GGUF file, given its path or the file opened.

        variant: the name of one of several templates ("tool_use"). Raises GGUFError for a broken file,
        TokenizerError if the file has no such template (`fallback` makes one) or the template cannot be
        compiled.
        """
        if isinstance(file, (str, os.PathLike)):
            from flux_vk.formats.gguf import open_gguf

            with open_gguf(file) as opened:
                return cls.from_gguf(opened, variant)
        key = f"{KEY}.{variant}" if variant else KEY
        source = file.metadata.get(key)
        if not isinstance(source, str) or not source:
            found = "nothing" if not source else type(source).__name__
            raise TokenizerError(
                f"{file_name(file)}: key {key!r}: found {found}, expected a chat template; this looks "
                "like a base model: give it plain text, or take ChatTemplate.fallback"
            )
        return cls(source, file_name(file), _token_texts(file))

    @classmethod
    def fallback(cls, file: HasMetadata) -> ChatTemplate:
        """A template for a file without one: ChatML if the vocabulary has "<|im_start|>" and "<|im_end|>",
        else a plain transcript ("User: ... Assistant:"), which says something to any base model.
        """
        tokens = _tokens(file)
        chatml = "<|im_start|>" in tokens and "<|im_end|>" in tokens
        return cls(CHATML if chatml else PLAIN, f"{file_name(file)} (fallback)", _token_texts(file))

    def render(self, messages: Iterable[Mapping[str, Any]], add_generation_prompt: bool = True, **extra: Any) -> str:
        """The prompt's text.

        messages: dictionaries with "role" and "content" (what else there may be depends on the model).
        add_generation_prompt: end with the head of the assistant's turn. extra: further names for the
        template, such as `tools` or `enable_thinking`. Raises TokenizerError if the template refuses the
        messages, fails, or takes too long.
        """
        values: dict[str, Any] = {
            **self.tokens,
            "tools": None,
            "documents": None,
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            **extra,
        }
        try:
            return self._environment.run(self._template, values, SECONDS, MAX_OUTPUT)
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> TokenizerError:
        """One line for whatever a template can raise."""
        text = (str(error).splitlines() or [""])[0][:300]
        if isinstance(error, Refused):
            return TokenizerError(f"{self.name}: the chat template refuses these messages: {text}")
        if isinstance(error, TooMuch):
            what = f"stopped: {text}, more than a chat template needs"
        elif isinstance(error, TemplateSyntaxError):
            what = f"is not valid in line {error.lineno}: {text}"
        elif isinstance(error, RecursionError):
            what = "is nested too deeply or calls itself without end"
        elif isinstance(error, TemplateError):
            what = f"failed: {text}"
        else:
            what = f"failed: {type(error).__name__}: {text}"
        return TokenizerError(f"{self.name}: the chat template {what}; give plain text, or take ChatTemplate.fallback")


def _tokens(file: HasMetadata) -> list[str]:
    tokens = file.metadata.get(PREFIX + "tokens")
    return tokens if isinstance(tokens, list) else []


def _token_texts(file: HasMetadata) -> dict[str, str]:
    """bos_token and so on, as far as the file has them."""
    tokens = _tokens(file)
    out = {}
    for word, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        i = file.metadata.get(f"{PREFIX}{key}_token_id")
        if isinstance(i, int) and 0 <= i < len(tokens):
            out[f"{word}_token"] = tokens[i]
    return out
