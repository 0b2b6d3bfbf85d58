"""Everything the sampling kernels know about a slot, in device buffers: parameters, bias, history, position, results.

Not for: recording the kernels (sampling.py) or deciding which sequence owns which slot (the engine).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import FluxError, InputError
from ..gpu.buffer import Buffer
from ..gpu.device import BaseDevice
from .breakers import MAX_SEQUENCES, Breakers
from .masks import TokenMasks
from .params import MAX_BIAS, MAX_LOGPROBS, SamplingParams
from .words import ORDER_WORDS, PARAM_WORDS, first_carry, pack_order, pack_params

TOP_WORDS = 2 + 2 * MAX_LOGPROBS
MAX_VOCAB = 1 << 18  # ids have 18 bits in shaders/include/sample_select.glsl
MAX_HISTORY = 2048  # shared memory of shaders/sample_adjust.comp


@dataclass(frozen=True)
class Logprobs:
    """Log-probabilities at one position: of the drawn token, and of the most likely ones, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class SamplerState:
    """Per-slot sampling state for `slots` sequences over a vocabulary of `vocab` tokens (at most 262144).

    history: tokens remembered per slot for penalties and DRY (at most 2048). ring: tokens the host may lag behind; the
    token at position p stands in `ring[slot, p % ring]`, what mirostat or adaptive-p go on with in `carry_ring`.
    Other rooms read `slot_token` and `slot_pos`, u32[slots]: the newest token of a slot and its position.
    """

    def __init__(self, dev: BaseDevice, slots: int, vocab: int, history: int = 1024, ring: int = 256) -> None:
        for name, value, high in (
            ("slots", slots, 65535), ("vocab", vocab, MAX_VOCAB), ("history", history, MAX_HISTORY),
            ("ring", ring, 1 << 20),
        ):  # fmt: skip
            if not 1 <= value <= high:
                raise InputError(f"SamplerState: {name} is {value}; expected 1 to {high}")
        self.device, self.slots, self.vocab, self.history_size, self.ring_size = dev, slots, vocab, history, ring
        self.params = dev.empty((slots, PARAM_WORDS), "u32")
        self.order = dev.empty((slots, ORDER_WORDS), "u32")
        self.breaker_bits = dev.empty((slots, -(-vocab // 32)), "u32")
        self.breakers = dev.empty((slots, MAX_SEQUENCES, 24), "u32")
        self.bias_id = dev.empty((slots, MAX_BIAS), "u32")
        self.bias = dev.empty((slots, MAX_BIAS), "f32")
        self.history = dev.empty((slots, history), "u32")
        self.hist_count = dev.empty((slots,), "u32")
        self.slot_token = dev.empty((slots,), "u32")
        self.slot_pos = dev.empty((slots,), "u32")
        self.ring = dev.host((slots, ring), "u32")
        self.lp_ring = dev.host((slots, ring, TOP_WORDS), "u32")
        self.carry_ring = dev.host((slots, ring, 4), "f32")
        self.status = dev.host((slots,), "u32")
        self.masks = TokenMasks(dev, slots, vocab)
        for buffer in (self.params, self.order, self.hist_count, self.slot_token, self.slot_pos):
            buffer.write(np.zeros(buffer.shape, np.uint32))
        for host in (self.ring, self.lp_ring, self.carry_ring, self.status):
            host.view()[...] = 0
        self._seen_ring, self._seen_status = self.ring.view(), self.status.view()

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All buffers, for memory reports."""
        return (
            self.params, self.order, self.breaker_bits, self.breakers, self.bias_id, self.bias, self.history,
            self.hist_count, self.slot_token, self.slot_pos, self.ring, self.lp_ring, self.carry_ring, self.status,
            *self.masks.buffers,
        )  # fmt: skip

    def set_slot(
        self, slot: int, params: SamplingParams, history_tokens: Sequence[int], pos: int,
        carry: npt.NDArray[np.float32] | None = None, breakers: Breakers | None = None,
    ) -> None:  # fmt: skip
        """Give a slot to a sequence: its parameters, its tokens so far (the last are kept) and the next position.

        carry: what `carry` told for the position of the last token, of a text that goes on; None begins afresh.
        breakers: those of DRY, as find_breakers gives them. Only while no step that uses the slot is in flight. Raises
        InputError where something does not fit.
        """
        recent = self._checked(slot, params, history_tokens)
        breakers = breakers if breakers is not None else Breakers()
        self.params.rows(slot, slot + 1).write(pack_params(params)[None])
        self.order.rows(slot, slot + 1).write(pack_order(params, len(breakers.sequences))[None])
        if params.dry:
            self.breaker_bits.rows(slot, slot + 1).write(breakers.bits(self.vocab)[None])
            self.breakers.rows(slot, slot + 1).write(breakers.words()[None])
        # The first step reads what stands at the position before its token's; callers differ in which that is.
        self.carry_ring.view()[slot] = first_carry(params) if carry is None else carry
        if params.logit_bias:
            ids = np.zeros((1, MAX_BIAS), np.uint32)
            values = np.zeros((1, MAX_BIAS), np.float32)
            ids[0, : len(params.logit_bias)] = list(params.logit_bias)
            values[0, : len(params.logit_bias)] = list(params.logit_bias.values())
            self.bias_id.rows(slot, slot + 1).write(ids)
            self.bias.rows(slot, slot + 1).write(values)
        tokens = np.zeros((1, self.history_size), np.uint32)
        tokens[0, : recent.size] = recent
        self.history.rows(slot, slot + 1).write(tokens)
        last = int(recent[-1]) if recent.size else 0
        for buffer, value in ((self.hist_count, recent.size), (self.slot_token, last), (self.slot_pos, pos)):
            buffer.rows(slot, slot + 1).write(np.array([value], np.uint32))
        self.status.view()[slot] = 0
        self.masks.ban(slot, params.banned)

    def _checked(self, slot: int, params: SamplingParams, history: Sequence[int]) -> npt.NDArray[np.int64]:
        """The tokens that are remembered. Raises InputError where something does not fit."""
        if not 0 <= slot < self.slots:
            raise InputError(f"slot is {slot}; expected 0 to {self.slots - 1}")
        check_history(params, self.history_size)
        outside = [t for t in params.logit_bias if t >= self.vocab]
        if outside:
            raise InputError(f"logit_bias names token {outside[0]}; expected ids below {self.vocab}")
        recent = np.asarray(list(history[-self.history_size :]), np.int64)
        if recent.size and not (0 <= recent.min() and recent.max() < self.vocab):
            found = f"{recent.min()} to {recent.max()}"
            raise InputError(f"history holds tokens {found}; expected ids from 0 to {self.vocab - 1}")
        return recent

    def token(self, slot: int, position: int) -> int:
        """The token at a position, once its step is done. Raises FluxError where the logits were not finite."""
        failed = int(self._seen_status[slot])
        if failed and failed <= position:
            raise FluxError(
                f"slot {slot}: the model produced no finite logits for position {failed}; "
                "check the model file, and try kv_type='f32'"
            )
        return int(self._seen_ring[slot, position % self.ring_size])

    def logprobs(self, slot: int, position: int) -> Logprobs:
        """Log-probabilities at a position whose slot asked for them."""
        words = self.lp_ring.view()[slot, position % self.ring_size].copy()
        floats = words.view(np.float32)
        top = tuple((int(words[2 + 2 * i]), float(floats[3 + 2 * i])) for i in range(int(words[0])))
        return Logprobs(self.token(slot, position), float(floats[1]), top)

    def carry(self, slot: int, position: int) -> npt.NDArray[np.float32]:
        """float32[4] that mirostat (mu) or adaptive-p (weighted sum, sum of weights) go on with behind a position."""
        return np.array(self.carry_ring.view()[slot, position % self.ring_size], np.float32)


def check_history(params: SamplingParams, history: int) -> None:
    """Raises InputError where parameters look further back than `history` tokens."""
    if params.penalised and params.repeat_last_n > history:
        raise InputError(f"repeat_last_n is {params.repeat_last_n}; expected -1 to {history} here")
    if params.dry and params.dry_penalty_last_n > history:
        raise InputError(f"dry_penalty_last_n is {params.dry_penalty_last_n}; expected -1 to {history} here")
