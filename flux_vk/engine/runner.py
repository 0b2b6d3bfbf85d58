"""Runs steps of one model on one device: the recorded chains, the KV cache, the buffers that steps read and write.

Not for: text, stop rules, timings (generation.py). One step is prepared and submitted at a time, under `lock`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..decode import SamplerState, SamplingParams, add_sampling
from ..errors import ModelError
from ..gpu import Arena, Buffer, Chain, Device, Profile, Recorded
from ..models import ModelConfig, StepIO, Weights, build_step
from .pages import PAGE_SIZE, PagePool, pages_for
from .sequence import Sequence, Slots

LOGITS_BYTES = 64 << 20  # most that logits of one step may take
MAX_CHAINS = 48
RING = 256
HISTORY = 1024  # tokens a penalty can look back on


@dataclass(frozen=True)
class Limits:
    """What a runner is sized for. context: tokens of one sequence; kv_tokens: of all together."""

    context: int
    kv_tokens: int
    sequences: int
    kv_type: str
    max_rows: int
    context_shift: bool
    sinks: int = 1  # pages kept when the context is shifted


class Runner:
    """Steps of one model. Thread-safe where said: take `lock` around anything that submits."""

    def __init__(self, device: Device, config: ModelConfig, weights: Weights, limits: Limits) -> None:
        self.device = device
        self.config = config
        self.weights = weights
        self.limits = limits
        self.lock = threading.RLock()
        self.depth = 1 if device.kind == "cpu" else 2  # decode steps in flight
        self.pool = PagePool(pages_for(limits.kv_tokens))
        entries = pages_for(limits.context)
        sinks = min(limits.sinks, max(entries - 2, 0)) if limits.context_shift else 0
        self.slots = Slots(limits.sequences, self.pool, entries, sinks)
        self.max_logits = max(1, min(limits.max_rows, LOGITS_BYTES // (4 * config.vocab_size)))
        self._arena = Arena(device)
        self._chains: OrderedDict[tuple[Any, ...], Recorded] = OrderedDict()
        self._make_buffers(entries)

    def _make_buffers(self, entries: int) -> None:
        device, limits, config = self.device, self.limits, self.config
        shape = (self.pool.n_pages, config.n_kv_heads, PAGE_SIZE, config.head_dim)
        page_bytes = int(np.prod(shape[1:])) * (2 if limits.kv_type == "f16" else 4)
        if page_bytes * shape[0] > device.max_range:
            most = device.max_range // page_bytes * PAGE_SIZE
            raise ModelError(
                f"a KV cache of {limits.kv_tokens} tokens needs {page_bytes * shape[0]} bytes a layer, and this device "
                f"binds at most {device.max_range}; use a context of at most {most} tokens"
            )
        self.kcache = [device.empty(shape, limits.kv_type) for _ in range(config.n_layers)]
        self.vcache = [device.empty(shape, limits.kv_type) for _ in range(config.n_layers)]
        for cache in (*self.kcache, *self.vcache):
            if cache.memory.host is None:
                chain = Chain(device, name="clear KV")
                chain.fill(dst=cache)
                chain.run()
        rows = limits.max_rows
        self.ids = device.host((rows,), "u32")
        self.pos = device.host((rows,), "u32")
        self.slot = device.host((rows,), "u32")
        self.logit_rows = device.host((rows,), "u32")
        self.last_pos = device.host((1,), "u32")
        self.pages = device.zeros((limits.sequences, max(entries, 1)), "u32")
        self.slot_info = device.zeros((limits.sequences, 4), "u32")
        self._host_pages = np.zeros((limits.sequences, max(entries, 1)), np.uint32)
        self._host_info = np.zeros((limits.sequences, 4), np.uint32)
        step = device.alignment // 4
        numbers = np.zeros((limits.sequences, step), np.uint32)
        numbers[:, 0] = np.arange(limits.sequences)
        self._slot_numbers = device.array(numbers)  # row s holds the number s, each row bindable by itself
        self.logits = device.empty((self.max_logits, config.vocab_size))
        self.sampler = SamplerState(
            device, slots=limits.sequences, vocab=config.vocab_size, history=min(limits.context, HISTORY), ring=RING
        )

    # -- chains ---------------------------------------------------------------------------------------------------

    def _io(self, rows: int, n_logits: int, ids: Buffer, pos: Buffer, slot: Buffer) -> StepIO:
        return StepIO(
            ids=ids, pos=pos, slot=slot, logit_rows=self.logit_rows.rows(0, max(n_logits, 1)), pages=self.pages,
            slot_info=self.slot_info, kcache=self.kcache, vcache=self.vcache,
            logits=self.logits.rows(0, max(n_logits, 1)),
        )  # fmt: skip

    def prefill_chain(self, rows: int, n_logits: int, sample: bool, logprobs: bool = False) -> Chain:
        """A chain for `rows` prompt rows: the forward step, logits of `n_logits` rows, and sampling from the last."""
        chain = Chain(self.device, self._arena, name=f"prefill of {rows}")
        io = self._io(
            rows, n_logits, self.ids.rows(0, rows), self.pos.rows(0, rows), self.slot.rows(0, rows)
        )
        build_step(chain, self.config, self.weights, io, rows=rows, n_logits=n_logits)
        if sample:
            row_slot = self.slot.rows(0, 1)
            add_sampling(chain, self.sampler, io.logits, row_slot, self.last_pos, n=1, logprobs=logprobs)
        return chain

    def decode_chain(self, slot: int, logprobs: bool = False) -> Chain:
        """A chain for the next token of one slot: it reads its token and position from the device and advances them."""
        chain = Chain(self.device, self._arena, name="decode step")
        number = self._slot_numbers.rows(slot, slot + 1).cast("u32")
        number = Buffer(number.device, number.memory, number.offset, 4, "u32", (1,))
        ids, pos = chain.scratch((1,), "u32"), chain.scratch((1,), "u32")
        chain.fetch_rows(
            slot=number, slot_token=self.sampler.slot_token, slot_pos=self.sampler.slot_pos, ids=ids, pos=pos
        )
        io = self._io(1, 1, ids, pos, number)
        build_step(chain, self.config, self.weights, io, rows=1, n_logits=1)
        add_sampling(chain, self.sampler, io.logits, number, pos, n=1, logprobs=logprobs)
        return chain

    def _recorded(self, key: tuple[Any, ...]) -> Recorded:
        found = self._chains.get(key)
        if found is None:
            if key[0] == "decode":
                found = self.decode_chain(*key[1:]).record(copies=self.depth)
            else:
                found = self.prefill_chain(*key[1:]).record()
            self._chains[key] = found
            while len(self._chains) > MAX_CHAINS:
                _, old = self._chains.popitem(last=False)
                old.wait()
        self._chains.move_to_end(key)
        return found

    # -- steps ----------------------------------------------------------------------------------------------------

    def _sync_table(self, sequence: Sequence) -> None:
        table = sequence.table
        state = (len(table.entries), table.dropped)
        if state == sequence.synced:
            return
        s = sequence.slot
        self._host_pages[s, : len(table.entries)] = table.entries
        self._host_info[s, :2] = (table.sinks, table.dropped)
        self.pages.write(self._host_pages)
        self.slot_info.write(self._host_info)
        sequence.synced = state

    def chunk(self, sequence: Sequence, left: int, most: int) -> int:
        """Rows of the next prefill step. Where pages will be dropped, a step ends with its page, so that what a token
        sees does not depend on the chunks its prompt was cut into."""
        n = min(left, most)
        table, start = sequence.table, sequence.length
        if table.entry_of(start + n - 1) >= table.max_entries:
            n = min(n, PAGE_SIZE - start % PAGE_SIZE)
        return n

    def prefill(
        self, sequence: Sequence, ids: Seq[int], sample: bool = False, logits: bool = False, logprobs: bool = False
    ) -> npt.NDArray[np.float32] | None:
        """Run at most max_rows tokens (max_logits with `logits`) behind what is cached; waits for the result.

        sample: also draw the next token into the sampler's ring. logits: returns float32 [len(ids), vocabulary].
        Raises ContextFull, DeviceLost.
        """
        with self.lock:
            n, start = len(ids), sequence.length
            if sequence.table.reach(start + n - 1, self.limits.context_shift):
                self._drain()
            self._sync_table(sequence)
            self.ids.view()[:n] = ids
            self.pos.view()[:n] = np.arange(start, start + n, dtype=np.uint32)
            self.slot.view()[:n] = sequence.slot
            self.last_pos.view()[0] = start + n - 1
            n_logits = n if logits else 1 if sample else 0
            if n_logits and not logits:
                self.logit_rows.view()[0] = n - 1
            step = self._recorded(("prefill", n, n_logits, sample, sample and logprobs))
            step.submit()
            step.wait()
            sequence.cached.extend(ids)
            return self.logits.rows(0, n).numpy() if logits else None

    def start_decode(self, sequence: Sequence, ahead: int, logprobs: bool) -> None:
        """Submit one decode step, `ahead` positions behind the last known token. Raises ContextFull at the limit."""
        with self.lock:
            position = sequence.length + ahead
            if sequence.table.reach(position, self.limits.context_shift):
                self._drain()
            self._sync_table(sequence)
            self._recorded(("decode", sequence.slot, logprobs)).submit()

    def finish_decode(self, sequence: Sequence, logprobs: bool) -> None:
        """Wait for the oldest decode step of this sequence that is in flight."""
        with self.lock:
            step = self._recorded(("decode", sequence.slot, logprobs))
        step.wait_oldest()

    def drain_decode(self, sequence: Sequence) -> None:
        """Wait for all decode steps of this sequence."""
        with self.lock:
            found = [r for k, r in self._chains.items() if k[:2] == ("decode", sequence.slot)]
        for recorded in found:
            recorded.wait()

    def _drain(self) -> None:
        for recorded in self._chains.values():
            recorded.wait()

    def set_sampling(self, sequence: Sequence, params: SamplingParams, history: Seq[int]) -> None:
        """Set a slot's sampling parameters and history; `history` are the tokens up to now."""
        with self.lock:
            self._drain()
            self.sampler.set_slot(sequence.slot, params, list(history), len(history))

    def open_sequence(self, timeout: float | None = None) -> Sequence:
        """A new sequence; waits while all slots are taken."""
        return self.slots.acquire(timeout)

    def close_sequence(self, sequence: Sequence) -> None:
        """Give back a sequence's slot and pages."""
        self.drain_decode(sequence)
        with self.lock:
            self.slots.release(sequence)

    def profile_prefill(self, rows: int, repeat: int = 1) -> Profile:
        """Times of a prefill of `rows` rows by kernel (on whatever the buffers hold)."""
        with self.lock:
            self._drain()
            self.ids.view()[:rows] = 0
            self.pos.view()[:rows] = np.arange(rows, dtype=np.uint32)
            self.slot.view()[:rows] = 0
            return self.prefill_chain(rows, 1, False).profile(repeat)

    def profile_decode(self, sequence: Sequence, repeat: int = 1) -> Profile:
        """Times of a decode step by kernel. Advances the sequence's device state."""
        with self.lock:
            self._drain()
            sequence.table.reach(sequence.length + repeat)
            self._sync_table(sequence)
            return self.decode_chain(sequence.slot).profile(repeat)

    def close(self) -> None:
        """Wait for everything and let go of chains and buffers."""
        self.slots.close()
        with self.lock:
            self._drain()
            self._chains.clear()
