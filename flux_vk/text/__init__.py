"""Text in and out of tokens: vocabularies from GGUF files, streaming decode, chat templates, grammars.

Not for: models, sampling, the GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux_vk.text.grammar import Grammar
    from flux_vk.text.stream import StreamDecoder
    from flux_vk.text.template import ChatTemplate
    from flux_vk.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Grammar", "StreamDecoder", "Tokenizer"]

_HOME = {"ChatTemplate": "template", "Grammar": "grammar", "StreamDecoder": "stream", "Tokenizer": "tokenizer"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
