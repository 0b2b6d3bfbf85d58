"""DRY's sequence breakers: texts as the token sequences in which they can occur.

Not for: what DRY does with them (docs/sampling.md, shaders/sample_repeats.comp).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError

if TYPE_CHECKING:
    from ..text import Tokenizer

MAX_TEXT = 40  # bytes of a breaker that count, and
MAX_TAIL = 20  # tokens behind the first, both as llama.cpp has them
MAX_SEQUENCES = 512  # of more than one token, all breakers together
_WORDS = 24  # of a sequence on the device: length of the tail, the first token, the tail


@dataclass(frozen=True)
class Breakers:
    """alone: tokens that break a repetition by themselves. sequences: first token and the others."""

    alone: frozenset[int] = frozenset()
    sequences: tuple[tuple[int, ...], ...] = ()

    @staticmethod
    def of(sequences: Iterable[Sequence[int]]) -> Breakers:
        """From token sequences. Raises InputError where they are too many or too long."""
        every = list(dict.fromkeys(tuple(s) for s in sequences))
        longer = tuple(s for s in every if len(s) > 1)
        if len(longer) > MAX_SEQUENCES:
            raise InputError(
                f"dry_sequence_breakers gives {len(longer)} sequences of more than one token; expected at most "
                f"{MAX_SEQUENCES}: name fewer or shorter texts"
            )
        if any(len(s) > 1 + MAX_TAIL for s in longer):
            raise InputError(f"a sequence breaker has more than {1 + MAX_TAIL} tokens")
        return Breakers(frozenset(s[0] for s in every if len(s) == 1), longer)

    def bits(self, vocab: int) -> npt.NDArray[np.uint32]:
        """u32[ceil(vocab / 32)]: a bit for each token of `alone`."""
        flags = np.zeros(-(-vocab // 32) * 32, np.uint8)
        flags[list(self.alone)] = 1
        return np.packbits(flags, bitorder="little").view(np.uint32)

    def words(self) -> npt.NDArray[np.uint32]:
        """u32[512, 24]: the sequences, as sample_repeats reads them."""
        words = np.zeros((MAX_SEQUENCES, _WORDS), np.uint32)
        for row, sequence in zip(words, self.sequences, strict=False):
            row[0] = len(sequence) - 1
            row[1 : 1 + len(sequence)] = sequence
        return words


def find_breakers(tokenizer: Tokenizer, texts: Sequence[str]) -> Breakers:
    """Every way in which tokens can spell these texts: a token that holds a text breaks alone; one that ends with its
    beginning does with the tokens of the rest behind it (llama.cpp's get_overlapping_token_sequences).
    """
    pieces = [tokenizer.rendered(i, special=True) for i in range(tokenizer.vocab_size)] if texts else []
    found: list[tuple[int, ...]] = []
    for text in texts:
        whole = text.encode()[:MAX_TEXT]
        for token, piece in enumerate(pieces):
            if whole in piece:
                found.append((token,))
            elif len(whole) > 1 and whole[0] in piece:
                found += ((token, *tail) for tail in _tails(tokenizer, piece, whole))
    return Breakers.of(found)


def _tails(tokenizer: Tokenizer, piece: bytes, whole: bytes) -> list[list[int]]:
    """The tokens of what is missing of a text, for every beginning of it that the piece ends with."""
    tails = []
    for n in range(1, min(len(piece), len(whole) - 1) + 1):
        if piece.endswith(whole[:n]):
            rest = whole[n:].decode("utf-8", "replace")
            tails.append(tokenizer.encode(rest, add_special=False)[:MAX_TAIL])
    return [tail for tail in tails if tail]
