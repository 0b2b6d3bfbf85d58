"""References of the kernels around the agents' interpreter: row facts, candidates, votes, trust, the trace's words.

Sums are in float64; what the kernels do with integers (masses, order) is done with integers here too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .sampling import F32, KEY_NEG_INF, U32, key_of, mass, value_of
from .sampling_kernels import block_of

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
SUM, PROB, BORDA, MAJORITY = range(4)
TERM_MAX = 4e37
LEADING, HEAD, ENTRY = 16, 16, 24
NEVER = 0xFFFFFFFF


def effective(swarm: U32, weight: F32, trust: F32, slot: int) -> F32:
    """Weight times trust of the slot's agents."""
    n = min(int(swarm[slot, 0]), weight.shape[1])
    product: F32 = weight[slot, :n] * trust[slot, :n]
    return product


def flux_moments(
    logits: F32, row_slot: U32, swarm: U32, weight: F32, trust: F32, consensus: F32 | None = None, **_: Any
) -> tuple[U32, F64, F32, U32]:
    """maxima u32[M, NB], parts f64[M, G, 4] (largest, sum e^d, sum d e^d, 0; d = logit - largest), consensus f32[M, V]
    (given, or -inf) with the logits of rows for which nobody votes, keys u32[M, V rounded up to 64].

    maxima, parts and keys of rows that are left out or have no agents are 0.
    """
    rows, vocab = logits.shape
    groups = -(-vocab // 4096)
    maxima = np.zeros((rows, 64 * groups), np.uint32)
    parts = np.zeros((rows, groups, 4))
    out = np.full((rows, vocab), -np.inf, np.float32) if consensus is None else consensus.copy()
    keys = np.zeros((rows, -(-vocab // 64) * 64), np.uint32)
    for row, slot in enumerate(int(s) for s in row_slot):
        if slot >= len(swarm):
            continue
        votes = effective(swarm, weight, trust, slot).sum() > 0
        if not votes:
            out[row] = logits[row]
        if swarm[slot, 0] == 0:
            continue
        keys[row, :vocab] = key_of(logits[row])
        np.maximum.at(maxima[row], block_of(vocab), keys[row, :vocab])
        for g in range(groups):
            own = keys[row, 4096 * g : min(4096 * (g + 1), vocab)]
            top = np.float64(value_of(np.maximum(own.max(keepdims=True), KEY_NEG_INF))[0])
            d = value_of(own[own > KEY_NEG_INF]).astype(np.float64) - top
            parts[row, g] = top, np.exp(d).sum(), (d * np.exp(d)).sum(), 0
    return maxima, parts, out, keys


def _info(logits: F32, slot: int, n: int, position: int, params: U32) -> U32:
    """The eight words of row_info."""
    words = np.zeros(8, np.uint32)
    floats = words.view(np.float32)
    words[0], words[4], words[7] = n, position + 1, slot
    if slot < len(params):
        words[5:7] = params[slot, 11:13]
    if n:
        keys = key_of(logits)
        x = value_of(keys[keys > KEY_NEG_INF]).astype(np.float64)
        top = x.max()
        d = x - top
        z = np.exp(d).sum()
        floats[1], floats[2], floats[3] = top, np.log(z) - (d * np.exp(d)).sum() / z, top + np.log(z)
    return words


def flux_candidates(
    logits: F32, row_slot: U32, row_pos: U32, params: U32, swarm: U32, history: U32, hist_count: U32, *, c: int,
    **_: Any,
) -> tuple[U32, U32]:  # fmt: skip
    """row_info u32[M, 8] and cand u32[M, C, 4] (places behind the last candidate are 0)."""
    rows, vocab = logits.shape
    info = np.zeros((rows, 8), np.uint32)
    cand = np.zeros((rows, c, 4), np.uint32)
    for row, slot in enumerate(int(s) for s in row_slot):
        keys = key_of(logits[row])
        order = np.lexsort((np.arange(vocab), ~keys))
        want = min(int(swarm[slot, 3]), c) if slot < len(swarm) and swarm[slot, 0] else 0
        ids = [int(i) for i in order[:want] if keys[i] > KEY_NEG_INF]
        info[row] = _info(logits[row], slot, len(ids), int(row_pos[row]), params)
        if not ids:
            continue
        seen, size = int(hist_count[slot]), history.shape[1]
        recent = history[slot, (seen - 1 - np.arange(min(seen, size))) % size]  # newest first
        cand[row, : len(ids), 0] = ids
        cand[row, : len(ids), 1] = value_of(keys[ids]).view(np.uint32)
        for rank, token in enumerate(ids):
            places = np.flatnonzero(recent == token)
            cand[row, rank, 2:] = len(places), places[0] + 1 if len(places) else NEVER
    return info, cand


def flux_ranked(**given: Any) -> tuple[U32, U32]:
    """As flux_candidates, for any number of candidates."""
    return flux_candidates(**given)


def flux_tally(row_info: U32, cand: U32, score: F32, swarm: U32, **_: Any) -> U32:
    """tally u32[M, A, 4]: bits of the largest score, the lowest id that has it, mass (low, high). 0 where left out."""
    rows, agents, _c = score.shape
    tally = np.zeros((rows, agents, 4), np.uint32)
    for row in range(rows):
        n, slot = int(row_info[row, 0]), int(row_info[row, 7])
        if slot >= len(swarm) or n == 0:
            continue
        for a in range(min(agents, int(swarm[slot, 0]))):
            own = value_of(key_of(score[row, a, :n]))
            best = own.max()
            with np.errstate(over="ignore"):
                total = int(mass(own - best).sum())
            least = int(cand[row, :n, 0][own == best].min())
            tally[row, a] = best.view(np.uint32), least, total & 0xFFFFFFFF, total >> 32
    return tally


def contributions(mode: int, score: F64, e: F64, ids: Array) -> F64:
    """What agents [A] add to candidates [n] from scores [A, n]; the sum over agents is a candidate's total."""
    if mode == SUM:
        terms: F64 = np.clip(e[:, None] * score, -TERM_MAX, TERM_MAX)
        return terms
    if mode == PROB:
        d = np.exp(score - score.max(axis=1, keepdims=True))
        part = d / d.sum(axis=1, keepdims=True)
    elif mode == BORDA:
        part = np.stack([np.searchsorted(np.sort(own), own, "left") for own in score]).astype(np.float64)
    else:
        best = score == score.max(axis=1, keepdims=True)
        part = np.stack([b & (ids == ids[b].min()) for b in best]).astype(np.float64)
    return np.asarray(part * (e / e.sum())[:, None], np.float64)


def consensus_of(mode: int, total: F64) -> F64:
    """Totals as logits."""
    with np.errstate(divide="ignore"):
        return total if mode in (SUM, BORDA) else np.log(total)


def _ballot(
    row: int, row_info: U32, cand: U32, score: F32, swarm: U32, weight: F32, trust: F32
) -> tuple[int, F64, F64] | None:
    """Mode, contributions [A, n] and consensus [n] of a row; None where nobody votes."""
    n, slot = int(row_info[row, 0]), int(row_info[row, 7])
    if slot >= len(swarm) or n == 0:
        return None
    e = effective(swarm, weight, trust, slot).astype(np.float64)
    if not e.sum() > 0:
        return None
    mode = int(swarm[slot, 1])
    parts = contributions(mode, score[row, : len(e), :n].astype(np.float64), e, cand[row, :n, 0])
    return mode, parts, consensus_of(mode, parts.sum(axis=0))


def flux_vote(
    row_info: U32, cand: U32, score: F32, swarm: U32, weight: F32, trust: F32, consensus: F32, **_: Any
) -> tuple[F64, F64]:
    """consensus [M, V] with the candidates' votes put in, votes [M, C] (0 where there is none)."""
    out = consensus.astype(np.float64)
    votes = np.zeros(cand.shape[:2])
    for row in range(len(row_info)):
        found = _ballot(row, row_info, cand, score, swarm, weight, trust)
        if found is not None:
            n = len(found[2])
            out[row, cand[row, :n, 0]] = votes[row, :n] = found[2]
    return out, votes


def flux_trust(
    row_info: U32, cand: U32, score: F32, traps: U32, picked: U32, swarm: U32, trust: F32, *, r: int, **_: Any
) -> tuple[F64, F64, U32]:
    """trust [S, P], trust_ring [S, R, P] and trap_ring [S, R, P, 2] (0 where nothing is written)."""
    slots, places = trust.shape
    now = trust.astype(np.float64)
    trust_ring, trap_ring = np.zeros((slots, r, places)), np.zeros((slots, r, places, 2), np.uint32)
    for row in range(len(row_info)):
        n, slot, at = int(row_info[row, 0]), int(row_info[row, 7]), int(row_info[row, 4]) % r
        if slot >= len(swarm):
            continue
        agents = min(int(swarm[slot, 0]), places)
        place = np.flatnonzero(cand[row, :n, 0] == picked[row, 0])
        if len(place) and picked[row, 1] == 0:
            own = score[row, :agents, :n].astype(np.float64)
            rate = np.float64(swarm.view(np.float32)[slot, 2])
            now[slot, :agents] *= 1 - rate
            now[slot, :agents] += rate * np.exp(own[:, place[0]] - own.max(axis=1))
        trust_ring[slot, at] = now[slot]
        if n:
            trap_ring[slot, at, :agents] = traps[row, :agents]
    return now, trust_ring, trap_ring


def flux_trace(
    row_info: U32, cand: U32, score: F32, votes: F32, picked: U32, swarm: U32, weight: F32, trust: F32, *, t: int,
    **_: Any,
) -> U32:  # fmt: skip
    """trace_ring u32[S, T, 440] in the order of the shader's constants; 0 where nothing is written."""
    ring = np.zeros((len(swarm), t, HEAD + 16 + (LEADING + 1) * ENTRY), np.uint32)
    for row, words in enumerate(row_info):
        slot = int(words[7])
        if slot >= len(swarm):
            continue
        out = ring[slot, int(words[4]) % t]
        found = _ballot(row, row_info, cand, score, swarm, weight, trust)
        agents = int(swarm[slot, 0])
        order: list[int] = []
        place = NEVER
        if found is not None:
            n = len(found[2])
            ids = cand[row, :n, 0]
            order = [int(i) for i in np.lexsort((ids, ~key_of(votes[row, :n])))[:LEADING]]
            there = np.flatnonzero(ids == picked[row, 0])
            if len(there):
                place = int(there[0])
                order += [place] if place not in order else []
        n = int(words[0]) if found is not None else 0
        out[:12] = (
            words[4],
            n,
            *words[1:4],
            words[5],
            words[6],
            agents,
            swarm[slot, 1],
            len(order),
            picked[row, 0],
            place,
        )
        floats = out.view(np.float32)
        floats[HEAD : HEAD + 2 * agents : 2] = weight[slot, :agents]
        floats[HEAD + 1 : HEAD + 2 * agents : 2] = trust[slot, :agents]
        for entry, c in enumerate(order):
            assert found is not None
            at = HEAD + 16 + entry * ENTRY
            out[at : at + 5] = cand[row, c, 0], c, *cand[row, c, 1:]
            floats[at + 5 : at + 7] = found[2][c], found[1][:, c].sum()
            floats[at + 8 : at + 8 + agents] = score[row, :agents, c]
            floats[at + 16 : at + 16 + agents] = found[1][:, c]
    return ring
