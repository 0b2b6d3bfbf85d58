"""A made-up byte-pair vocabulary of any size: 256 bytes, then letter groups, common letters first.

Every token that is not a byte is the join of two earlier ones and has its merge, so tokenizers load it and
encode any text. Not for: text that a model was trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from flux_vk.errors import InputError

LETTERS = "etaoinshrdlucmfwygpbvkxqjz"
NORMAL, CONTROL, UNUSED = 1, 3, 5


@dataclass(frozen=True)
class SyntheticVocab:
    """tokens and their GGUF types; merges as "left right", best first."""

    tokens: list[str]
    types: list[int]
    merges: list[str]

    def id(self, token: str) -> int:
        """The number of a special token."""
        return self.tokens.index(token)


def byte_letters() -> list[str]:
    """The 256 characters by which byte-pair vocabularies spell bytes (GPT-2's table), in byte order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = itertools.count(256)
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def _joins() -> Iterator[tuple[str, str]]:
    space = byte_letters()[0x20]
    pairs = [(a, b) for a, b in itertools.product(LETTERS, LETTERS)]
    # Common letters first: the sum of two ranks orders the pairs.
    pairs.sort(key=lambda p: (LETTERS.index(p[0]) + 1) * (LETTERS.index(p[1]) + 1))
    yield from pairs
    for a in LETTERS:
        yield space, a
    for a, b in pairs:
        yield space, a + b
    for (a, b), c in itertools.product(pairs, LETTERS):
        yield a + b, c
    for (a, b), (c, d) in itertools.product(pairs, pairs):
        yield a + b, c + d
    for (a, b), (c, d) in itertools.product(pairs, pairs):
        yield space + a + b, c + d


def make(size: int, special: list[str]) -> SyntheticVocab:
    """A vocabulary of `size` tokens: bytes, groups, special tokens; unused ones where the groups ran out."""
    groups = size - 256 - len(special)
    if groups < 0:
        raise InputError(f"vocabulary of {size} tokens: expected at least {256 + len(special)}")
    merges = list(itertools.islice(_joins(), groups))
    tokens = byte_letters() + [a + b for a, b in merges]
    types = [NORMAL] * len(tokens) + [CONTROL] * len(special)
    tokens += special
    unused = size - len(tokens)
    tokens += [f"[PAD{i}]" for i in range(unused)]
    return SyntheticVocab(tokens, types + [UNUSED] * unused, [f"{a} {b}" for a, b in merges])
