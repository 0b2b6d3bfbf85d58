"""The kernels around the agents' interpreter: three agents over the best 256 tokens, and over a whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flux_vk.cli.bench_cases import MAX_ELEMENTS, Array, Case, Check, Prepared, Sizes, dispatch, same
from flux_vk.decode import SamplingParams
from flux_vk.decode.trace import TRACE_WORDS
from flux_vk.decode.words import pack_params
from flux_vk.gpu import kernels
from flux_vk.gpu.reference import flux_votes, reference

if TYPE_CHECKING:
    from flux_vk.gpu import Device

AGENTS, ROOM, BEST = 3, 8, 256
HISTORY, RING, TRACES = 1024, 256, 16
MOST_ROWS = 8
Outputs = dict[str, tuple[tuple[int, ...], str]]


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """Each kernel for as many rows as streams are decoded together, at most 8; the whole vocabulary for one."""
    few = [r for r in dict.fromkeys(min(r, MOST_ROWS) for r in rows) if r * sizes.vocab <= MAX_ELEMENTS]
    for r in few:
        for kernel in ("flux_moments", "flux_candidates"):
            yield Case(kernel, f"{r} x {sizes.vocab}", partial(_candidates, kernel, r, sizes.vocab, BEST))
        for kernel in ("flux_tally", "flux_vote", "flux_trust", "flux_trace"):
            yield Case(kernel, f"{r} x {AGENTS} agents x {BEST}", partial(_votes, kernel, r, sizes.vocab, BEST))
    yield Case("flux_ranked", f"1 x {sizes.vocab}", partial(_candidates, "flux_ranked", 1, sizes.vocab, sizes.vocab))
    for kernel in ("flux_tally", "flux_vote"):
        label = f"1 x {AGENTS} agents x {sizes.vocab}"
        yield Case(kernel, label, partial(_votes, kernel, 1, sizes.vocab, sizes.vocab))


def _swarm(r: int, candidates: int) -> dict[str, Array]:
    words = np.zeros((r, 8), np.uint32)
    words[:, 0], words[:, 3] = AGENTS, candidates
    words.view(np.float32)[:, 2] = 0.1
    ones = np.ones((r, ROOM), np.float32)
    return {"swarm": words, "weight": ones / 2, "trust": ones * np.float32(0.75)}


def _candidates(kernel: str, r: int, vocab: int, c: int, device: Device, rng: np.random.Generator) -> Prepared:
    logits = (3 * rng.standard_normal((r, vocab))).astype(np.float32)
    slots = np.arange(r, dtype=np.uint32)
    swarm = _swarm(r, c)
    groups, padded = -(-vocab // 4096), -(-vocab // 64) * 64
    given: dict[str, Array] = {"logits": logits, "row_slot": slots, **swarm}
    maxima, parts, consensus, keys = reference("flux_moments")(**given)
    if kernel == "flux_moments":
        outputs: Outputs = {"maxima": (maxima.shape, "u32"), "parts": ((r, groups, 4), "f32")}
        given["consensus"] = np.full((r, vocab), -np.inf, np.float32)
        checks: list[Check] = [
            ("maxima", same, maxima),
            ("parts", same, parts),
            ("consensus", _finite, _finite(consensus)),
        ]
        return _prepared(kernel, device, given, outputs, lambda: checks)
    given = {
        "logits": logits, "row_slot": slots, "row_pos": slots + np.uint32(100), "swarm": swarm["swarm"],
        "params": np.stack([pack_params(SamplingParams(seed=i)) for i in range(r)]),
        "history": rng.integers(0, vocab, (r, HISTORY)).astype(np.uint32),
        "hist_count": np.full(r, HISTORY, np.uint32),
    }  # fmt: skip
    made: dict[str, Array] = {"parts": parts.astype(np.float32)}
    if kernel == "flux_ranked":
        order = np.argsort(~keys, axis=1, kind="stable")
        assert order.shape == (r, padded)
        made |= {"keys": np.take_along_axis(keys, order, 1), "ids": order.astype(np.uint32)}
    else:
        made["maxima"] = maxima
    outputs = {"row_info": ((r, 8), "u32"), "cand": ((r, c, 4), "u32")}

    def expected() -> list[Check]:
        info, cand = reference(kernel)(**given, c=c)
        return [("cand", same, cand), ("row_info", _facts, _facts(info))]

    return _prepared(kernel, device, given | made, outputs, expected)


def _votes(kernel: str, r: int, vocab: int, c: int, device: Device, rng: np.random.Generator) -> Prepared:
    logits = np.sort((3 * rng.standard_normal((r, vocab))).astype(np.float32))[:, ::-1].copy()
    info, cand = np.zeros((r, 8), np.uint32), np.zeros((r, c, 4), np.uint32)
    info[:, 0], info[:, 4], info[:, 7] = c, 100, np.arange(r)
    cand[..., 0], cand[..., 1], cand[..., 3] = np.arange(c), logits[:, :c].view(np.uint32), 0xFFFFFFFF
    given: dict[str, Array] = {
        "row_info": info, "cand": cand, "score": (3 * rng.standard_normal((r, AGENTS, c))).astype(np.float32),
        **_swarm(r, c),
    }  # fmt: skip
    if kernel == "flux_tally":
        del given["weight"], given["trust"]
        tally = reference(kernel)(**given)
        return _prepared(kernel, device, given, {"tally": (tally.shape, "u32")}, lambda: [("tally", same, tally)])
    given["tally"] = reference("flux_tally")(**given)
    if kernel == "flux_vote":
        given["consensus"] = np.full((r, vocab), -np.inf, np.float32)
        want = reference(kernel)(**given)[0]
        return _prepared(kernel, device, given, {}, lambda: [("consensus", _finite, _finite(want))])
    given |= {"logits": logits, "picked": np.stack([np.full(r, 5), np.zeros(r)], 1).astype(np.uint32)}
    if kernel == "flux_trust":
        del given["weight"]
        given["traps"] = np.zeros((r, AGENTS, 2), np.uint32)
        outputs: Outputs = {"trust_ring": ((r, RING, ROOM), "f32"), "trap_ring": ((r, RING, ROOM, 2), "u32")}
        want, ring, _ = reference(kernel)(**given, r=RING)
        found: list[Check] = [("trust", same, want), ("trust_ring", _at_100, _at_100(ring))]
        return _prepared(kernel, device, given, outputs, lambda: found)
    votes = reference("flux_vote")(**given, consensus=np.zeros((r, vocab), np.float32))[1]
    given["votes"] = votes.astype(np.float32)
    outputs = {"trace_ring": ((r, TRACES, TRACE_WORDS), "u32")}

    def traced() -> list[Check]:
        ring = reference(kernel)(**given, t=TRACES)
        return [("trace_ring", _leading, _leading(ring)), ("trace_ring", _totals, _totals(ring))]

    return _prepared(kernel, device, given, outputs, traced)


def _prepared(
    kernel: str, device: Device, given: dict[str, Array], outputs: Outputs, checks: Callable[[], list[Check]]
) -> Prepared:
    buffers = {name: device.array(a) for name, a in given.items()}
    buffers |= {name: device.filled(shape, dtype, 0xFF) for name, (shape, dtype) in outputs.items()}
    scalars: dict[str, Any] = {}
    return Prepared(buffers, partial(dispatch, kernel, scalars), checks, kernels.contract(kernel).nmse)


def _finite(x: Array) -> Array:
    """Minus infinity as a number that can be compared."""
    return np.where(np.isneginf(x), -1e3, x)


def _facts(info: Array) -> Array:
    """Best logit, entropy and logsumexp."""
    return info.view(np.float32)[:, 1:4].copy()


def _at_100(ring: Array) -> Array:
    """What stands at the position of the rows."""
    return ring[:, 100].copy()


def _leading(ring: Array) -> Array:
    """Tokens of the leading candidates of the entries at position 100."""
    at = flux_votes.HEAD + 16
    return ring[:, 100 % TRACES, at : at + flux_votes.LEADING * flux_votes.ENTRY : flux_votes.ENTRY].copy()


def _totals(ring: Array) -> Array:
    at = flux_votes.HEAD + 16 + 6
    end = at + flux_votes.LEADING * flux_votes.ENTRY
    return ring[:, 100 % TRACES, at : end : flux_votes.ENTRY].copy().view(np.float32)
