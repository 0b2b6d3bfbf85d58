"""What a user may ask of the sampler, checked in one place.

Not for: how it is done (sampling.py) or where it is kept on the device (state.py).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import InputError
from .order import effective, is_short, sampler_names

MAX_BIAS = 1024
MAX_LOGPROBS = 20
DRY_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Raises InputError naming the field, what was found and what is expected.

    The order is: logit bias, penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature, draw; or what
    `samplers` says. Filters look at the probabilities of what is left where they stand, hence by default before
    temperature, and always keep at least one token. docs/sampling.md has formulas and sources.

    temperature: 0 takes the most likely token (lowest id among equals) of those left.
    top_k, top_p, min_p: 0, 1 and 0 turn them off. Top-p keeps the shortest list of best tokens whose probability
        reaches top_p (less 1e-6 for rounding); min-p keeps tokens at least min_p times as likely as the best.
    repeat_penalty divides positive logits and multiplies others, frequency_penalty is subtracted for every
        occurrence, presence_penalty once, for tokens among the last `repeat_last_n` (prompt included; -1: all that is
        remembered).
    logit_bias: token id -> number added to its logit (-inf bans it); at most 1024 entries.
    seed: 64 bits; None draws one, which `resolved_seed` then tells.
    logprobs: alternatives reported with every token, 0 to 20. They and the token's own log-probability are those of
        the model: softmax of the logits before bias, penalties and temperature.
    samplers: which samplers, in which order: names ("top_k;temperature") or letters ("kt") as llama.cpp has them, or a
        sequence of names. A sampler that is not named is off.
    typical_p (1 off), top_n_sigma (negative off), xtc_probability (0 off), xtc_threshold (over 0.5 off).
    dry_multiplier (0 off), dry_base, dry_allowed_length, dry_penalty_last_n (-1: all that is remembered, 0 off),
        dry_sequence_breakers: texts that a repetition does not reach across.
    dynatemp_range (0 off), dynatemp_exponent: the temperature follows the entropy, within temperature +- range.
    mirostat: 1 or 2; then only logit bias and temperature act beside it. mirostat_tau is the surprise aimed at (bits),
        mirostat_eta the rate of learning.
    adaptive_target (negative off), adaptive_decay: tokens near that probability are preferred.
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
    samplers: str | Sequence[str] | None = None
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: Sequence[str] = DRY_BREAKERS
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    resolved_seed: int = field(init=False, compare=False)
    sampler_order: tuple[str, ...] = field(init=False, compare=False)

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
        _integer("repeat_last_n", self.repeat_last_n, 2**31 - 1, low=-1)
        _integer("logprobs", self.logprobs, MAX_LOGPROBS)
        if self.seed is not None:
            _integer("seed", self.seed, 2**64 - 1)
        self._check_bias()
        self._check_more()
        object.__setattr__(self, "sampler_order", sampler_names(self.samplers))
        if self.mirostat and self.samplers is not None:
            raise InputError("samplers cannot be combined with mirostat, which takes temperature and nothing else")
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

    def _check_more(self) -> None:
        for name, low, high in (
            ("typical_p", 0.0, 1.0), ("top_n_sigma", -math.inf, math.inf), ("xtc_probability", 0.0, 1.0),
            ("xtc_threshold", 0.0, 1.0), ("dry_multiplier", 0.0, 1e6), ("dry_base", 0.0, 1e6),
            ("dynatemp_range", 0.0, 1e6), ("dynatemp_exponent", 0.0, 1e6), ("mirostat_tau", 0.0, 1e6),
            ("mirostat_eta", 0.0, 1e6), ("adaptive_target", -math.inf, 1.0), ("adaptive_decay", 0.0, 0.99),
        ):  # fmt: skip
            _number(name, getattr(self, name), low, high)
        _integer("dry_allowed_length", self.dry_allowed_length, 2**31 - 1)
        _integer("dry_penalty_last_n", self.dry_penalty_last_n, 2**31 - 1, low=-1)
        _integer("mirostat", self.mirostat, 2)
        breakers = self.dry_sequence_breakers
        if isinstance(breakers, str) or not isinstance(breakers, Sequence):
            raise InputError(f"dry_sequence_breakers is {breakers!r}; expected a sequence of texts")
        for text in breakers:
            if not isinstance(text, str) or not text:
                raise InputError(f"dry_sequence_breakers holds {text!r}; expected texts that are not empty")
        object.__setattr__(self, "dry_sequence_breakers", tuple(breakers))

    @property
    def greedy(self) -> bool:
        """Whether the most likely token of those left is taken."""
        return self.temperature == 0 and self.dynatemp_range == 0 and "temperature" in self.sampler_order

    @property
    def banned(self) -> list[int]:
        """Tokens that logit_bias bans."""
        return [token for token, bias in self.logit_bias.items() if bias == -math.inf]

    @property
    def penalised(self) -> bool:
        """Whether any penalty has an effect."""
        active = self.repeat_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0
        return active and self.repeat_last_n != 0 and "penalties" in self.sampler_order and not self.mirostat

    @property
    def dry(self) -> bool:
        """Whether DRY has an effect."""
        active = self.dry_multiplier != 0 and self.dry_base >= 1 and self.dry_penalty_last_n != 0
        return active and "dry" in self.sampler_order and not self.mirostat

    @property
    def adaptive(self) -> bool:
        """Whether adaptive-p chooses the token."""
        return self.adaptive_target >= 0 and "adaptive_p" in self.sampler_order and not self.mirostat

    @property
    def effective_order(self) -> tuple[str, ...]:
        """The samplers that have an effect, in their order."""
        return effective(self)

    @property
    def complete(self) -> bool:
        """Whether more than bias, penalties, top-k, top-p, min-p and temperature in that order is asked for."""
        return not is_short(self)

    @property
    def carries(self) -> bool:
        """Whether a number goes on from token to token (mirostat's mu, adaptive-p's sums)."""
        return bool(self.mirostat) or self.adaptive


def _number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} is {value!r} ({type(value).__name__}); expected a number")
    if not (math.isfinite(value) and low <= value <= high):
        bounds = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
        below = "a finite number" if high == math.inf else f"at most {high:g}"
        raise InputError(f"{name} is {value!r}; expected {below if low == -math.inf else bounds}")


def _integer(name: str, value: int, high: int, low: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} is {value!r} ({type(value).__name__}); expected a whole number")
    if not low <= value <= high:
        raise InputError(f"{name} is {value}; expected {low} to {high}")
