"""Tokens to text one at a time: what is not yet a whole character waits for the next token.

Not for: finding stop strings in the text (the engine does that).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol


class Renders(Protocol):
    """What a StreamDecoder needs of a tokenizer."""

    def rendered(self, token_id: int, special: bool = False) -> bytes: ...
    def leading_space(self, token_id: int) -> bool: ...


class StreamDecoder:
    """Decodes a stream of ids; the pieces put together are `Tokenizer.decode` of all ids.

    tokenizer: the one whose ids these are. special: also write control tokens. after: ids in front of the
    stream; where they already write something, the space that starts a SentencePiece text is kept, for then
    it is a real one. first_space: keep it in any case.
    """

    def __init__(
        self, tokenizer: Renders, special: bool = False, after: Iterable[int] = (), first_space: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._at_start = not first_space and not any(tokenizer.rendered(i, special) for i in after)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes: "" while a character lacks bytes. Invalid bytes become U+FFFD.

        Raises TokenizerError for an id that the vocabulary does not have.
        """
        data = self._tokenizer.rendered(token_id, self._special)
        if data and self._at_start:
            self._at_start = False
            if self._tokenizer.leading_space(token_id):
                data = data[1:]
        return self._utf8.decode(data)

    def flush(self) -> str:
        """What is still held back at the end of the stream: U+FFFD for an unfinished character, else ""."""
        return self._utf8.decode(b"", final=True)
