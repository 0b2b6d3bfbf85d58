"""Bit shuffles between GGUF blocks and device planes, on arrays of blocks at once, each with its inverse.

Not for: which shuffle belongs to which field of which type; that table stands in `layout.py`.
The tool is the delta swap (Warren, Hacker's Delight, chapter 7): it exchanges bits `shift` apart, here also
between words `distance` apart, so that transposing small bit matrices takes two to four contiguous passes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

U8Array = npt.NDArray[np.uint8]
Words = npt.NDArray[Any]


def gather(blocks: U8Array, at: int, size: int, order: tuple[int, ...] = ()) -> U8Array:
    """Bytes at .. at + size of every block [n, block bytes], contiguous, [n * size].

    `order` names for each 16-byte cell of the result the cell of the block that it comes from.
    """
    out = np.empty(len(blocks) * size, np.uint8)
    for to, source in _cells(out.reshape(-1, size), blocks, at, size, order):
        to[...] = source
    return out


def scatter(values: U8Array, blocks: U8Array, at: int, size: int, order: tuple[int, ...] = ()) -> None:
    """The inverse of `gather`: writes `values` [n * size] into the blocks."""
    for source, to in _cells(values.reshape(-1, size), blocks, at, size, order):
        to[...] = source


def _cells(
    flat: U8Array, blocks: U8Array, at: int, size: int, order: tuple[int, ...]
) -> list[tuple[Words, Words]]:
    """Pairs of views of the same cells in `flat` [n, size] and in the blocks, as wide items: fast to copy."""
    width = next(w for w in (16, 8, 4, 2, 1) if size % w == 0)
    pairs = []
    for i in range(size // width):
        j = order[i] if order else i
        pairs.append((cell(flat, i * width, width), cell(blocks, at + j * width, width)))
    return pairs


def cell(blocks: U8Array, at: int, width: int) -> Words:
    """A view [n] of `width` bytes at byte `at` of every block."""
    return np.ndarray((len(blocks),), _ITEM[width], blocks.data, at, (blocks.strides[0],))


_ITEM: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
    16: np.dtype("V16"),
}


@dataclass(frozen=True)
class Swap:
    """One delta swap on words of `width` bytes: for every word i whose `mask[i % len(mask)]` is set, the bits

    (mask << shift) of word i change places with the bits mask of word i + distance. It is its own inverse.
    """

    width: int
    distance: int
    shift: int
    mask: tuple[int, ...]

    def apply(self, data: U8Array, scratch: U8Array) -> None:
        """Swaps in place; `scratch` has the size of `data`."""
        kind = f"<u{self.width}"
        x, t = data.view(kind), scratch.view(kind)
        n, d = len(x) - self.distance, self.distance
        np.right_shift(x, x.dtype.type(self.shift), out=t)
        np.bitwise_xor(t[:n], x[d:], out=t[:n])
        np.bitwise_and(t, self.masks(len(x)), out=t)
        np.bitwise_xor(x[d:], t[:n], out=x[d:])
        np.left_shift(t, x.dtype.type(self.shift), out=t)
        np.bitwise_xor(x, t, out=x)

    def masks(self, n: int) -> Words:
        """The mask of every one of `n` words (a scalar where all are the same)."""
        if len(self.mask) == 1:
            return np.array(self.mask[0], f"<u{self.width}")
        return _tiled(self.width, self.mask, 1 << (n - 1).bit_length())[:n]


@functools.lru_cache(maxsize=8)
def _tiled(width: int, mask: tuple[int, ...], n: int) -> Words:
    tiled = np.tile(np.array(mask, f"<u{width}"), n // len(mask))
    tiled.flags.writeable = False
    return tiled


class Codec(Protocol):
    """Turns a field of every block into `out` bytes a block of a plane, and back."""

    @property
    def out(self) -> int: ...

    @property
    def code(self) -> int:
        """Its number in native/pack.hpp, which encodes by the same rules."""

    def encode(self, blocks: U8Array, at: int) -> U8Array:
        """The plane's contiguous bytes [n * out] of the field at byte `at` of the blocks [n, block bytes]."""

    def decode(self, plane: U8Array, blocks: U8Array, at: int) -> None:
        """Writes the field of every block from the plane's bytes [n * out], which may be changed."""


@dataclass(frozen=True)
class Shuffle:
    """The bits in another order: cells gathered in `order`, then delta swaps; with neither, a plain copy."""

    size: int
    stages: tuple[Swap, ...] = ()
    order: tuple[int, ...] = ()

    @property
    def out(self) -> int:
        return self.size

    @property
    def code(self) -> int:
        return 0

    def encode(self, blocks: U8Array, at: int) -> U8Array:
        data = gather(blocks, at, self.size, self.order)
        self._run(data, self.stages)
        return data

    def decode(self, plane: U8Array, blocks: U8Array, at: int) -> None:
        self._run(plane, self.stages[::-1])
        scatter(plane, blocks, at, self.size, self.order)

    def _run(self, data: U8Array, stages: tuple[Swap, ...]) -> None:
        if stages:
            scratch = np.empty_like(data)
            for stage in stages:
                stage.apply(data, scratch)


_0F, _33, _55 = 0x0F0F0F0F0F0F0F0F, 0x3333333333333333, 0x55555555

# Nibbles of q4_k and q5_k: 32 bytes hold 32 weights low and 32 high; wanted are 16 bytes for each 32 weights.
NIBBLES = Shuffle(128, (Swap(8, 2, 4, (_0F, _0F, 0, 0)),))
# The same of q6_k, whose 64 bytes hold sub-blocks 0, 1 low and 2, 3 high.
NIBBLES_Q6 = Shuffle(128, (Swap(8, 4, 4, (_0F,) * 4 + (0,) * 4),), (0, 2, 1, 3, 4, 6, 5, 7))
# Two-bit fields: 4 words x 4 fields transposed.
PAIRS = Shuffle(64, (Swap(8, 2, 4, (_0F, _0F, 0, 0)), Swap(8, 1, 2, (_33, 0, _33, 0))))
# One bit a weight in q3_k and q5_k: 8 words of 4 bytes x 8 bits transposed.
BITS = Shuffle(
    32, (Swap(8, 2, 4, (_0F, _0F, 0, 0)), Swap(8, 1, 2, (_33, 0, _33, 0)), Swap(4, 1, 1, (_55, 0)))
)
# One bit a weight in q5_0 and q5_1: bit 4g + k of a word goes to bit 8k + g (four exchanges of index bits).
BITS_WORD = Shuffle(
    4,
    (
        Swap(4, 0, 14, (0x0000CCCC,)),
        Swap(4, 0, 7, (0x00AA00AA,)),
        Swap(4, 0, 2, (0x0C0C0C0C,)),
        Swap(4, 0, 1, (0x22222222,)),
    ),
)


def _every(byte: int) -> np.uint32:
    return np.uint32(byte * 0x01010101)


def _spread(x: Words, by: int) -> Words:
    """uint32 [n] -> uint64 [n]: byte i moves to byte 2 i + by."""
    y = x.astype(np.uint64)
    y = (y | y << np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    y = (y | y << np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    return y << np.uint64(8 * by)


def _squeeze(x: Words, by: int) -> Words:
    """The inverse of `_spread`."""
    y = (x >> np.uint64(8 * by)) & np.uint64(0x00FF00FF00FF00FF)
    y = (y | y >> np.uint64(8)) & np.uint64(0x0000FFFF0000FFFF)
    return (y | y >> np.uint64(16)).astype(np.uint32)


def _three(blocks: U8Array, at: int) -> tuple[Words, Words, Words]:
    a, b, c = (cell(blocks, at + 4 * i, 4).copy() for i in range(3))
    return a, b, c


class ScaleMin:
    """q4_k, q5_k: eight 6-bit scales and minimums in 12 bytes <-> pairs of bytes (scale, minimum)."""

    out = 16
    code = 1

    def encode(self, blocks: U8Array, at: int) -> U8Array:
        a, b, c = _three(blocks, at)
        pairs = np.empty((len(a), 2), "<u8")
        low, high, top = _every(63), _every(15), _every(48)
        four = np.uint32(4)
        two = np.uint32(2)
        pairs[:, 0] = _spread(a & low, 0) | _spread(b & low, 1)
        pairs[:, 1] = _spread(c & high | a >> two & top, 0) | _spread(c >> four & high | b >> two & top, 1)
        return pairs.reshape(-1).view(np.uint8)

    def decode(self, plane: U8Array, blocks: U8Array, at: int) -> None:
        pairs = plane.view("<u8").reshape(-1, 2)
        scale_low, scale_high = _squeeze(pairs[:, 0], 0), _squeeze(pairs[:, 1], 0)
        min_low, min_high = _squeeze(pairs[:, 0], 1), _squeeze(pairs[:, 1], 1)
        low, top = _every(15), _every(48)
        cell(blocks, at, 4)[...] = scale_low | (scale_high & top) << np.uint32(2)
        cell(blocks, at + 4, 4)[...] = min_low | (min_high & top) << np.uint32(2)
        cell(blocks, at + 8, 4)[...] = scale_high & low | (min_high & low) << np.uint32(4)


class Scale16:
    """q3_k: sixteen 6-bit scales in 12 bytes <-> sixteen int8, less 32."""

    out = 16
    code = 2

    def encode(self, blocks: U8Array, at: int) -> U8Array:
        a, b, c = _three(blocks, at)
        scales = np.empty((len(a), 4), "<u4")
        low, two = _every(15), _every(3)
        for i, x in enumerate((a, b, a >> np.uint32(4), b >> np.uint32(4))):
            scales[:, i] = x & low | (c >> np.uint32(2 * i) & two) << np.uint32(4)
        out = scales.reshape(-1).view(np.uint8)
        return np.subtract(out, np.uint8(32), out=out)

    def decode(self, plane: U8Array, blocks: U8Array, at: int) -> None:
        scales = np.add(plane, np.uint8(32), out=plane).view("<u4").reshape(-1, 4)
        low, four = _every(15), np.uint32(4)
        cell(blocks, at, 4)[...] = scales[:, 0] & low | (scales[:, 2] & low) << four
        cell(blocks, at + 4, 4)[...] = scales[:, 1] & low | (scales[:, 3] & low) << four
        top = scales >> four & _every(3)
        cell(blocks, at + 8, 4)[...] = (
            top[:, 0] | top[:, 1] << np.uint32(2) | top[:, 2] << four | top[:, 3] << np.uint32(6)
        )


class Scale8:
    """iq4_xs: eight 6-bit scales as 2 bytes of high and 4 bytes of low bits <-> eight int8, less 32."""

    out = 8
    code = 3

    def encode(self, blocks: U8Array, at: int) -> U8Array:
        high = cell(blocks, at, 2).astype(np.uint64)
        low = cell(blocks, at + 2, 4)
        high = (high | high << np.uint64(24)) & np.uint64(0x000000FF000000FF)
        high = (high | high << np.uint64(12)) & np.uint64(0x000F000F000F000F)
        high = (high | high << np.uint64(6)) & np.uint64(0x0303030303030303)
        nibbles = _spread(low & _every(15), 0) | _spread(low >> np.uint32(4) & _every(15), 1)
        out: U8Array = (nibbles | high << np.uint64(4)).view(np.uint8)
        return np.subtract(out, np.uint8(32), out=out)

    def decode(self, plane: U8Array, blocks: U8Array, at: int) -> None:
        scales = np.add(plane, np.uint8(32), out=plane).view("<u8")
        high = scales >> np.uint64(4) & np.uint64(0x0303030303030303)
        high = (high | high >> np.uint64(6)) & np.uint64(0x000F000F000F000F)
        high = (high | high >> np.uint64(12)) & np.uint64(0x000000FF000000FF)
        cell(blocks, at, 2)[...] = (high | high >> np.uint64(24)).astype(np.uint16)
        low = _squeeze(scales, 0) & _every(15)
        cell(blocks, at + 2, 4)[...] = low | (_squeeze(scales, 1) & _every(15)) << np.uint32(4)


SCALE_MIN = ScaleMin()
SCALE_16 = Scale16()
SCALE_8 = Scale8()
