"""Packed batches: sequences behind each other as one list of rows, with padding rows at the end.

Not for: how text becomes sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.train.tiny_models import raw_bits

U32 = npt.NDArray[np.uint32]
IGNORED = 0xFFFFFFFF
FIELDS = ("ids", "pos", "first", "last", "labels")


@dataclass(frozen=True)
class Packed:
    """uint32[T] each. `first` is the row where a row's sequence begins, `last` one past its end; labels are the next
    token's id or IGNORED. A padding row is a sequence of its own with id 0 and no label.
    """

    ids: U32
    pos: U32
    first: U32
    last: U32
    labels: U32
    tokens: int
    """Rows that are not padding."""

    @property
    def counted(self) -> int:
        """Labels that count."""
        return int((self.labels != IGNORED).sum())

    def __len__(self) -> int:
        return len(self.ids)


def pack(sequences: Sequence[tuple[U32, U32]], rows: int | None = None) -> Packed:
    """Pack (ids, labels) of each sequence, padded to `rows`."""
    tokens = sum(len(ids) for ids, _ in sequences)
    rows = tokens if rows is None else rows
    own = np.arange(rows, dtype=np.uint32)
    out = {"ids": np.zeros(rows, np.uint32), "pos": np.zeros(rows, np.uint32), "first": own.copy(), "last": own + 1,
           "labels": np.full(rows, IGNORED, np.uint32)}  # fmt: skip
    begin = 0
    for ids, labels in sequences:
        at = slice(begin, begin + len(ids))
        out["ids"][at], out["labels"][at] = ids, labels
        out["pos"][at] = np.arange(len(ids))
        out["first"][at], out["last"][at] = at.start, at.stop
        begin = at.stop
    return Packed(**out, tokens=tokens)


def unpack(batch: Packed) -> list[tuple[U32, U32]]:
    """(ids, labels) of each sequence of a batch; padding is left out."""
    starts = [t for t in range(batch.tokens) if batch.first[t] == t]
    return [(batch.ids[t : batch.last[t]], batch.labels[t : batch.last[t]]) for t in starts]


def random_batch(key: str, lengths: Sequence[int], prompts: Sequence[int], rows: int, vocab: int) -> Packed:
    """Random ids from the stream of `key`; the labels of the first prompts[i] rows of sequence i are ignored."""
    sequences = []
    for i, (length, prompt) in enumerate(zip(lengths, prompts, strict=True)):
        ids = (raw_bits(f"{key}/{i}", length) % np.uint64(vocab)).astype(np.uint32)
        labels = np.append(ids[1:], np.uint32(IGNORED)).astype(np.uint32)
        labels[:prompt] = IGNORED
        sequences.append((ids, labels))
    return pack(sequences, rows)
