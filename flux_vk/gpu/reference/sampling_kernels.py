"""References of the sampling kernels by name, over the buffers that their contracts list.

The arithmetic stands in sampling.py; here the slots' parameter words are read and the buffers' layouts written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .sampling import CAP, F32, KEY_NEG_INF, U32, key_of, mass, pick_row, top_row, value_of

TOP_MAX = 20
TOP_WORDS = 2 + 2 * TOP_MAX
_OFF = 0xFFFFFFFF


def block_of(vocab: int) -> npt.NDArray[np.intp]:
    """The block that every token belongs to: 4096 tokens make 64 blocks, dealt out four tokens at a time."""
    ids = np.arange(vocab)
    return (ids // 4096) * 64 + (ids // 4) % 64


def sample_stats(
    logits: F32, row_slot: U32, params: U32, *, has_sums: int = 0, **_: Any
) -> U32 | tuple[U32, npt.NDArray[np.float64]]:
    """maxima u32[M, NB] as keys (0: empty block); with has_sums also the sums of exp(logit - block maximum).

    Rows that the kernel leaves out (unknown slot; with sums, no log-probabilities asked for) are 0.
    """
    rows, vocab = logits.shape
    blocks = -(-vocab // 4096) * 64
    maxima = np.zeros((rows, blocks), np.uint32)
    sums = np.zeros((rows, blocks))
    where = block_of(vocab)
    for row, slot in enumerate(row_slot):
        if slot >= len(params) or (has_sums and params[slot, 10] == 0):
            continue
        keys = key_of(logits[row])
        np.maximum.at(maxima[row], where, keys)
        tops = value_of(np.maximum(maxima[row], KEY_NEG_INF))[where].astype(np.float64)
        finite = keys > KEY_NEG_INF
        np.add.at(sums[row], where[finite], np.exp(value_of(keys).astype(np.float64)[finite] - tops[finite]))
    return (maxima, sums) if has_sums else maxima


def sample_adjust(
    logits: F32, row_slot: U32, params: U32, bias_id: U32, bias: F32, history: U32, hist_count: U32, **_: Any
) -> tuple[F32, list[dict[int, np.float32]]]:
    """Logits after bias and penalties, and for each row what stood at the tokens that were changed."""
    out = logits.copy()
    before: list[dict[int, np.float32]] = []
    words = params.view(np.float32)
    for row, slot in enumerate(row_slot):
        kept: dict[int, np.float32] = {}
        before.append(kept)
        if slot >= len(params):
            continue
        x = out[row]
        for entry in range(int(params[slot, 9])):
            token = int(bias_id[slot, entry])
            kept.setdefault(token, x[token])
            x[token] += bias[slot, entry]
        seen, size = int(hist_count[slot]), history.shape[1]
        recent = [int(history[slot, (seen - 1 - i) % size]) for i in range(min(int(params[slot, 8]), seen, size))]
        repeat, inverse, frequency, presence = words[slot, 4:8]
        for token in set(recent):
            kept.setdefault(token, x[token])
            y = x[token] * inverse if x[token] > 0 else x[token] * repeat
            x[token] = y - (np.float32(recent.count(token)) * frequency + presence)
    return out, before


def sample_pick(logits: F32, row_slot: U32, row_pos: U32, params: U32, maxima: U32 | None = None, **_: Any) -> U32:
    """picked u32[M, 2]: the token, and 1 where no logit is finite (the token is 0 then)."""
    picked = np.zeros((len(logits), 2), np.uint32)
    words = params.view(np.float32)
    for row, slot in enumerate(row_slot):
        if slot >= len(params):
            continue
        inverse = words[slot, 3]
        token = pick_row(
            logits[row],
            inverse_temperature=inverse,
            top_k=int(params[slot, 0]),
            top_p_share=None if params[slot, 1] == _OFF else int(params[slot, 1]),
            ln_min_p=words[slot, 2],
            seed=int(params[slot, 11]) | int(params[slot, 12]) << 32,
            position=int(row_pos[row]) + 1,
        )
        picked[row] = (0, 1) if token is None else (token, 0)
    return picked


def sample_top(logits: F32, row_slot: U32, params: U32, **_: Any) -> U32:
    """top u32[M, 42]: count, logsumexp, then (id, log-probability) best first; rows that ask for none are 0."""
    top = np.zeros((len(logits), TOP_WORDS), np.uint32)
    floats = top.view(np.float32)
    for row, slot in enumerate(row_slot):
        want = min(int(params[slot, 10]), TOP_MAX, logits.shape[1]) if slot < len(params) else 0
        if want == 0:
            continue
        lse, best = top_row(logits[row], want)
        top[row, 0], floats[row, 1] = want, lse
        for i, (token, logprob) in enumerate(best):
            top[row, 2 + 2 * i], floats[row, 3 + 2 * i] = token, logprob
    return top


def sample_commit(
    row_slot: U32, row_pos: U32, params: U32, picked: U32, history: U32, hist_count: U32, ring: U32, **_: Any
) -> tuple[dict[int, int], dict[int, int], U32, U32, U32]:
    """New token by slot, its position by slot, then history, hist_count and ring with the tokens added."""
    history, hist_count, ring = history.copy(), hist_count.copy(), ring.copy()
    tokens: dict[int, int] = {}
    positions: dict[int, int] = {}
    for row, slot in enumerate(int(s) for s in row_slot):
        if slot >= len(params):
            continue
        tokens[slot], positions[slot] = int(picked[row, 0]), int(row_pos[row]) + 1
        history[slot, hist_count[slot] % history.shape[1]] = tokens[slot]
        hist_count[slot] += 1
        ring[slot, positions[slot] % ring.shape[1]] = tokens[slot]
    return tokens, positions, history, hist_count, ring


def sample_mass(logits: F32, row_slot: U32, params: U32, **_: Any) -> npt.NDArray[np.uint64]:
    """mass as uint64[M, 256] (the kernel's pairs joined): by eighths from the largest logit, or by 4096 tokens."""
    rows, vocab = logits.shape
    out = np.zeros((rows, 256), np.uint64)
    for row, slot in enumerate(row_slot):
        if slot >= len(params) or vocab <= CAP:
            continue
        k, share, inverse = params[slot, 0], params[slot, 1], params.view(np.float32)[slot, 3]
        limited = share == _OFF and np.isfinite(params.view(np.float32)[slot, 2])
        if inverse == 0 or 0 < k < vocab or limited:
            continue
        keys = key_of(logits[row])
        with np.errstate(over="ignore", invalid="ignore"):
            below = (value_of(keys) - value_of(keys.max(keepdims=True))).astype(np.float32)
            masses = mass(below if share != _OFF else (below * inverse).astype(np.float32))
        where: npt.NDArray[np.int64] = np.arange(vocab) // 4096
        if share != _OFF:
            where = 255 - (np.minimum(-below, np.float32(31.875)) * 8).astype(np.int64)
        np.add.at(out[row], where, masses.astype(np.uint64))
    return out


def sample_mask(logits: F32, row_slot: U32, masked: U32, masks: U32, **_: Any) -> F32:
    """The logits with -inf for tokens that a row's mask leaves out; rows that the kernel leaves out are NaN."""
    out = np.full_like(logits, np.nan)
    vocab = logits.shape[1]
    for row, slot in enumerate(row_slot):
        if slot < len(masked):
            bits = (masks[slot][np.arange(vocab) // 32] >> (np.arange(vocab) % 32).astype(np.uint32)) & 1
            out[row] = np.where(bits.astype(bool) | (masked[slot] == 0), logits[row], np.float32(-np.inf))
    return out
