"""SamplingParams: what is refused and how it says so; the words that the kernels read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from flux_vk.decode.params import MAX_BIAS, SamplingParams
from flux_vk.decode.words import ORDER_WORDS, PARAM_WORDS, pack_order, pack_params
from flux_vk.errors import InputError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", "hot"),
        ("temperature", True), ("top_k", -1), ("top_k", 2.5), ("top_k", 2**31), ("top_p", -0.01), ("top_p", 1.01),
        ("top_p", math.nan), ("min_p", -1), ("min_p", 2), ("repeat_penalty", 0), ("repeat_penalty", -1),
        ("repeat_penalty", math.inf), ("frequency_penalty", math.nan), ("presence_penalty", math.inf),
        ("repeat_last_n", -2), ("repeat_last_n", 1.0), ("seed", -1), ("seed", 2**64), ("seed", 1.5), ("seed", True),
        ("logprobs", -1), ("logprobs", 21), ("logprobs", True), ("logit_bias", [1, 2]), ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"a": 1.0}), ("logit_bias", {1: math.nan}), ("logit_bias", {1: math.inf}),
        ("samplers", "top_k;heat"), ("samplers", "top_k;kt"), ("samplers", "top_k;k"), ("samplers", ["top_k", "top-k"]),
        ("samplers", 5), ("samplers", "kz"), ("samplers", [3]), ("typical_p", 1.5), ("typical_p", math.nan),
        ("top_n_sigma", math.inf), ("top_n_sigma", "x"), ("xtc_probability", -0.1), ("xtc_threshold", 2),
        ("dry_multiplier", -1), ("dry_base", math.nan), ("dry_allowed_length", -1), ("dry_allowed_length", 1.5),
        ("dry_penalty_last_n", -2), ("dry_sequence_breakers", "text"), ("dry_sequence_breakers", [""]),
        ("dry_sequence_breakers", [1]), ("dynatemp_range", -1), ("dynatemp_exponent", -1), ("mirostat", 3),
        ("mirostat", -1), ("mirostat_tau", -1), ("mirostat_eta", math.nan), ("adaptive_target", 1.5),
        ("adaptive_target", math.nan), ("adaptive_decay", 1.0), ("logit_bias", {1: "x"}),
        ("logit_bias", dict.fromkeys(range(MAX_BIAS + 1), 0.0)),
    ],
)  # fmt: skip
def test_refused(field: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        SamplingParams(**{field: value})
    message = str(caught.value)
    assert message.startswith(field) and ("expected" in message)
    assert len(message) < 300


def test_accepted_limits() -> None:
    SamplingParams(temperature=0, top_k=2**31 - 1, top_p=0, min_p=1, repeat_penalty=1e-6, seed=2**64 - 1, logprobs=20)
    SamplingParams(logit_bias={5: -math.inf, 6: 3}, frequency_penalty=-2, presence_penalty=2)


def test_seed_is_drawn_once_and_readable() -> None:
    a, b = SamplingParams(), SamplingParams()
    assert 0 <= a.resolved_seed < 2**64 and a.resolved_seed != b.resolved_seed
    assert a.seed is None and a == b, "an open seed does not make two requests differ"
    assert SamplingParams(seed=7).resolved_seed == 7


def test_packed_words() -> None:
    params = SamplingParams(
        temperature=0.5, top_k=7, top_p=0.5, min_p=0.25, repeat_penalty=2, seed=(3 << 32) | 9, logprobs=4
    )
    words = pack_params(params)
    floats = words.view(np.float32)
    assert len(words) == PARAM_WORDS
    assert words[[0, 1, 8, 9, 10, 11, 12]].tolist() == [7, 2**31 - 4096, 64, 0, 4, 9, 3]
    np.testing.assert_allclose(floats[2:8], [math.log(0.25), 2.0, 2.0, 0.5, 0.0, 0.0], rtol=1e-7)
    off = pack_params(SamplingParams(temperature=0, top_p=1, min_p=0, seed=1))
    assert off[1] == 0xFFFFFFFF and off.view(np.float32)[2] == -np.inf and off.view(np.float32)[3] == 0
    assert off[8] == 0, "penalties without effect are not computed"


def test_mirostat_refuses_an_order() -> None:
    with pytest.raises(InputError, match="^samplers cannot be combined with mirostat"):
        SamplingParams(mirostat=1, samplers="top_k")


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        (None, ("top_k", "top_p", "min_p", "temperature")),
        ("temperature;top_k", ("temperature", "top_k")),
        ("tk", ("temperature", "top_k")),
        (["typical", "nucleus", "temp", "min-p"], ("top_p", "temperature", "min_p")),
        (" k ; m ", ("top_k", "min_p")),
        ("", ()),
    ],
)
def test_order(asked: Any, order: tuple[str, ...]) -> None:
    """What has an effect with the default values."""
    assert SamplingParams(samplers=asked).effective_order == order


@pytest.mark.parametrize(
    ("settings", "complete"),
    [
        ({}, False), ({"samplers": "penalties;top_k;temperature"}, False), ({"samplers": "kpt"}, False),
        ({"samplers": "tk"}, True), ({"samplers": "tk", "temperature": 1}, False), ({"typical_p": 0.9}, True),
        ({"typical_p": 0.9, "samplers": "kt"}, False), ({"top_n_sigma": 0}, True), ({"xtc_probability": 0.1}, True),
        ({"xtc_probability": 0.1, "xtc_threshold": 0.6}, False), ({"dry_multiplier": 1}, True),
        ({"dry_multiplier": 1, "dry_base": 0.5}, False), ({"dry_multiplier": 1, "dry_penalty_last_n": 0}, False),
        ({"dynatemp_range": 0.1}, True), ({"mirostat": 2, "temperature": 1}, True), ({"adaptive_target": 0}, True),
        ({"adaptive_target": 0.5, "samplers": "kt"}, False), ({"adaptive_target": 0.5, "samplers": "ak"}, True),
        ({"dynatemp_range": 1, "samplers": "k"}, False), ({"temperature": 0, "samplers": "k"}, False),
    ],
)  # fmt: skip
def test_complete(settings: dict[str, Any], complete: bool) -> None:
    """Whether more than the short order is asked for; then there are words of an order, and the draw is greedy."""
    params = SamplingParams(seed=1, **settings)
    assert params.complete == complete
    words = pack_order(params)
    assert len(words) == ORDER_WORDS and bool(words[0]) == complete
    if complete:
        assert pack_params(params).view(np.float32)[3] == 0
    if settings.get("adaptive_target") == 0.5:
        assert params.sampler_order[-1] == ("adaptive_p" if complete else "temperature")
