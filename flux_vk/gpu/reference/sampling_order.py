"""References of the kernels of complete chains, by name: a slot's order is read and done with samplers.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import samplers as do
from .sampling import F32, U32, draw_bits, philox4x32_10

_OFF = 0xFFFFFFFF
_STEPS = (
    "", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature", "top_n_sigma", "penalties", "dry",
)  # fmt: skip
TAG_XTC = 0x58544331
Changes = list[tuple[dict[int, int], dict[int, float]]]


def sample_repeats(
    logits: F32, row_slot: U32, order: U32, breaker_bits: U32, breakers: U32, history: U32, hist_count: U32, **_: Any
) -> tuple[F32, Changes]:
    """Logits after DRY where it stands first, and for each row counts of tokens and DRY's penalties."""
    out, every = logits.copy(), []
    for row, slot in enumerate(row_slot):
        counts: dict[int, int] = {}
        less: dict[int, float] = {}
        every.append((counts, less))
        if slot >= len(order) or order[slot, 0] == 0:
            continue
        words, floats = order[slot], order.view(np.float32)[slot]
        seen, size = int(hist_count[slot]), history.shape[1]
        past = [int(history[slot, (seen - 1 - i) % size]) for i in range(min(seen, size))][::-1]
        for token in past[len(past) - min(int(words[21]), len(past)) :]:
            counts[token] = counts.get(token, 0) + 1
        if words[17]:
            bits = np.unpackbits(breaker_bits[slot].view(np.uint8), bitorder="little")
            sequences = [q[1 : 2 + q[0]].tolist() for q in breakers[slot, : words[20]]]
            less |= do.dry_penalties(
                past, multiplier=float(floats[14]), base=float(floats[15]), allowed_length=int(words[16]),
                last_n=-1 if words[17] == _OFF else int(words[17]), alone=set(np.flatnonzero(bits).tolist()),
                sequences=sequences,
            )  # fmt: skip
        if words[19]:
            for token, penalty in less.items():
                out[row, token] = max(out[row, token] - np.float32(penalty), np.float32(do.LOWEST))
    return out, every


def sample_ordered(
    logits: F32, row_slot: U32, row_pos: U32, params: U32, order: U32, changes: Changes, carry: F32, picked: U32,
    **_: Any,
) -> tuple[U32, F32]:  # fmt: skip
    """picked u32[M, 2] and carry f32[S, RING, 4] afterwards; changes: as sample_repeats gives them."""
    picked, carry = picked.copy(), carry.copy()
    ring = carry.shape[1]
    for row, slot in enumerate(row_slot):
        if slot >= len(params) or order[slot, 0] == 0:
            continue
        position, words = int(row_pos[row]) + 1, order[slot]
        seed = int(params[slot, 11]) | int(params[slot, 12]) << 32
        before = carry[slot, (position - 1) % ring]
        left = run_order(logits[row], words, params[slot], seed, position, changes[row])
        law, ids, p = law_of(left, words, before, logits.shape[1])
        place = _drawn(ids, law, draw_bits(seed, position))
        picked[row] = ids[place], 0
        if words[0] > 1:
            carry[slot, position % ring] = _carried(words, before, float(law[place]), float(p[place]))
    return picked, carry


def run_order(
    logits: F32, words: U32, params: U32, seed: int, position: int, changes: tuple[dict[int, int], dict[int, float]]
) -> do.Candidates:
    """What the samplers of a slot leave of a row."""
    floats = words.view(np.float32)
    repeat, _, frequency, presence = (float(x) for x in params.view(np.float32)[4:8])
    c = do.candidates(logits)
    for i in range(int(words[1])):
        name = _STEPS[int(words[2 + i // 8]) >> 4 * (i % 8) & 15]
        if name == "top_k":
            c = do.top_k(c, int(words[4]))
        elif name == "top_p":
            c = do.top_p(c, int(words[5]) / 2**32 + do.EDGE)
        elif name == "min_p":
            c = do.min_p(c, float(np.exp(np.float64(floats[6]))))
        elif name == "typ_p":
            c = do.typical(c, int(words[11]) / 2**32)
        elif name == "top_n_sigma":
            c = do.top_n_sigma(c, float(floats[10]))
        elif name == "temperature":
            c = do.dynamic_temperature(c, float(floats[7]), float(floats[8]), float(floats[9]))
        elif name == "penalties":
            c = do.penalties(c, changes[0], repeat, frequency, presence)
        elif name == "dry":
            c = do.subtract(c, changes[1])
        elif xtc_happens(seed, position, int(words[12])):
            c = do.xtc(c, int(words[13]) / 2**32 + do.EDGE)
    return c


def xtc_happens(seed: int, position: int, chance: int) -> bool:
    """Whether XTC acts on the token at a position; chance in units of 2^-32, all ones: always."""
    bits = philox4x32_10((position, 0, 0, TAG_XTC), (seed & _OFF, seed >> 32))[0]
    return chance == _OFF or bits < chance


def law_of(c: do.Candidates, words: U32, before: F32, vocab: int) -> tuple[do.F64, do.I64, do.F64]:
    """Probabilities that the token is drawn with, the tokens, and their probabilities for adaptive-p's memory."""
    floats = words.view(np.float32)
    if words[0] == 2:
        c = do.top_k(c, do.mirostat_k(c, float(before[0]), vocab))
    elif words[0] == 3:
        c = do.mirostat_2(c, float(before[0]))
    elif words[0] == 4:
        return do.adaptive_p(c, float(floats[24]), float(before[0]), float(before[1])), c.ids, c.p
    return c.p, c.ids, c.p


def _drawn(ids: do.I64, law: do.F64, bits: int) -> int:
    """The place of the token that 64 random bits fall on, going by id."""
    by_id = np.argsort(ids)
    reach = np.cumsum(law[by_id])
    return int(by_id[min(int(np.searchsorted(reach, bits / 2**64 * reach[-1], side="right")), len(ids) - 1)])


def _carried(words: U32, before: F32, drawn: float, p: float) -> F32:
    floats = words.view(np.float32)
    after = np.zeros(4, np.float32)
    if words[0] == 4:
        after[:2] = p + floats[25] * before[0], 1 + floats[25] * before[1]
    else:
        after[0] = before[0] - floats[23] * (-np.log2(drawn) - floats[22])
    return after


def change_words(changes: Changes, history: int) -> U32:
    """u32[M, 2, H + 1, 2]: what sample_repeats writes for these, in any order; the rest is 0."""
    words = np.zeros((len(changes), 2, history + 1, 2), np.uint32)
    for row, (counts, less) in zip(words, changes, strict=True):
        row[:, 0, 0] = len(counts), len(less)
        row[0, 1 : 1 + len(counts)] = list(counts.items()) or np.zeros((0, 2))
        row[1, 1 : 1 + len(less), 0] = list(less)
        row[1, 1 : 1 + len(less), 1] = np.array(list(less.values()), np.float32).view(np.uint32)
    return words
