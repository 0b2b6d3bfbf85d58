"""The chains of an engine: prompts, decode steps whole, and decode steps in two halves.

Not for: recording and submitting them (runner.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..decode import add_sampling
from ..decode.drawing import Drawing
from ..gpu import Buffer, Chain, Device
from ..models import ModelConfig, build_step
from ..models.step import CHUNK_PAGES, attention_blocks
from .batch import PLAIN
from .buffers import EngineBuffers
from .pages import PAGE_SIZE


class ChainBuilder:
    """Chains over the buffers of an engine. Building one runs nothing."""

    device: Device
    config: ModelConfig

    @property
    def buffers(self) -> EngineBuffers:
        """The device memory."""
        raise NotImplementedError

    def chain_for(self, key: tuple[Any, ...]) -> Chain:
        """The chain of a key: "prefill", "decode", "forward" or "draw", then the arguments of its method."""
        methods: dict[str, Callable[..., Chain]] = {
            "prefill": self.prefill_chain, "decode": self.decode_chain, "forward": self.forward_chain,
            "draw": self.draw_chain,
        }  # fmt: skip
        return methods[key[0]](*key[1:])

    def prefill_chain(
        self, rows: int, n_logits: int, sample: bool, drawing: Drawing = PLAIN, context: int = 1
    ) -> Chain:
        """A chain for `rows` prompt rows: the forward step, logits of `n_logits` rows, and sampling from them.

        context: keys that a row sees on average, for a profile alone.
        """
        b = self.buffers
        chain = Chain(self.device, b.arena, name=f"prefill of {rows}")
        io = b.step_io(b.ids.rows(0, rows), b.pos.rows(0, rows), b.slot.rows(0, rows), n_logits, context=context)
        build_step(chain, self.config, b.weights, io, rows=rows, n_logits=n_logits, prompt=True)
        if sample:
            self._add_draw(chain, io.logits, b.last_slot, b.last_pos, n_logits, drawing)
        return chain

    def decode_chain(
        self, rows: int = 1, group: int = 0, drawing: Drawing = PLAIN, long: bool = False, context: int = 1
    ) -> Chain:
        """A chain for the next tokens of the `rows` slots whose numbers stand in a group's buffer.

        Tokens and positions are read from the device and advanced there; rows whose number is no slot are left out.
        long: attention is a kernel of its own, and where cores would be idle workgroups share the chunks of a context,
        as many as there are when the step runs; otherwise it may be part of another kernel. The bits are the same.
        context: tokens, for a profile only.
        """
        b = self.buffers
        chain = Chain(self.device, b.arena, name="decode step" if rows == 1 else f"decode of {rows}")
        slots = b.group_slots(group).rows(0, rows)
        logits = b.logits.rows(0, rows)
        pos = self._add_forward(chain, slots, logits, long, context)
        self._add_draw(chain, logits, slots, pos, rows, drawing)
        return chain

    def forward_chain(self, rows: int, group: int, long: bool = False) -> Chain:
        """The first half of such a step: the logits behind each slot's newest token, in a buffer of the group's own.

        It changes nothing that the next token or another forward pass would notice.
        """
        b = self.buffers
        chain = Chain(self.device, b.arena, name=f"forward of {rows}")
        self._add_forward(chain, b.group_slots(group).rows(0, rows), b.own_logits(group, rows), long, context=1)
        return chain

    def draw_chain(self, rows: int, group: int, drawing: Drawing) -> Chain:
        """The second half: the next tokens, from the logits that the forward pass of this group left."""
        b = self.buffers
        chain = Chain(self.device, b.arena, name=f"draw of {rows}")
        slots = b.group_slots(group).rows(0, rows)
        ids, pos = chain.scratch((rows,), "u32"), chain.scratch((rows,), "u32")
        chain.fetch_rows(slot=slots, slot_token=b.sampler.slot_token, slot_pos=b.sampler.slot_pos, ids=ids, pos=pos)
        self._add_draw(chain, b.own_logits(group, rows), slots, pos, rows, drawing)
        return chain

    def _add_draw(self, chain: Chain, logits: Buffer, slots: Buffer, pos: Buffer, rows: int, drawing: Drawing) -> None:
        """What turns the logits of `rows` rows into tokens."""
        b = self.buffers
        agents = b.agents if drawing.agents else None
        add_sampling(chain, b.sampler, logits, slots, pos, n=rows, drawing=drawing, agents=agents)

    def _add_forward(self, chain: Chain, slots: Buffer, logits: Buffer, long: bool, context: int) -> Buffer:
        """The forward pass behind the newest tokens of some slots; their positions."""
        b, rows = self.buffers, slots.shape[0]
        ids, pos = chain.scratch((rows,), "u32"), chain.scratch((rows,), "u32")
        grid, sizes = b.step_grid(chain) if long and self._idle(rows) else (None, {})
        chain.fetch_rows(
            slot=slots, slot_token=b.sampler.slot_token, slot_pos=b.sampler.slot_pos, ids=ids, pos=pos,
            slot_info=b.slot_info if grid else None, grid=grid, **sizes,
        )  # fmt: skip
        io = replace(b.step_io(ids, pos, slots, rows, grid, context), logits=logits)
        if long and grid is None:
            io = replace(io, counters=None)  # nothing is fused with attention then
        build_step(chain, self.config, b.weights, io, rows=rows, n_logits=rows)
        return pos

    def is_long(self, position: int) -> bool:
        """Whether a decode step with its furthest row at this position takes the chain for long contexts, those of more
        than one chunk of attention."""
        return position >= CHUNK_PAGES[self.device.family] * PAGE_SIZE

    def _idle(self, rows: int) -> bool:
        """Whether attention over these rows leaves processors idle that could take chunks of its contexts."""
        return self.device.family != "cpu" or rows * attention_blocks(self.config) < (os.cpu_count() or 1)
