"""Examples put together to micro-batches: shuffled, behind each other or packed, padded to one of a few sizes.

Not for: reading data (data.py) and for what the device does with a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flux_vk.errors import InputError
from flux_vk.gpu.reference.shuffle import permutation

Ids = npt.NDArray[np.uint32]

IGNORED = 0xFFFFFFFF
"""The label of a row that teaches nothing."""

_ALIGN = 32
_SIZES = 8
_OPEN = 256
"""So many rows are looked at for a place when packing; older ones stay as they are, so that it takes linear time."""


@dataclass(frozen=True)
class Example:
    """One sequence. ids: u32[n], what the model sees; labels: u32[n], the token that follows each, or IGNORED."""

    ids: Ids
    labels: Ids

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counted(self) -> int:
        """How many labels are to be learned."""
        return int(np.count_nonzero(self.labels != IGNORED))


@dataclass(frozen=True)
class MicroBatch:
    """Rows of several sequences behind each other, then rows of padding: T = len(ids) rows, all arrays u32[T].

    pos: place in its sequence, from 0. first: the row where its sequence begins. last: one past the row where it ends.
    labels: the token that follows, or IGNORED. A row of padding has id 0, pos 0, first = t, last = t + 1, no label.
    tokens: rows without padding; counted: labels to be learned.
    """

    ids: Ids
    pos: Ids
    first: Ids
    last: Ids
    labels: Ids
    tokens: int
    counted: int


def bucket(tokens: int, most: int) -> int:
    """Rows that a micro-batch of `tokens` gets where the largest has `most`: an eighth of it or several, each rounded
    up to 32. A chain is recorded for each size that occurs. ValueError for more tokens than `most`.
    """
    if not 0 < tokens <= most:
        raise ValueError(f"a micro-batch of {tokens} tokens; expected 1 to {most}")
    sizes = (-(-most * i // (_SIZES * _ALIGN)) * _ALIGN for i in range(1, _SIZES + 1))
    return next(size for size in sizes if size >= tokens)


def buckets(most: int) -> tuple[int, ...]:
    """All sizes that `bucket` gives, ascending."""
    return tuple(sorted({bucket(n, most) for n in range(1, most + 1, _ALIGN)} | {bucket(most, most)}))


def micro_batch(examples: Sequence[Example], size: int | None = None) -> MicroBatch:
    """The examples behind each other, with padding up to `size` rows (None: no padding).

    ValueError where they are longer, or none.
    """
    lengths = [len(example) for example in examples]
    tokens = sum(lengths)
    rows = tokens if size is None else size
    if not tokens or tokens > rows:
        raise ValueError(f"a micro-batch of {tokens} tokens; expected 1 to {rows}")
    ids, pos, labels = np.zeros(rows, np.uint32), np.zeros(rows, np.uint32), np.full(rows, IGNORED, np.uint32)
    first = np.arange(rows, dtype=np.uint32)
    last = first + np.uint32(1)
    start = 0
    for example, n in zip(examples, lengths, strict=True):
        part = slice(start, start + n)
        ids[part], labels[part] = example.ids, example.labels
        pos[part] = np.arange(n)
        first[part], last[part] = start, start + n
        start += n
    return MicroBatch(ids, pos, first, last, labels, tokens, int(np.count_nonzero(labels != IGNORED)))


def pack(lengths: Sequence[int], order: Sequence[int], row: int) -> list[list[int]]:
    """Examples (indices into lengths) in rows of `row` tokens: each, in `order`, goes into the first row with room.

    Of the rows that are not full only the newest 256 are looked at.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (row, tokens left), oldest first
    for index in order:
        n = lengths[index]
        at = next((i for i, (_, left) in enumerate(room) if left >= n), None)
        if at is None:
            rows.append([])
            room.append((len(rows) - 1, row))
            at = len(room) - 1
        number, left = room[at]
        rows[number].append(index)
        room[at] = (number, left - n)
        if left == n or len(room) > _OPEN:
            room.pop(at if left == n else 0)
    return rows


class Batches:
    """The micro-batches of a training, epoch after epoch; everything follows from the seed.

    An epoch's order is a permutation of the examples by seed and epoch. Without packing a micro-batch is the next
    `batch_size` examples, with packing the next `batch_size` rows of `max_length` tokens, each filled with whole
    examples. (epoch, index) says all about a place in the data.
    """

    def __init__(
        self, examples: Sequence[Example], batch_size: int, max_length: int, packing: bool = False, seed: int = 0
    ) -> None:
        """InputError without examples; ValueError for one that is longer than max_length."""
        if not examples:
            raise InputError("the training data holds no example; expected at least one")
        self.examples = examples
        self.lengths = [len(example) for example in examples]
        if max(self.lengths) > max_length:
            raise ValueError(f"an example of {max(self.lengths)} tokens; expected {max_length} at most")
        self.batch_size, self.max_length, self.packing, self.seed = batch_size, max_length, packing, seed
        self._plans: dict[int, list[list[int]]] = {}

    @property
    def most(self) -> int:
        """Rows of the largest micro-batch there may be."""
        return self.batch_size * self.max_length

    def plan(self, epoch: int) -> list[list[int]]:
        """The examples (by number) of each micro-batch of an epoch, which counts from 0."""
        if epoch not in self._plans:
            order = [int(i) for i in permutation(len(self.examples), self.seed, epoch)]
            b = self.batch_size
            if self.packing:
                rows = pack(self.lengths, order, self.max_length)
                plan = [[i for row in rows[at : at + b] for i in row] for at in range(0, len(rows), b)]
            else:
                plan = [order[at : at + b] for at in range(0, len(order), b)]
            self._plans = {epoch: plan}  # of the epoch at hand only: they are as large as the data is long
        return self._plans[epoch]

    def count(self, epoch: int) -> int:
        """Micro-batches of an epoch."""
        if self.packing:
            return len(self.plan(epoch))
        return -(-len(self.examples) // self.batch_size)

    def batch(self, epoch: int, index: int) -> MicroBatch:
        """One micro-batch, padded to a size of `bucket`."""
        return self.batch_of(self.plan(epoch)[index])

    def batch_of(self, chosen: Sequence[int]) -> MicroBatch:
        """A micro-batch of these examples."""
        return micro_batch([self.examples[i] for i in chosen], bucket(sum(self.lengths[i] for i in chosen), self.most))

    def in_order(self) -> Iterator[MicroBatch]:
        """All examples once, unshuffled: for evaluating."""
        b = self.batch_size
        for at in range(0, len(self.examples), b):
            yield self.batch_of(range(at, min(at + b, len(self.examples))))
