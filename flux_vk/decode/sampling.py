"""Appends sampling to a chain: six to eight kernels turn logits into tokens, with nothing for the CPU to decide.

Not for: models (they write the logits) or sequences (the engine fills row_slot and row_pos).
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import InputError
from ..gpu.buffer import Buffer
from ..gpu.chain import Chain
from ..gpu.fusion import give_maxima
from .agents import AgentState
from .drawing import Drawing
from .params import MAX_BIAS
from .state import TOP_WORDS, SamplerState
from .voting import add_agents, add_trust, row_bytes

PLAIN = Drawing()
BLOCKS_PER_GROUP = 64
LOGITS_PER_GROUP = 4096
SHORT_LIST = 512  # CAP in shaders/include/sample_math.glsl: smaller vocabularies are always sorted whole
_ROWS_STEP = 64  # windows start at multiples of it, which satisfies every device's offset alignment
_MAX_ROWS = 1 << 15  # below the smallest limit on a grid's axis


def add_sampling(
    chain: Chain,
    state: SamplerState,
    logits: Buffer,
    row_slot: Buffer,
    row_pos: Buffer,
    n: int,
    *,
    drawing: Drawing = PLAIN,
    exact: bool = False,
    agents: AgentState | None = None,
) -> None:
    """Sample one token for each of the first `n` rows.

    logits f32[M, V] (bias and penalties are written into it and taken out again), row_slot u32[M] (slots differ from
    row to row; a row whose slot is not below `state.slots` is left out), row_pos u32[M], position of the row's token:
    the new one stands at row_pos + 1.
    Writes slot_token, slot_pos, history, ring and, for slots that ask, log-probabilities. drawing: what the slots of
    these rows ask for at most; kernels that none of them needs are left out. `exact=True` turns the short lists off:
    every row goes by the selection over the whole vocabulary, with the same tokens. agents: the slots' swarms, whose
    votes take the place of the logits where `drawing` says so.
    """
    if drawing.agents and agents is None:
        raise InputError(f"drawing.agents is {drawing.agents}, and no agents are given; expected an AgentState")
    if logits.shape[1:] != (state.vocab,):
        raise InputError(f"logits have shape {list(logits.shape)}; expected rows of {state.vocab}")
    for name, buffer in (("logits", logits), ("row_slot", row_slot), ("row_pos", row_pos)):
        if not 0 <= n <= buffer.shape[0]:
            raise InputError(f"{name} has {buffer.shape[0]} rows; expected at least n = {n}")
    limit = chain.device.max_range
    fit = min(limit // max(4 * state.vocab, row_bytes(drawing, state.vocab)), _MAX_ROWS)
    window = fit if fit >= n else max(fit // _ROWS_STEP, 1) * _ROWS_STEP
    for start in range(0, n, window):
        stop = min(start + window, n)
        part = [b.rows(start, stop) for b in (logits, row_slot, row_pos)]
        _add_rows(chain, state, part[0], part[1], part[2], drawing, exact, agents)


def _pick_width(chain: Chain) -> int:
    """Threads that work on a row: a CPU driver runs them one after another and pays for every barrier."""
    return 64 if chain.device.family == "cpu" else 256


def ordered_width(family: str, vocab: int) -> int:
    """Threads of sample_ordered. Barriers between few cost little on a CPU driver, but Mesa's ends every loop once an
    invocation has gone through 65,535 iterations: at these widths no order of samplers comes near it."""
    if family != "cpu":
        return 256
    return next((width for width in (8, 16, 32) if vocab <= 2048 * width), 64)


def _add_rows(
    chain: Chain, state: SamplerState, logits: Buffer, row_slot: Buffer, row_pos: Buffer, drawing: Drawing, exact: bool,
    agents: AgentState | None,
) -> None:  # fmt: skip
    rows, vocab = logits.shape
    blocks = -(-vocab // LOGITS_PER_GROUP) * BLOCKS_PER_GROUP
    s = state
    top = None
    if drawing.logprobs:
        sums = chain.scratch((rows, blocks), "f32")
        raw_maxima = chain.scratch((rows, blocks), "u32")
        top = chain.scratch((rows, TOP_WORDS), "u32")
        chain.sample_stats(logits=logits, row_slot=row_slot, params=s.params, maxima=raw_maxima, sums=sums)
        chain.sample_top(
            logits=logits, row_slot=row_slot, params=s.params, maxima=raw_maxima, sums=sums, top=top,
            WG=_pick_width(chain),
        )  # fmt: skip
    # Samplers change logits: those of the model, which sample_commit puts right again, or others in scratch.
    model_logits, vote = logits, None
    if drawing.masked or drawing.banned:
        logits = s.masks.add(chain, logits, row_slot)
    if agents is not None and drawing.agents:
        vote = add_agents(chain, agents, state, logits, row_slot, row_pos, drawing)
        logits = vote.consensus
    if drawing.complete and logits is model_logits:
        logits = chain.scratch(model_logits.shape)
        chain.copy(src=model_logits, dst=logits)
    saved = chain.scratch((rows, MAX_BIAS + s.history_size, 2), "u32")
    picked = chain.scratch((rows, 2), "u32")
    by_mass = vocab > SHORT_LIST and not exact
    mass, maxima, both = _zeroed(chain, rows, blocks)
    found = give_maxima(chain, logits, maxima, both if by_mass else maxima)
    chain.sample_adjust(
        logits=logits, row_slot=row_slot, params=s.params, bias_id=s.bias_id, bias=s.bias, history=s.history,
        hist_count=s.hist_count, saved=saved, maxima=maxima if found else None,
    )  # fmt: skip
    changes = chain.scratch((rows, 2, s.history_size + 1, 2), "u32") if drawing.complete else None
    if changes is not None:
        chain.sample_repeats(
            logits=logits, row_slot=row_slot, order=s.order, breaker_bits=s.breaker_bits, breakers=s.breakers,
            history=s.history, hist_count=s.hist_count, changes=changes, WG=128 if s.history_size <= 1024 else 256,
        )  # fmt: skip
    if not found:
        chain.sample_stats(logits=logits, row_slot=row_slot, params=s.params, maxima=maxima)
    if by_mass:
        if not found:
            chain.fill(dst=mass)
        chain.sample_mass(logits=logits, row_slot=row_slot, params=s.params, maxima=maxima, mass=mass)
    chain.sample_pick(
        logits=logits, row_slot=row_slot, row_pos=row_pos, params=s.params, maxima=maxima, picked=picked,
        mass=mass if by_mass else None, exact=int(exact), WG=_pick_width(chain),
    )  # fmt: skip
    if changes is not None:
        chain.sample_ordered(
            logits=logits, row_slot=row_slot, row_pos=row_pos, params=s.params, order=s.order, maxima=maxima,
            changes=changes, carry=s.carry_ring, picked=picked, exact=int(exact),
            WG=ordered_width(chain.device.family, s.vocab),
        )  # fmt: skip
    if vote is not None:
        add_trust(chain, vote, picked)
    results = {"top": top} if top is not None else {}
    chain.sample_commit(
        logits=model_logits, row_slot=row_slot, row_pos=row_pos, params=s.params, saved=saved, picked=picked,
        restore=int(logits is model_logits), slot_token=s.slot_token, slot_pos=s.slot_pos, history=s.history,
        hist_count=s.hist_count, ring=s.ring, lp_ring=s.lp_ring, status=s.status, B=MAX_BIAS, **results,
    )  # fmt: skip


def _zeroed(chain: Chain, rows: int, blocks: int) -> tuple[Buffer, Buffer, Buffer]:
    """Scratch for mass u32[rows, 256, 2] and for maxima u32[rows, blocks], and both as one range, for one fill."""
    whole = chain.scratch((rows, 512 + blocks), "u32")
    at = 4 * rows * 512
    mass = replace(whole, nbytes=at, shape=(rows, 256, 2))
    maxima = replace(whole, offset=whole.offset + at, nbytes=4 * rows * blocks, shape=(rows, blocks))
    return mass, maxima, whole
