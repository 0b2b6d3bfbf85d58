"""Runs steps of one model on one device: the recorded chains, and what has to be written before each is submitted.

Not for: text, stop rules, timings (loop.py, stream.py). One step is prepared and submitted at a time, under `lock`.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import numpy.typing as npt

from ..decode import Breakers, SamplerState, SamplingParams, add_sampling
from ..decode.drawing import Drawing
from ..errors import ArgumentError, FluxError, VulkanError
from ..gpu import Chain, Device, Profile, Recorded
from ..gpu.pipelines import Key, first_steps, make_all, warm
from ..gpu.steps import Dispatch, Step
from ..models import ModelConfig, Weights
from ..settings import settings
from .background import Background
from .batch import PADDING, PLAIN, Batch, size_for
from .buffers import EngineBuffers, Limits
from .chains import ChainBuilder
from .pages import PAGE_SIZE, PagePool, pages_for
from .sequence import Sequence, Slots

log = logging.getLogger("flux_vk.engine")

SHORT_STEP_BYTES = 32 << 20
"""Weights of which a CPU driver makes a token in a few milliseconds: a step thrown away costs less than Python's share
of all others, so that two are in flight as on a GPU."""
PREFILL_CHAINS = 48  # kept recorded; two decode chains for every slot are kept besides


def rows_for(n: int, family: str, most: int) -> int:
    """Rows of the chain that runs n prompt tokens: a few sizes serve all prompts, the rest is padding.

    Recording a chain takes longer than rows of padding do, up to the tokens that a tile of the matrix products has.
    """
    tile = 8 if family == "gpu" else 4
    rows = next((r for r in (1, 2, 4) if r >= n), -(-n // tile) * tile)
    return rows if rows <= most else n


class Runner(ChainBuilder):
    """Steps of one model. Thread-safe where said: take `lock` around anything that submits."""

    def __init__(self, device: Device, config: ModelConfig, weights: Weights, limits: Limits, scratch: int = 0) -> None:
        self.device = device
        self.config = config
        self.limits = limits
        self.lock = threading.RLock()
        long_step = device.kind == "cpu" and weights.nbytes > SHORT_STEP_BYTES
        self.depth = settings().steps_ahead or (1 if long_step else 2)  # decode steps in flight
        self.pool = PagePool(pages_for(limits.kv_tokens))
        entries = pages_for(limits.context)
        sinks = min(limits.sinks, max(entries - 2, 0)) if limits.context_shift else 0
        self.slots = Slots(limits.sequences, self.pool, entries, sinks)
        self.max_logits = limits.logit_rows(config.vocab_size)
        self._groups = list(range(limits.sequences - 1, -1, -1))  # of slot numbers, free
        self._chains: OrderedDict[tuple[Any, ...], Recorded] = OrderedDict()
        self._buffers: EngineBuffers | None = EngineBuffers(device, config, weights, limits, scratch)

    @property
    def buffers(self) -> EngineBuffers:
        """The device memory. Raises FluxError after close()."""
        if self._buffers is None:
            raise FluxError("the model is closed; load it again")
        return self._buffers

    @property
    def sampler(self) -> SamplerState:
        return self.buffers.sampler

    # -- chains ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the kernels of the largest prefill step: all that the first token of a text takes. Those of decoding are
        made, several at a time, when their chain is recorded; making them here would put off the first token.

        Needs the places of all buffers, not what is in them: it may run while the weights are on their way.
        """
        running: list[Any] = []

        def make(steps: Mapping[Key, Dispatch], threads: int | None = None) -> None:
            def made(key: Key) -> None:
                if self.device.kind == "cpu":
                    running.append(warm(self.device, steps[key]))

            make_all(self.device, steps, made, threads)

        b = self.buffers
        sampling = Chain(self.device, b.arena, name="sampling")
        add_sampling(sampling, b.sampler, b.logits, b.group_slots(0).rows(0, 1), b.last_pos, n=1)
        try:
            with Background() as background:
                # The sampler's kernels do not depend on the model, and one of them is the longest to compile.
                first = first_steps(sampling.steps)
                background.start(lambda: make(first, threads=1))
                rest = first_steps(self._largest_prefill())
                make({key: step for key, step in rest.items() if key not in first})
        finally:
            for recording in running:
                recording.wait()

    def _largest_prefill(self) -> list[Step]:
        """The steps of a prompt as long as one step takes; none where such a step exceeds the device's bindings."""
        try:
            return self.prefill_chain(self.limits.max_rows, 1, True).steps
        except ArgumentError as error:
            log.debug("kernels of prefill are made when they are used: %s", error)
            return []

    def recorded(self, key: tuple[Any, ...]) -> Recorded:
        """The chain of a key (see `chain_for`), recorded when it is first asked for."""
        found = self._chains.get(key)
        if found is None:
            # A forward pass is submitted while the one before may still be running.
            copies = {"decode": self.depth, "forward": 2}.get(key[0], 1)
            found = self.chain_for(key).record(copies=copies)
            self._chains[key] = found
            while len(self._chains) > PREFILL_CHAINS + 2 * self.limits.sequences:
                _, old = self._chains.popitem(last=False)
                old.wait()
        self._chains.move_to_end(key)
        return found

    # -- steps ----------------------------------------------------------------------------------------------------

    def reach(self, sequence: Sequence, position: int) -> None:
        """Give a position its page, here and in the device's copy of the page table."""
        table = sequence.table
        if table.reach(position, self.limits.context_shift):
            self._drain()
        if table.version != sequence.synced:
            self.buffers.write_table(sequence.slot, table)
            sequence.synced = table.version

    def chunk(self, sequence: Sequence, left: int, most: int) -> int:
        """Rows of the next prefill step. Where pages will be dropped, a step ends with its page, so that what a token
        sees does not depend on the chunks its prompt was cut into."""
        n = min(left, most)
        table, start = sequence.table, sequence.length
        if table.entry_of(start + n - 1) >= table.max_entries:
            n = min(n, PAGE_SIZE - start % PAGE_SIZE)
        return n

    def prefill(
        self, sequence: Sequence, ids: Seq[int], sample: bool = False, logits: bool = False, drawing: Drawing = PLAIN
    ) -> npt.NDArray[np.float32] | None:
        """Run at most max_rows tokens (max_logits with `logits`) behind what is cached; waits for the result.

        sample: also draw the next token into the sampler's ring, with what `drawing` says. logits: returns float32
        [len(ids), vocabulary]. Raises ContextFull, DeviceLost.
        """
        with self.lock:
            b, n = self.buffers, len(ids)
            self._write_rows([(sequence, ids)])
            rows = rows_for(n, self.device.family, self.max_logits if logits else self.limits.max_rows)
            n_logits = rows if logits else 1 if sample else 0
            self._run_rows(rows, n_logits, sample, drawing)
            sequence.cached.extend(ids)
            return b.logits.rows(0, n).numpy() if logits else None

    def prefill_jointly(self, parts: Seq[tuple[Sequence, Seq[int]]], drawing: Drawing = PLAIN) -> None:
        """Run the prompts of several sequences (at most max_rows tokens together) and draw the next token of each.

        Raises ContextFull, DeviceLost.
        """
        with self.lock:
            family, most = self.device.family, self.limits.max_rows
            n, draws = sum(len(ids) for _, ids in parts), size_for(len(parts))
            self._write_rows(parts)
            rows = rows_for(max(n, draws), family, most)
            if rows == draws and n > len(parts):  # a step with as many logits as rows has them in the rows' order
                rows = rows_for(rows + 1, family, most)
            self._run_rows(rows, draws, True, drawing)
            for sequence, ids in parts:
                sequence.cached.extend(ids)

    def _write_rows(self, parts: Seq[tuple[Sequence, Seq[int]]]) -> None:
        """Write the rows of a prompt step, each part behind what its sequence has cached."""
        b, at = self.buffers, 0
        b.logit_row.view()[:], b.last_pos.view()[:], b.last_slot.view()[:] = 0, 0, PADDING
        b.slot.view()[:] = PADDING
        for i, (sequence, ids) in enumerate(parts):
            start, end = sequence.length, at + len(ids)
            self.reach(sequence, start + len(ids) - 1)
            b.ids.view()[at:end] = ids
            b.pos.view()[at:end] = np.arange(start, start + len(ids), dtype=np.uint32)
            b.slot.view()[at:end] = sequence.slot
            b.logit_row.view()[i], b.last_slot.view()[i] = end - 1, sequence.slot
            b.last_pos.view()[i] = start + len(ids) - 1
            at = end
        b.ids.view()[at:], b.pos.view()[at:] = 0, 0

    def _run_rows(self, rows: int, n_logits: int, sample: bool, drawing: Drawing) -> None:
        step = self.recorded(("prefill", rows, n_logits, sample, drawing if sample else PLAIN))
        step.submit()
        step.wait()

    def open_batch(self) -> Batch:
        """What runs decode steps, for one thread that holds a sequence. Hand it back with its close()."""
        with self.lock:
            return Batch(self, self._groups.pop())

    def close_batch(self, batch: Batch) -> None:
        """Used by batches: nothing of this one is in flight any more."""
        with self.lock:
            self._groups.append(batch.group)

    def _drain(self) -> None:
        for recorded in list(self._chains.values()):
            recorded.wait()

    def set_sampling(
        self, sequence: Sequence, params: SamplingParams, history: Seq[int],
        carry: npt.NDArray[np.float32] | None = None, breakers: Breakers | None = None,
    ) -> None:  # fmt: skip
        """Set a slot's sampling parameters and history; `history` are the tokens up to now. carry: what the sampler
        goes on with behind the last of them, where it drew them; breakers: those of DRY."""
        with self.lock:
            self._drain()
            self.sampler.set_slot(sequence.slot, params, list(history), len(history), carry, breakers)

    def rewind(
        self, sequence: Sequence, params: SamplingParams, tokens: Seq[int],
        carry: npt.NDArray[np.float32] | None = None, breakers: Breakers | None = None,
    ) -> None:  # fmt: skip
        """Let a slot forget what steps that ran ahead have drawn: `tokens` are those up to now, the last not cached."""
        with self.lock:
            self._drain()
            self.sampler.set_slot(sequence.slot, params, list(tokens), len(tokens) - 1, carry, breakers)

    # -- sequences ------------------------------------------------------------------------------------------------

    def open_sequence(self, timeout: float | None = None) -> Sequence:
        """A new sequence; waits while all slots are taken."""
        sequence = self.slots.acquire(timeout)
        assert sequence is not None, "only a cancelled caller gets none"
        return sequence

    def try_open(self, cancelled: Callable[[], bool], wait: bool = True) -> Sequence | None:
        """A new sequence; waits while all slots are taken, until `cancelled` (then None); None also if not to wait."""
        return self.slots.acquire(None, cancelled, wait)

    def close_sequence(self, sequence: Sequence) -> None:
        """Give back a sequence's slot and pages. No step of it may be in flight."""
        with self.lock:
            self.slots.release(sequence)

    # -- figures --------------------------------------------------------------------------------------------------

    def profile_prefill(self, sequence: Sequence, rows: int, repeat: int = 1) -> Profile:
        """Times of a prefill of `rows` rows by kernel, written over the beginning of a sequence."""
        with self.lock:
            self._drain()
            b = self.buffers
            self.reach(sequence, rows - 1)
            b.ids.view()[:rows] = 0
            b.pos.view()[:rows] = np.arange(rows, dtype=np.uint32)
            b.slot.view()[:rows] = sequence.slot
            b.logit_row.view()[0] = rows - 1
            return self.prefill_chain(rows, 1, False, context=(rows + 1) // 2).profile(repeat)

    def profile_decode(self, sequence: Sequence, repeat: int = 1, drawing: Drawing = PLAIN) -> Profile:
        """Times of a decode step by kernel. Advances the sequence's device state."""
        with self.lock:
            self._drain()
            self.reach(sequence, sequence.length + 2 * repeat + 1)
            batch = self.open_batch()
            batch.compose([sequence])
            try:
                long, context = self.is_long(sequence.length), sequence.length + 1
                return self.decode_chain(1, batch.group, drawing, long, context).profile(repeat)
            finally:
                batch.close()

    def close(self) -> None:
        """Wait for everything and let go of chains and memory, even where someone still holds this runner."""
        self.slots.close()
        with self.lock:
            for recorded in self._chains.values():
                try:
                    recorded.wait()
                except VulkanError as error:
                    log.debug("closing: %s", error)
            self._chains.clear()
            self._buffers = None
