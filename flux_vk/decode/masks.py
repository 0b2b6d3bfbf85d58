"""Which tokens a slot may draw: bitsets that the host writes and the sampling chain reads.

Not for: where the bits come from (flux_vk.text.grammar) or when they are written (the engine).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..gpu.buffer import Buffer
from ..gpu.chain import Chain
from ..gpu.device import BaseDevice


def words_for(vocab: int) -> int:
    """Words of 32 tokens that a mask over a vocabulary has."""
    return -(-vocab // 32)


class TokenMasks:
    """A mask for each of `slots` slots over `vocab` tokens; a slot without one may draw everything.

    Token t is allowed where bit t % 32 of word t // 32 is 1. Both buffers are visible to the host and read by the
    sampling of a step alone: a slot's mask may be written while a forward pass runs, not while its token is drawn.
    """

    def __init__(self, dev: BaseDevice, slots: int, vocab: int) -> None:
        self.vocab = vocab
        self.masked = dev.host((slots,), "u32")
        self.masks = dev.host((slots, words_for(vocab)), "u32")
        self.masked.view()[...] = 0
        self.masks.view()[...] = 0
        self._allowed: dict[int, npt.NDArray[np.uint32]] = {}

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All buffers, for memory reports."""
        return self.masked, self.masks

    def ban(self, slot: int, tokens: Sequence[int]) -> None:
        """Take a slot's mask away; these tokens are never allowed until `ban` is called again."""
        self._allowed.pop(slot, None)
        if tokens:
            flags = np.ones(32 * self.masks.shape[1], np.uint8)
            flags[list(tokens)] = 0
            self._allowed[slot] = np.packbits(flags, bitorder="little").view(np.uint32)
        self.clear(slot)

    def write(self, slot: int, mask: npt.NDArray[np.uint32]) -> None:
        """Let a slot draw only the tokens of `mask` u32[words]; words that are missing at its end count as 0."""
        words = self.masks.shape[1]
        if mask.dtype != np.uint32 or mask.ndim != 1 or len(mask) > words:
            raise InputError(f"the mask is {mask.dtype}{list(mask.shape)}; expected uint32 of at most {words} words")
        row = self.masks.view()[slot]
        row[: len(mask)] = mask
        row[len(mask) :] = 0
        if slot in self._allowed:
            row &= self._allowed[slot]
        self.masked.view()[slot] = 1

    def clear(self, slot: int) -> None:
        """Let a slot draw every token that is not banned."""
        if slot in self._allowed:
            self.masks.view()[slot] = self._allowed[slot]
        self.masked.view()[slot] = int(slot in self._allowed)

    def add(self, chain: Chain, logits: Buffer, row_slot: Buffer) -> Buffer:
        """Append the mask of f32[M, V] logits to a chain; the masked copy, in scratch. Rows without a mask are plain
        copies, rows of no slot are left unwritten.
        """
        y = chain.scratch(logits.shape)
        chain.sample_mask(logits=logits, row_slot=row_slot, masked=self.masked, masks=self.masks, y=y)
        return y
