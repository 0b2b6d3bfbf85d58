"""Several decode steps in flight: the same texts, stops and figures as with one, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import flux_vk as fx
from flux_vk.engine.model import Model
from flux_vk.errors import InputError
from flux_vk.gpu import Device
from tests.engine.null_model import null_model, script, submits

CONTEXT = 128
NO_END = {2: float("-inf")}
PARAMS = [
    fx.SamplingParams(temperature=0, logit_bias=NO_END),
    fx.SamplingParams(temperature=0.9, repeat_penalty=1.1, seed=1, logprobs=2, logit_bias=NO_END),
    fx.SamplingParams(temperature=1.0, top_k=0, top_p=0.9, seed=2, logit_bias=NO_END),
]


def loaded(device: Device, path: Path, ahead: str, shift: bool = False) -> Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLUX_VK_STEPS_AHEAD", ahead)
        return fx.load(path, device=device, kv_type="f32", context=CONTEXT, context_shift=shift)


@pytest.fixture(scope="module", params=[False, True], ids=["stops", "shifts"])
def pair(request: pytest.FixtureRequest, device: Device, demo_model: Path) -> Iterator[tuple[Model, Model]]:
    """The demo model with one step in flight, and with four."""
    with loaded(device, demo_model, "1", request.param) as one, loaded(device, demo_model, "4", request.param) as four:
        assert (one.runner.depth, four.runner.depth) == (1, 4)
        yield one, four
        for model in (one, four):
            runner = model.runner
            assert runner.slots.in_use == 0 and runner.pool.n_free == runner.pool.n_pages


def run(model: Model, prompt: str, params: fx.SamplingParams, most: int, stop: tuple[str, ...] = ()) -> object:
    g = model.start(prompt, params, max_tokens=most, stop=stop)
    tokens = list(g)
    return tokens, g.text, g.finish_reason


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("most", [1, 2, 3, 5, 40, 200])
def test_the_same_text(pair: tuple[Model, Model], params: fx.SamplingParams, most: int) -> None:
    """To the end of the context too, and several pages beyond where it shifts."""
    one, four = (run(m, "It was in July", params, most) for m in pair)
    assert one == four


def test_stop_strings_are_found_with_steps_behind_them(pair: tuple[Model, Model]) -> None:
    _, text, _ = run(pair[0], "It was in July", PARAMS[0], 60)  # type: ignore[misc]
    for at in range(0, 60, 7):
        stop = (text[at : at + 9],)
        found = [run(m, "It was in July", PARAMS[0], 60, stop) for m in pair]
        assert found[0] == found[1] and found[0][2] == "stop"  # type: ignore[index]


def test_the_end_token_and_what_follows(pair: tuple[Model, Model]) -> None:
    """A slot whose last steps were thrown away serves the next text."""
    certain = fx.SamplingParams(temperature=1.0, top_k=0, seed=5, logit_bias={2: 8.0})
    for _ in range(3):
        one, four = (run(m, "It was in July", certain, 100) for m in pair)
        assert one == four and one[2] == "stop"  # type: ignore[index]


def test_many(pair: tuple[Model, Model], rng: np.random.Generator) -> None:
    prompts = [rng.integers(3, 2000, int(rng.integers(1, 70))).tolist() for _ in range(10)]
    most = rng.integers(1, 90, 10).tolist()
    found = []
    for model in pair:
        many = model.start_many(prompts, [PARAMS[i % 3] for i in range(10)], max_tokens=most, stop=["and"])
        tokens: list[list[object]] = [[] for _ in prompts]
        for i, token in many:
            tokens[i].append(token)
        found.append((tokens, many.texts, [g.finish_reason for g in many.generations]))
    assert found[0] == found[1]


def test_a_session_goes_on_after_each_kind_of_end(pair: tuple[Model, Model]) -> None:
    told = []
    for model in pair:
        with model.session() as s:
            ids, seen = model.prompt_ids("Prince Andrew"), []
            for stop, most in (("and", 30), ("never", 7), ("the", 30)):
                g = model.start(ids, PARAMS[0], max_tokens=most, stop=[stop], session=s)
                list(g)
                assert s.cached_tokens == [*ids, *g.tokens[:-1]]
                ids = ids + g.tokens + model.tokenizer.encode(" so", add_special=False)
                seen.append((g.tokens, g.text))
            told.append(seen)
    assert told[0] == told[1]


def test_cancelled_and_left(pair: tuple[Model, Model]) -> None:
    """Nothing of it is seen in the next text; the slots are looked at when the models are done with."""
    want = run(pair[0], "It was in July", PARAMS[1], 20)
    for model in pair:
        g = model.start("It was so", PARAMS[0])
        next(g)
        threading.Timer(0.02, g.cancel).start()
        list(g)
        assert g.finish_reason in ("cancelled", "context")
        for _ in model.start("It was so", PARAMS[0]):
            break
        with model.start_many(["It was so"] * 3, PARAMS[0]) as many:
            for _ in range(7):
                next(many)
        assert run(model, "It was in July", PARAMS[1], 20) == want


def test_as_many_are_in_flight_as_asked_for(demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_VK_STEPS_AHEAD", "4")
    null = null_model(demo_model)
    script(null, 400)
    g = null.start([1], fx.SamplingParams(temperature=0), max_tokens=7)
    counts = [submits(null)["decode step"] for _ in g]
    assert counts == [4, 5, 6, 6, 6, 6, 6]


@pytest.mark.parametrize("text", ["0", "9", "-1", "many", "1.5"])
def test_what_the_setting_may_be(demo_model: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FLUX_VK_STEPS_AHEAD", text)
    with pytest.raises(InputError, match=f"FLUX_VK_STEPS_AHEAD='{text}': expected auto or 1 to 8"):
        null_model(demo_model)
