"""What is asked wrongly, what does not fit, what breaks underneath: typed errors, and everything else goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flux_vk as fx
from flux_vk.engine import model as model_module
from flux_vk.engine.buffers import Limits
from flux_vk.engine.generation import Generation
from flux_vk.engine.model import Model, check_fit
from flux_vk.errors import DeviceLost, FluxError, InputError, ModelError, OutOfDeviceMemory
from flux_vk.gpu import Device

GREEDY = fx.SamplingParams(temperature=0)
PROMPT = "It was in July"


def greedy(model: Model, prompt: str | list[int] = PROMPT, n: int = 8, **more: Any) -> Generation:
    stop = more.pop("stop", ())
    g = model.start(prompt, fx.SamplingParams(temperature=0, **more), max_tokens=n, stop=stop)
    for _ in g:
        pass
    return g


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_text_and_ids_are_the_same_prompt(model: Model) -> None:
    ids = model.tokenizer.encode(PROMPT)
    a, b, c = greedy(model), greedy(model, ids), greedy(model, list(np.array(ids)))
    assert a.tokens == b.tokens == c.tokens and a.prompt_tokens == b.prompt_tokens == ids


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_begins_with_bos(model: Model, prompt: str | list[int]) -> None:
    g = greedy(model, prompt)
    assert g.prompt_tokens == [model.tokenizer.bos_id] and len(g.tokens) == 8


@pytest.mark.parametrize("ids", [[-1], [2048], [1, 1 << 40]])
def test_ids_outside_the_vocabulary(model: Model, ids: list[int]) -> None:
    for call in (model.start, model.logits, model.perplexity, model.generate):
        with pytest.raises(InputError, match=rf"token id {ids[-1]} is outside the vocabulary; expected 0 to 2047"):
            call([1, *ids])


@pytest.mark.parametrize("ids", [[1.5], ["a"], [None]])
def test_what_is_no_id(model: Model, ids: list[Any]) -> None:
    with pytest.raises(InputError, match="token ids: .* expected whole numbers"):
        model.start(ids)


def test_counts(model: Model) -> None:
    assert list(model.generate(PROMPT, max_tokens=0)) == []
    g = greedy(model, n=1)
    assert len(g.tokens) == 1 and g.finish_reason == "length"
    assert g.timings["ttft_s"] > 0 and g.timings["generated_per_second"] == 0
    assert model.logits([]).shape == (0, 2048)
    with pytest.raises(InputError, match="perplexity of 1 tokens; expected at least 2"):
        model.perplexity([1])


def test_pieces_make_the_text(model: Model) -> None:
    g = model.start(PROMPT, GREEDY, max_tokens=40)
    pieces = [t.piece for t in g]
    assert "".join(pieces) == g.text == "".join(model.generate(PROMPT, max_tokens=40, temperature=0))


def test_a_stop_string_over_several_tokens_is_cut_off(model: Model) -> None:
    whole = greedy(model, n=40).text
    for start, length in ((5, 3), (9, 12), (20, 1)):
        stop = whole[start : start + length]
        g = greedy(model, n=40, stop=["never this", stop])
        assert g.text == whole[: whole.index(stop)] and g.finish_reason == "stop"
        assert greedy(model, n=40, stop=stop).text == g.text
    unfinished = whole[-3:] + "#"
    g = greedy(model, n=len(greedy(model, n=40).tokens), stop=[unfinished])
    assert g.text == whole and g.finish_reason == "length"


def test_logit_bias_forbids_and_forces(model: Model) -> None:
    first = greedy(model).tokens[0]
    assert first not in greedy(model, n=30, logit_bias={first: float("-inf")}).tokens
    assert greedy(model, logit_bias={777: 1000.0}).tokens == [777] * 8
    with pytest.raises(InputError, match="logit_bias names token 2048; expected ids below 2048"):
        model.start(PROMPT, fx.SamplingParams(logit_bias={2048: 1.0}))
    with pytest.raises(InputError, match="repeat_last_n is 5000; expected -1 to 256"):
        model.start(PROMPT, fx.SamplingParams(repeat_penalty=1.1, repeat_last_n=5000))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_log_probabilities_are_those_of_the_logits(model: Model, temperature: float) -> None:
    """Of the model's own distribution, whatever temperature, bias and penalties do; float64 log-softmax."""
    params = fx.SamplingParams(
        temperature=temperature, seed=11, logprobs=5, repeat_penalty=1.2, logit_bias={500: 3.0, 2: float("-inf")}
    )
    tokens = list(model.start(PROMPT, params, max_tokens=20))
    ids = [*model.prompt_ids(PROMPT), *(t.id for t in tokens)]
    logits = model.logits(ids)[-len(tokens) - 1 : -1].astype(np.float64)
    top = logits.max(1, keepdims=True)
    exact = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    for token, row in zip(tokens, exact, strict=True):
        assert token.logprob == pytest.approx(row[token.id], abs=1e-4)
        order = np.argsort(-row, kind="stable")[:5]
        assert [i for i, _ in token.top] == order.tolist()
        np.testing.assert_allclose([p for _, p in token.top], row[order], atol=1e-4)
    assert all(t.logprob is None and t.top == [] for t in model.start(PROMPT, GREEDY, max_tokens=3))


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.fixture
def small(demo_model: Path) -> Iterator[Device]:
    """A device of its own, whose limits a test may tamper with."""
    yield Device()


def free_bytes(monkeypatch: pytest.MonkeyPatch, device: Device, free: int) -> None:
    monkeypatch.setattr(device, "memory", lambda: {"total": free, "free": free, "allocated": 0})


def test_what_cannot_fit_is_refused_before_anything_is_loaded(
    small: Device, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be loaded")

    free_bytes(monkeypatch, small, 1_000_000)
    monkeypatch.setattr(model_module, "prepare_weights", never)
    with pytest.raises(OutOfDeviceMemory) as caught:
        fx.load(demo_model, device=small)
    text = str(caught.value)
    for part in ("Q8_0.gguf needs ", "weights 6 MB", "kv ", "activations ", "and 1 MB are free", small.name):
        assert part in text
    assert "take a smaller or more strongly quantised model" in text


def test_what_would_fit_is_named(small: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(4096, 4096 + 7 * 32, 8, "f16", 64, False)
    parts = {"weights": 1_000_000, "kv": 1000 * limits.kv_tokens, "activations": 0}

    def hint(free: int, at: Limits = limits) -> str:
        free_bytes(monkeypatch, small, free)
        with pytest.raises(OutOfDeviceMemory) as caught:
            check_fit(small, "x.gguf", parts, at)
        return str(caught.value).rsplit("; ", 1)[1]

    assert hint(3_300_000) == "a context of 2048 tokens would fit"
    assert hint(1_200_000) == "a context of 192 tokens with sequences=1 would fit"
    assert hint(1_010_000).startswith("take a smaller")
    assert hint(3_300_000, Limits(1024, 4320, 8, "f16", 64, False)) == "kv_tokens=2272 would fit"
    free_bytes(monkeypatch, small, sum(parts.values()))
    check_fit(small, "x.gguf", parts, limits)


def test_absurd_sizes(device: Device, demo_model: Path) -> None:
    with pytest.raises(OutOfDeviceMemory, match="kv_tokens=[0-9]+ would fit"):
        fx.load(demo_model, device=device, kv_tokens=1 << 40)
    before = device.memory()["allocated"]
    device_limit = device.max_range // (32 * 4 * 32 * 2) * 32
    if device.memory()["free"] > 16 * device.max_range:
        with pytest.raises(ModelError, match=f"use at most {device_limit} tokens"):
            fx.load(demo_model, device=device, kv_tokens=device_limit + 1)
    assert device.memory()["allocated"] == before


def test_an_allocation_that_fails_midway_leaves_the_device_usable(small: Device, demo_model: Path) -> None:
    """The weights are there already when the cache does not go in; all of it is given back."""
    want = None
    with fx.load(demo_model, device=small) as m:
        want = greedy(m).tokens
    before = small.memory()["allocated"]
    small.limits = {**small.limits, "max_allocation": 20 << 20}
    for _ in range(3):
        with pytest.raises(OutOfDeviceMemory, match="one allocation of [0-9]+ bytes asked for; this device allows"):
            fx.load(demo_model, device=small, kv_tokens=100_000)
        assert small.memory()["allocated"] == before
    with fx.load(demo_model, device=small) as m:
        assert greedy(m).tokens == want


# -- what breaks ------------------------------------------------------------------------------------------------------


class LostOnSubmit:
    """A native recording of a device that is gone."""

    def submit(self) -> None:
        raise DeviceLost("vkQueueSubmit", "VK_ERROR_DEVICE_LOST")


class LostOnWait:
    """One that takes the work and never answers."""

    def submit(self) -> None:
        pass

    def wait(self, timeout_ns: int) -> bool:
        raise DeviceLost("vkWaitForFences", "VK_ERROR_DEVICE_LOST")


@pytest.mark.parametrize("lost", [LostOnSubmit, LostOnWait])
@pytest.mark.parametrize("chain", ["prefill of 8", "decode step"])
def test_a_lost_device_is_typed_and_named(small: Device, demo_model: Path, lost: type, chain: str) -> None:
    m = fx.load(demo_model, device=small)
    greedy(m, n=3)
    for recorded in m.runner._chains.values():
        if recorded.name == chain:
            recorded._natives = [lost()]
    g = m.start(PROMPT, GREEDY)
    with pytest.raises(DeviceLost, match=f"the device was lost in chain '{chain}' .kernels: .*attention") as caught:
        list(g)
    assert caught.value.result == "VK_ERROR_DEVICE_LOST"
    assert g.finish_reason == "cancelled" and m.runner.slots.in_use == 0
    m.close()
    with fx.load(demo_model, device=small) as again:
        assert len(greedy(again, n=3).tokens) == 3


def test_close_gives_memory_back_whoever_still_holds_a_part(small: Device, demo_model: Path) -> None:
    with fx.load(demo_model, device=small) as m:
        greedy(m, n=1)
    before = small.memory()["allocated"]
    m = fx.load(demo_model, device=small)
    g, session, runner = greedy(m), m.session(), m.runner
    unfinished = m.start(PROMPT, GREEDY)
    next(unfinished)
    assert small.memory()["allocated"] > before
    m.close()
    assert small.memory()["allocated"] == before
    for call in (lambda: next(unfinished), lambda: m.start(PROMPT), lambda: runner.buffers):
        with pytest.raises(FluxError, match="the model is closed; load it again"):
            call()
    assert g.text and g.timings["load_s"] > 0
    session.close()
    m.close()
    with pytest.raises(FluxError, match="the model is closed"), m:
        m.session()


def test_profiles_do_not_disturb(model: Model) -> None:
    want = greedy(model).tokens
    g = model.start(PROMPT, GREEDY, max_tokens=8)
    begun = [next(g).id for _ in range(3)]
    prefill, decode = model.profile(prompt_tokens=16, repeat=1)
    assert "attention" in str(prefill) and "attention" in str(decode) and "flux_" not in str(decode)
    params = fx.SamplingParams(dry_multiplier=1.0, seed=1)
    _, decode = model.profile(prompt_tokens=16, repeat=1, params=params, agents=fx.Swarm.default())
    assert "flux_interpret" in str(decode) and "sample_ordered" in str(decode)
    assert begun + [t.id for t in g] == want


def test_one_arena_serves_all_steps(small: Device, demo_model: Path) -> None:
    """Prompts that grow do not leave a larger arena each behind them."""
    with fx.load(demo_model, device=small, context=128) as m:
        greedy(m, [1] * 2, n=2)
        before = small.memory()["allocated"]
        for n in (3, 20, 50, 64, 100):
            greedy(m, [1] * n, n=2, logprobs=5)
        assert small.memory()["allocated"] == before
        assert m.runner.buffers.arena.nbytes <= m.memory_plan()["activations"]
