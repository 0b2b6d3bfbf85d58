"""What a user may ask of the sampler, checked in one place.

Not for: how it is done (sampling.py) or where it is kept on the device (state.py).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import InputError

MAX_BIAS = 1024
MAX_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Raises InputError naming the field, what was found and what is expected.

    The order is: logit bias, penalties, top-k, top-p, min-p, temperature, draw. Top-p and min-p look at the
    probabilities before temperature, and always keep at least the best token.

    temperature: 0 takes the most likely token (lowest id among equals).
    top_k, top_p, min_p: 0, 1 and 0 turn them off. Top-p keeps the shortest list of best tokens whose probability
        reaches top_p (less 1e-6 for rounding); min-p keeps tokens at least min_p times as likely as the best.
    repeat_penalty divides positive logits and multiplies others, frequency_penalty is subtracted for every
        occurrence, presence_penalty once, for tokens among the last `repeat_last_n` (prompt included).
    logit_bias: token id -> number added to its logit (-inf bans it); at most 1024 entries.
    seed: 64 bits; None draws one, which `resolved_seed` then tells.
    logprobs: alternatives reported with every token, 0 to 20. They and the token's own log-probability are those of
        the model: softmax of the logits before bias, penalties and temperature.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 64
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int = 0
    resolved_seed: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, math.inf)
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repeat_penalty", self.repeat_penalty, 0.0, math.inf)
        if not 1e-6 <= self.repeat_penalty <= 1e6:
            raise InputError(f"repeat_penalty is {self.repeat_penalty!r}; expected 1e-6 to 1e6 (1 turns it off)")
        _number("frequency_penalty", self.frequency_penalty, -math.inf, math.inf)
        _number("presence_penalty", self.presence_penalty, -math.inf, math.inf)
        _integer("top_k", self.top_k, 2**31 - 1)
        _integer("repeat_last_n", self.repeat_last_n, 2**31 - 1)
        _integer("logprobs", self.logprobs, MAX_LOGPROBS)
        if self.seed is not None:
            _integer("seed", self.seed, 2**64 - 1)
        self._check_bias()
        object.__setattr__(self, "resolved_seed", secrets.randbits(64) if self.seed is None else self.seed)

    def _check_bias(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            kind = type(self.logit_bias).__name__
            raise InputError(f"logit_bias is a {kind}; expected a mapping from token id to number")
        if len(self.logit_bias) > MAX_BIAS:
            raise InputError(f"logit_bias has {len(self.logit_bias)} entries; expected at most {MAX_BIAS}")
        for token, bias in self.logit_bias.items():
            _integer("logit_bias token id", token, 2**31 - 1)
            if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not bias < math.inf:
                raise InputError(f"logit_bias[{token}] is {bias!r}; expected a finite number or -inf")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0

    @property
    def penalised(self) -> bool:
        """Whether any penalty has an effect."""
        active = self.repeat_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0
        return active and self.repeat_last_n > 0


def _number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} is {value!r} ({type(value).__name__}); expected a number")
    if not (math.isfinite(value) and low <= value <= high):
        bounds = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
        raise InputError(f"{name} is {value!r}; expected {'a finite number' if low == -math.inf else bounds}")


def _integer(name: str, value: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} is {value!r} ({type(value).__name__}); expected a whole number")
    if not 0 <= value <= high:
        raise InputError(f"{name} is {value}; expected 0 to {high}")
