"""The order of the samplers: their names as llama.cpp has them, and which of them a request needs.

Not for: what the samplers do (docs/sampling.md) or their values (params.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from .params import SamplingParams

DEFAULT_ORDER = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
SHORT_ORDER = ("penalties", "top_k", "top_p", "min_p", "temperature")
"""What the kernels of every chain do; samplers beyond it, or another order, take a complete chain."""
LETTERS = {
    "penalties": "e", "dry": "d", "top_n_sigma": "s", "top_k": "k", "typ_p": "y", "top_p": "p", "min_p": "m",
    "xtc": "x", "temperature": "t", "adaptive_p": "a",
}  # fmt: skip
_BY_LETTER = {letter: name for name, letter in LETTERS.items()}
_ALIASES = {
    "top-n-sigma": "top_n_sigma", "top-k": "top_k", "typical": "typ_p", "typical_p": "typ_p", "typical-p": "typ_p",
    "typ-p": "typ_p", "typ": "typ_p", "top-p": "top_p", "nucleus": "top_p", "min-p": "min_p", "temp": "temperature",
    "adaptive-p": "adaptive_p",
}  # fmt: skip


def sampler_names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """The samplers that `samplers` asks for: names with ";" between, letters ("edkypmxt"), or a sequence of names.

    None is the default order. adaptive_p is moved to the end, where it chooses the token. Raises InputError naming what
    is unknown or stands there twice.
    """
    if value is None:
        return (*DEFAULT_ORDER, "adaptive_p")
    names = []
    for word in _words(value):
        name = _ALIASES.get(word, word) if len(word) > 1 else _BY_LETTER.get(word, word)
        if name not in LETTERS:
            known = ", ".join(f"{n} ({letter})" for n, letter in LETTERS.items())
            raise InputError(f"samplers names {word!r}; expected names with ; between, or letters, of {known}")
        if name in names:
            raise InputError(f"samplers names {name} twice; expected every sampler once at most")
        names.append(name)
    names.sort(key=lambda name: name == "adaptive_p")
    return tuple(names)


def _words(value: str | Sequence[str]) -> list[str]:
    if not isinstance(value, str):
        if not isinstance(value, Sequence) or not all(isinstance(word, str) for word in value):
            raise InputError(f"samplers is {value!r}; expected names of samplers, with ; between")
        return [word.strip() for word in value]
    text = value.strip()
    if ";" in text or not text or text in LETTERS or text in _ALIASES:
        return [word.strip() for word in text.split(";") if word.strip()]
    return list(text) if all(letter in _BY_LETTER for letter in text) else [text]


def effective(p: SamplingParams) -> tuple[str, ...]:
    """The samplers that change anything with these values, in their order; with mirostat temperature alone."""
    tempered = p.temperature != 1 or p.dynatemp_range > 0
    if p.mirostat:
        return ("temperature",) if p.temperature != 1 else ()
    active = {
        "penalties": p.penalised,
        "dry": p.dry,
        "top_n_sigma": p.top_n_sigma >= 0,
        "top_k": p.top_k > 0,
        "typ_p": p.typical_p < 1,
        "top_p": p.top_p < 1,
        "min_p": p.min_p > 0,
        "xtc": p.xtc_probability > 0 and p.xtc_threshold <= 0.5,
        "temperature": tempered,
        "adaptive_p": p.adaptive,
    }
    return tuple(name for name in p.sampler_order if active[name])


def is_short(p: SamplingParams) -> bool:
    """Whether the kernels of every chain do what these values ask for."""
    names = effective(p)
    short = tuple(name for name in SHORT_ORDER if name in names)
    return names == short and not p.mirostat and ("temperature" not in names or p.dynatemp_range == 0)
