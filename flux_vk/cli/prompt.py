"""Where a prompt comes from (an option, a file, standard input), and a conversation as token ids.

Not for: the terminal (terminal.py, chat.py).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flux_vk.cli.options import MAX_PROMPT_BYTES, RunOptions
from flux_vk.errors import InputError

if TYPE_CHECKING:
    from flux_vk.engine.model import Model
    from flux_vk.text import ChatTemplate


def read_prompt(options: RunOptions) -> str:
    """The prompt of -p or -f. InputError names the file and what is wrong with it."""
    if options.prompt is not None:
        if not options.prompt:
            raise InputError("-p: the prompt is empty; give some text")
        return options.prompt
    assert options.file is not None
    where = "standard input" if options.file == "-" else options.file
    data = _read(options.file)
    if len(data) > MAX_PROMPT_BYTES:
        raise InputError(f"{where}: more than {MAX_PROMPT_BYTES} bytes; expected a prompt that fits a context")
    try:
        prompt = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: byte {error.start} is not UTF-8; expected a text file (convert it, e.g. with iconv)"
        ) from None
    prompt = prompt.replace("\r\n", "\n").removesuffix("\n")
    if not prompt:
        raise InputError(f"{where}: found no text, expected a prompt")
    return prompt


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    path = Path(file)
    try:
        if path.is_dir():
            raise InputError(f"{file}: found a directory, expected a text file with the prompt")
        with path.open("rb") as opened:
            return opened.read(MAX_PROMPT_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{file}: the prompt cannot be read ({reason}); check path and permissions") from None


def template_of(model: Model, path: Path) -> ChatTemplate:
    """The model's chat template, or for a file without one a plain substitute (see ChatTemplate.fallback)."""
    if model.template is not None:
        return model.template
    from flux_vk.formats.gguf import open_gguf
    from flux_vk.text import ChatTemplate

    with open_gguf(path) as file:
        return ChatTemplate.fallback(file)


def chat_ids(model: Model, template: ChatTemplate, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation up to the point where the answer begins."""
    rendered = template.render(messages)
    return model.tokenizer.encode(rendered, add_special=False, parse_special=True)


def opening(options: RunOptions) -> list[dict[str, str]]:
    """The messages in front of the user's first."""
    return [{"role": "system", "content": options.system}] if options.system else []
