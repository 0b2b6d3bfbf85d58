"""Sampling parameters as the words that the kernels read.

Not for: checking them (params.py) or keeping them on the device (state.py).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .params import SamplingParams

PARAM_WORDS = 16
ORDER_WORDS = 32
_OFF = 0xFFFFFFFF
_CODES = {
    "top_k": 1, "typ_p": 2, "top_p": 3, "min_p": 4, "xtc": 5, "temperature": 6, "top_n_sigma": 7, "penalties": 8,
    "dry": 9,
}  # fmt: skip
_LN_FLOAT_MAX = 88.7228391  # llama.cpp's bound on DRY's exponent times ln(base)
Words = npt.NDArray[np.uint32]


def share(p: float) -> int:
    """A probability in units of 2^-32, less 2^-20 of the whole, so that rounding in the masses does not decide."""
    return max(int(p * 2**32) - 4096, 0)


def _last_n(n: int) -> int:
    return _OFF if n < 0 else n  # all that is remembered


def pack_params(params: SamplingParams) -> Words:
    """The 16 words of one slot, in the order of the P_ constants in shaders/include/sample_math.glsl.

    A slot that `pack_order` has words for is drawn greedily here, which costs least; sample_ordered then draws it.
    """
    words = np.zeros(PARAM_WORDS, np.uint32)
    floats = words.view(np.float32)
    names = params.effective_order
    floats[4], floats[5] = params.repeat_penalty, 1.0 / params.repeat_penalty
    floats[6], floats[7] = params.frequency_penalty, params.presence_penalty
    words[8] = _last_n(params.repeat_last_n) if names[:1] == ("penalties",) else 0
    words[9] = len(params.logit_bias)
    words[10] = params.logprobs
    words[11], words[12] = params.resolved_seed & 0xFFFFFFFF, params.resolved_seed >> 32
    words[1], floats[2] = _OFF, -np.inf
    if params.complete:
        return words
    words[0] = params.top_k if "top_k" in names else 0
    words[1] = share(params.top_p) if "top_p" in names else _OFF
    floats[2] = np.log(params.min_p) if "min_p" in names else -np.inf
    floats[3] = 1.0
    if "temperature" in names:
        floats[3] = 0.0 if params.greedy else min(1.0 / params.temperature, 1e30)
    return words


def pack_order(params: SamplingParams, breakers: int = 0) -> Words:
    """The 32 words of a slot of a complete chain, in the order of the O_ constants in sample_order.glsl.

    All 0 where the short order is what is asked for. breakers: number of its sequences in `SamplerState.breakers`.
    """
    words = np.zeros(ORDER_WORDS, np.uint32)
    if not params.complete:
        return words
    floats = words.view(np.float32)
    names = [name for name in params.effective_order if name != "adaptive_p"]
    if names[:1] == ["penalties"]:
        del names[0]  # sample_adjust does them
    elif "penalties" in names:
        words[21] = _last_n(params.repeat_last_n)
    if names[:1] == ["dry"]:
        del names[0]  # sample_repeats does it
        words[19] = 1
    words[0] = 1 + params.mirostat if params.mirostat else 4 if params.adaptive else 1
    words[1] = len(names)
    for i, name in enumerate(names):
        words[2 + i // 8] |= np.uint32(_CODES[name] << 4 * (i % 8))
    words[4] = params.top_k
    words[5] = share(params.top_p)
    floats[6] = np.log(params.min_p) if params.min_p > 0 else -np.inf
    floats[7] = 0.0 if params.temperature == 0 else min(max(params.temperature, 1e-30), 1e30)
    floats[8], floats[9] = params.dynatemp_range if not params.mirostat else 0.0, params.dynatemp_exponent
    floats[10] = params.top_n_sigma
    words[11] = int(params.typical_p * 2**32) if params.typical_p < 1 else _OFF
    words[12] = _OFF if params.xtc_probability >= 1 else int(params.xtc_probability * 2**32)
    words[13] = share(params.xtc_threshold)
    if params.dry:
        floats[14], floats[15] = params.dry_multiplier, params.dry_base
        words[16] = params.dry_allowed_length
        words[17] = _last_n(params.dry_penalty_last_n)
        words[18] = int(_LN_FLOAT_MAX / math.log(params.dry_base)) if params.dry_base > 1.000001 else 0
        words[20] = breakers
    floats[22], floats[23] = params.mirostat_tau, params.mirostat_eta
    floats[24], floats[25] = params.adaptive_target, params.adaptive_decay
    return words


def first_carry(params: SamplingParams) -> npt.NDArray[np.float32]:
    """float32[4]: what mirostat (mu) or adaptive-p (weighted sum, sum of weights) begins with."""
    carry = np.zeros(4, np.float32)
    if params.mirostat:
        carry[0] = 2 * params.mirostat_tau
    elif params.adaptive:
        carry[:2] = np.array([params.adaptive_target, 1.0]) / (1 - params.adaptive_decay)
    return carry
