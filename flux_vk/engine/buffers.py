"""The device memory of a runner: KV pages, rows that a step reads, page tables, logits, the sampler's state.

Not for: what is written into it (runner.py) or how much of it is free (pages.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..decode import AgentState, SamplerState
from ..errors import ModelError
from ..gpu import Arena, Buffer, Chain, Device
from ..models import ModelConfig, StepIO, Weights
from ..models.step import CHUNK_PAGES, attention_blocks, grid_arguments
from .batch import SIZES, size_for
from .pages import PAGE_SIZE, PageTable, pages_for

LOGITS_BYTES = 64 << 20  # most that logits of one step may take
STEP_ROWS = {"cpu": 64, "gpu": 256}  # most prompt tokens of one step, by family of kernels
RING = 256
HISTORY = 1024  # tokens a penalty can look back on
MIN_HISTORY = 256  # even in a smaller context


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

    @property
    def history(self) -> int:
        """Tokens a penalty can look back on."""
        return HISTORY if self.context_shift else max(MIN_HISTORY, min(self.context, HISTORY))

    def logit_rows(self, vocab: int) -> int:
        """Rows whose logits one step can give."""
        return max(1, min(self.max_rows, LOGITS_BYTES // (4 * vocab)))


def check_kv_range(device: Device, config: ModelConfig, limits: Limits) -> None:
    """Raises ModelError where a layer's keys (or values) are more than the device can bind as one range."""
    page = PAGE_SIZE * config.n_kv_heads * config.head_dim * (2 if limits.kv_type == "f16" else 4)
    if page * pages_for(limits.kv_tokens) > device.max_range:
        most = device.max_range // page * PAGE_SIZE
        raise ModelError(
            f"a KV cache of {limits.kv_tokens} tokens needs {page * pages_for(limits.kv_tokens)} bytes a layer, and "
            f"{device.name} binds at most {device.max_range}; use at most {most} tokens (context, kv_tokens)"
        )


def decode_scratch(device: Device, config: ModelConfig, limits: Limits, row_bytes: int) -> int:
    """Bytes of scratch that the largest decode step wants; row_bytes: of a row without what shares its context."""
    chunks = -(-pages_for(limits.context) // CHUNK_PAGES[device.family])
    shared = 4 * config.n_heads * chunks * (config.head_dim + 4) if chunks > 1 else 0
    return size_for(min(limits.sequences, SIZES[-1])) * (row_bytes + shared)


class EngineBuffers:
    """Everything of a runner that lives on the device. Letting go of it gives the memory back.

    scratch: bytes that the largest step will want, taken at once; otherwise every larger chain leaves a smaller arena
    behind. Raises ModelError where the cache cannot be bound, OutOfDeviceMemory where the device refuses an allocation.
    """

    def __init__(self, device: Device, config: ModelConfig, weights: Weights, limits: Limits, scratch: int = 0) -> None:
        check_kv_range(device, config, limits)
        self.weights = weights
        self.arena = Arena(device)
        if scratch:
            self.arena.memory(scratch)
        shape = (pages_for(limits.kv_tokens), config.n_kv_heads, PAGE_SIZE, config.head_dim)
        self.kcache = [device.empty(shape, limits.kv_type) for _ in range(config.n_layers)]
        self.vcache = [device.empty(shape, limits.kv_type) for _ in range(config.n_layers)]
        for cache in (*self.kcache, *self.vcache):
            if cache.memory.host is None:
                chain = Chain(device, name="clear KV")
                chain.fill(dst=cache)
                chain.run()
        rows, slots = limits.max_rows, limits.sequences
        self.ids = device.host((rows,), "u32")
        self.pos = device.host((rows,), "u32")
        self.slot = device.host((rows,), "u32")
        self.logit_row = device.host((SIZES[-1],), "u32")  # rows of a prompt step that tokens are drawn from,
        self.last_pos = device.host((SIZES[-1],), "u32")  # their positions
        self.last_slot = device.host((SIZES[-1],), "u32")  # and slots
        self.pages = device.zeros((slots, pages_for(limits.context)), "u32")
        self.slot_info = device.zeros((slots, 4), "u32")
        self.counters = device.zeros((max(slots, SIZES[-1]) * attention_blocks(config),), "u32")
        self._grid_sizes = grid_arguments(device, config, PAGE_SIZE)
        # Slot numbers of the rows of decode steps, by group; each row bindable by itself.
        self._group_slots = device.host((slots, max(SIZES[-1], device.alignment // 4)), "u32")
        self.logits = device.empty((limits.logit_rows(config.vocab_size), config.vocab_size))
        self._agents: AgentState | None = None
        self._own_logits: dict[tuple[int, int], Buffer] = {}
        self.sampler = SamplerState(device, slots=slots, vocab=config.vocab_size, history=limits.history, ring=RING)

    def group_slots(self, group: int) -> Buffer:
        """The buffer u32[32] of a group's slot numbers, visible to the host."""
        row = self._group_slots.rows(group, group + 1)
        return row.reshape(row.shape[1]).rows(0, SIZES[-1])

    @property
    def agents(self) -> AgentState:
        """The slots' swarms, taken when first asked for. Raises OutOfDeviceMemory."""
        if self._agents is None:
            s = self.sampler
            self._agents = AgentState(self.arena.device, slots=s.slots, vocab=s.vocab, ring=RING)
        return self._agents

    def clear_agents(self, slot: int) -> None:
        """Nobody votes for this slot's tokens."""
        if self._agents is not None:
            self._agents.clear_slot(slot)

    def own_logits(self, group: int, rows: int) -> Buffer:
        """Logits f32[rows, V] that no other group writes, for steps in two halves; taken when first asked for.

        Raises OutOfDeviceMemory.
        """
        found = self._own_logits.get((group, rows))
        if found is None:
            found = self._own_logits[group, rows] = self.arena.device.empty((rows, self.logits.shape[1]))
        return found

    def step_grid(self, chain: Chain) -> tuple[Buffer | None, dict[str, int]]:
        """A grid for a chain's attention and the numbers `fetch_rows` fills it from; none where one chunk holds all."""
        if self.pages.shape[1] <= CHUNK_PAGES[chain.device.family]:
            return None, {}
        return chain.scratch((2, 4), "u32"), self._grid_sizes

    def step_io(
        self, ids: Buffer, pos: Buffer, slot: Buffer, n_logits: int, grid: Buffer | None = None, context: int = 1
    ) -> StepIO:
        """The buffers of a forward step over these rows with n_logits rows of logits; grid: of at most a row a slot."""
        return StepIO(
            ids=ids, pos=pos, slot=slot, logit_rows=self.logit_row, pages=self.pages, slot_info=self.slot_info,
            kcache=self.kcache, vcache=self.vcache, logits=self.logits.rows(0, max(n_logits, 1)),
            grid=grid, counters=self.counters, context=context,
        )  # fmt: skip

    def write_table(self, slot: int, table: PageTable) -> None:
        """Bring a slot's row of the page tables up to date. No step of this slot may be running where pages moved."""
        row = np.zeros(self.pages.shape[1], np.uint32)
        row[: len(table.entries)] = table.entries
        self.pages.rows(slot, slot + 1).write(row)
        self.slot_info.rows(slot, slot + 1).write(np.array([table.sinks, table.dropped, 0, 0], np.uint32))
