"""Which steps several prompts together take, what is recorded for them and given back: without Vulkan."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

import flux_vk as fx
from flux_vk.decode import SamplingParams
from flux_vk.engine.batch import PADDING, PLAIN
from flux_vk.engine.model import Model
from flux_vk.errors import ContextFull, FluxError, InputError
from tests.engine.null_model import null_model, script, submits

GREEDY = SamplingParams(temperature=0)


@pytest.fixture(params=["cpu", "discrete"])
def null(request: pytest.FixtureRequest, demo_model: Path) -> Model:
    """Four slots; one decode step in flight on a CPU driver, two elsewhere."""
    model = null_model(demo_model, kind=request.param, sequences=4)
    script(model, 400)
    return model


def free(model: Model) -> bool:
    runner = model.runner
    groups = sorted(runner._groups) == list(range(runner.limits.sequences))
    return groups and runner.slots.in_use == 0 and runner.pool.n_free == runner.pool.n_pages


def test_one_submit_gives_every_text_a_token(null: Model) -> None:
    many = null.start_many([[1] * 8] * 3, GREEDY, max_tokens=6)
    assert len(list(many)) == 18 and free(null)
    assert submits(null) == {"prefill of 24": 1, "decode of 4": 5}


def test_short_prompts_share_a_step(null: Model) -> None:
    many = null.start_many([[1] * 34, [2] * 30, [3] * 5, [4] * 70], GREEDY, max_tokens=1)
    assert [i for i, _ in many] == [0, 1, 2, 3]
    assert submits(null) == {"prefill of 64": 2, "prefill of 8": 2}, "34 and 30; 5; 64 and 6"
    b = null.runner.buffers
    list(null.start_many([[1], [2], [3, 4]], GREEDY, max_tokens=1))
    assert b.ids.view()[:4].tolist() == [1, 2, 3, 4] and b.pos.view()[:4].tolist() == [0, 0, 0, 1]
    assert b.logit_row.view()[:3].tolist() == [0, 1, 3] and b.last_pos.view()[:3].tolist() == [0, 0, 1]
    slots = b.last_slot.view().tolist()
    assert len(set(slots[:3])) == 3 and slots[3:] == [PADDING] * 29
    assert b.slot.view()[:4].tolist() == [*slots[:3], slots[2]] and set(b.slot.view()[4:].tolist()) == {PADDING}
    assert submits(null)["prefill of 8"] == 3, "four rows would have the logits in their own order"


def test_a_batch_shrinks_and_runs_no_step_for_nothing(null: Model) -> None:
    many = null.start_many([[1] * 4] * 4, GREEDY, max_tokens=[1, 10, 3, 6])
    assert [len(g.tokens) for g in many.generations] == [0] * 4
    list(many)
    assert [g.finish_reason for g in many.generations] == ["length"] * 4
    # Three texts for two steps (a row is padding), two for three more, one for the last four.
    assert submits(null) == {"prefill of 16": 1, "decode of 4": 2, "decode of 2": 3, "decode step": 4}


def test_chains_of_a_size_are_recorded_once(null: Model) -> None:
    for _ in range(3):
        list(null.start_many([[1] * 4] * 4, GREEDY, max_tokens=[2, 3, 4, 5]))
        list(null.start([1] * 4, GREEDY, max_tokens=3))
    with null.session():
        list(null.start([1] * 4, GREEDY, max_tokens=3))  # in another slot
    names = [recorded.name for recorded in null.runner._chains.values()]
    assert sorted(names) == ["decode of 2", "decode of 4", "decode step", "prefill of 16", "prefill of 4"]


def test_the_slots_of_a_step_stand_in_its_group(null: Model) -> None:
    many = null.start_many([[1] * 4] * 3, GREEDY, max_tokens=[9, 2, 9])
    for _ in range(3):
        next(many)
    numbers = null.runner.buffers.group_slots(0).view()
    assert numbers.tolist() == [0, 1, 2, *[PADDING] * 29]
    with null.start_many([[1] * 4], GREEDY) as other:
        next(other)
        assert null.runner.buffers.group_slots(1).view().tolist() == [3, *[PADDING] * 31]
        assert numbers.tolist() == [0, 1, 2, *[PADDING] * 29]
    while len(many.generations[0].tokens) < 5:
        next(many)
    assert numbers.tolist() == [0, 2, *[PADDING] * 30]
    many.close()
    assert free(null)


def test_who_waits_joins_when_another_ends(null: Model) -> None:
    many = null.start_many([[1] * 4] * 6, GREEDY, max_tokens=[20, 20, 4, 20, 20, 20])
    for i, _ in many:
        if i == 4:
            break
    lengths = [len(g.tokens) for g in many.generations]
    assert lengths[2] == 4 and lengths[5] == 0 and null.runner.slots.in_use == 4
    assert lengths[0] == 4, "the others went on without a pause"
    list(many)
    assert [len(g.tokens) for g in many.generations] == [20, 20, 4, 20, 20, 20] and free(null)


@pytest.mark.parametrize("first", range(3))
def test_a_slot_that_somebody_gives_back_is_taken(null: Model, first: int) -> None:
    """Also between the first token and the next, when steps are in flight."""
    sessions = [null.session() for _ in range(3)]
    many = null.start_many([[1] * 4] * 3, GREEDY, max_tokens=12)
    for _ in range(1 + first):
        assert next(many)[0] == 0
    sessions.pop().close()
    order = [i for i, _ in many]
    assert [order.count(i) for i in range(3)] == [11 - first, 12, 12]
    assert order.index(1) < 4 and order.index(2) > order.index(1)
    for s in sessions:
        s.close()
    assert free(null)


def test_an_end_token_ends_one_text(null: Model) -> None:
    eos = null.tokenizer.eos_id
    assert eos is not None
    script(null, 400, {9: eos})
    many = null.start_many([[1] * 4, [1] * 20, [1] * 7], GREEDY, max_tokens=20)
    list(many)
    assert [len(g.tokens) for g in many.generations] == [6, 20, 3]
    assert [g.finish_reason for g in many.generations] == ["stop", "length", "stop"]
    assert many.texts[0] == null.tokenizer.decode([400] * 5, after=[1] * 4) and free(null)


def test_prompts_that_leave_no_pages_wait(null: Model) -> None:
    """Seven pages; two prompts of three pages fit beside each other, the third one not."""
    many = null.start_many([[1] * 90] * 3, GREEDY, max_tokens=5)
    order = [i for i, _ in many]
    assert order == [0, 1, *[0, 1] * 4, *[2] * 5]
    assert free(null)


def test_pages_that_others_hold_are_missed_with_a_message(null: Model) -> None:
    with null.session() as s:
        list(null.start([1] * 120, GREEDY, max_tokens=1, session=s))
        many = null.start_many([[1] * 20] * 2, GREEDY)
        with pytest.raises(ContextFull, match="all 7 KV pages"):
            list(many)
        assert [g.finish_reason for g in many.generations] == ["cancelled"] * 2
    assert free(null)


def test_left_without_the_collector(null: Model) -> None:
    gc.disable()
    try:
        for count in (0, 1, 5, 30):
            many = null.start_many([[1] * 4] * 9, GREEDY)
            for _ in range(count):
                next(many)
            del many
            assert free(null)
    finally:
        gc.enable()


def test_a_failing_progress_function_ends_all(null: Model) -> None:
    def fail(index: int, done: int, total: int) -> None:
        if index == 2:
            raise KeyError

    many = null.start_many([[1] * 4] * 3, GREEDY, prompt_progress=fail)
    with pytest.raises(KeyError):
        list(many)
    assert [g.finish_reason for g in many.generations] == ["cancelled"] * 3 and free(null)


def test_no_slot_and_nobody_waits_for_ever(null: Model) -> None:
    """A batch whose texts were all cancelled while it waits for a slot."""
    sessions = [null.session() for _ in range(4)]
    many = null.start_many([[1], [2]], GREEDY)
    many.cancel()
    assert list(many) == [] and [g.finish_reason for g in many.generations] == ["cancelled"] * 2
    for s in sessions:
        s.close()
    assert free(null)


def test_a_step_may_take_a_chain_for_long_contexts(null: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the furthest position of the batch."""
    monkeypatch.setattr(null.runner, "is_long", lambda position: position >= 50)
    list(null.start_many([[1] * 4, [1] * 46], GREEDY, max_tokens=[12, 8]))
    steps = {key[1:]: r.submits for key, r in null.runner._chains.items() if key[0] == "decode"}
    assert steps == {(2, 0, PLAIN, False): 4, (2, 0, PLAIN, True): 3, (1, 0, PLAIN, False): 4}


def test_arguments(null: Model) -> None:
    with pytest.raises(InputError, match="prompts is one text"):
        null.start_many("It was")
    with pytest.raises(InputError, match="params has 1 entries for 2 prompts; expected one for each, or one for all"):
        null.start_many(["a", "b"], [GREEDY])
    with pytest.raises(InputError, match="stop has 3 entries for 2 prompts"):
        null.start_many(["a", "b"], stop=[["x"], [], []])
    with pytest.raises(InputError, match="prompt 1: max_tokens is -1"):
        null.start_many(["a", "b"], max_tokens=[1, -1])
    with pytest.raises(ContextFull, match="prompt 1: the prompt has 128 tokens"):
        null.start_many([[1], [1] * 128])
    many = null.start_many(["a", "b"], GREEDY, max_tokens=[0, 2], stop=["never"])
    assert [i for i, _ in many] == [1, 1] and len(many) == 2
    assert [g.finish_reason for g in many.generations] == ["length", "length"] and free(null)


def test_closing_the_model_ends_it(null: Model) -> None:
    many = null.start_many([[1] * 4] * 3, GREEDY)
    next(many)
    null.close()
    with pytest.raises(FluxError, match="the model is closed; load it again"):
        list(many)
    assert many.generations[0].finish_reason == "cancelled"


def test_the_name_is_public() -> None:
    from flux_vk import engine

    assert engine.Many.__name__ == "Many" and fx.SamplingParams is SamplingParams
