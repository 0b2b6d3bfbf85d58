"""Decode steps in two halves: what is submitted when, and where masks are worked out between; without Vulkan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flux_vk as fx
from flux_vk.engine.model import Model
from flux_vk.gpu import Recorded
from flux_vk.text import Grammar
from flux_vk.text.matching import Matcher
from tests.engine.null_model import null_model, script

GREEDY = fx.SamplingParams(temperature=0)
ANY = Grammar.regex("(?s:.*)")


@pytest.fixture(params=["cpu", "discrete"])
def null(request: pytest.FixtureRequest, demo_model: Path) -> Model:
    model = null_model(demo_model, kind=request.param, sequences=4)
    script(model, 400)
    return model


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the chains submitted and the masks worked out, in their order."""
    found: list[str] = []
    submit, mask = Recorded.submit, Matcher.mask

    def submitted(self: Recorded) -> int:
        found.append(self.name)
        return submit(self)

    def masked(self: Matcher, *given: Any) -> Any:
        found.append("mask")
        return mask(self, *given)

    monkeypatch.setattr(Recorded, "submit", submitted)
    monkeypatch.setattr(Matcher, "mask", masked)
    return found


def masks_of(model: Model, *grammars: Grammar) -> None:
    """Let a vocabulary have compiled and tried a grammar, which works out masks too."""
    for grammar in grammars:
        model.grammar_vocabulary.matcher(grammar)


def test_a_forward_pass_goes_behind_every_draw_but_the_last(null: Model, events: list[str]) -> None:
    """So a mask is worked out while one runs; the first token's is known before the prompt."""
    masks_of(null, ANY)
    events.clear()
    g = null.start([1] * 4, GREEDY, max_tokens=4, grammar=ANY)
    assert [t.id for t in g] == [400] * 4 and g.finish_reason == "length"
    behind = ["mask", "draw of 1", "forward of 1"]
    assert events == ["mask", "prefill of 4", "forward of 1", *behind, *behind, "mask", "draw of 1"]
    assert null.runner.slots.in_use == 0


def test_the_end_of_the_context(null: Model, events: list[str]) -> None:
    g = null.start([1] * 120, GREEDY, grammar=ANY)
    assert len(list(g)) == 8 and g.finish_reason == "context"
    assert events.count("forward of 1") == events.count("draw of 1") == 7
    assert null.runner.pool.n_free == null.runner.pool.n_pages


def test_who_ends_unforeseen_is_drawn_once_more(null: Model, events: list[str]) -> None:
    """No forward pass is run twice for those who go on."""
    masks_of(null, ANY)
    events.clear()
    script(null, 400, {6: 2})  # the end token, in the second step of a prompt of four
    many = null.start_many([[1] * 4, [1] * 20], GREEDY, max_tokens=6, grammar=ANY)
    list(many)
    assert [g.finish_reason for g in many.generations] == ["stop", "length"]
    assert [len(g.tokens) for g in many.generations] == [3, 6]
    chains = [e for e in events if e != "mask"]
    assert chains == [
        "prefill of 24", "forward of 2", "draw of 2", "forward of 2", "draw of 2", "forward of 2", "draw of 2",
        "forward of 1", "draw of 1", "forward of 1", "draw of 1",
    ]  # fmt: skip
    assert events.count("mask") == 2 * 3 + 3, "none for the text that had ended"
    assert not null.runner.sampler.masks.masked.view()[[g._stream.index for g in many.generations]].all()


def test_without_a_grammar_steps_are_whole_again(null: Model, events: list[str]) -> None:
    many = null.start_many([[1] * 4, [1] * 4], GREEDY, max_tokens=[3, 6], grammar=[ANY, None])
    list(many)
    whole = [e for e in events if e.startswith("decode")]
    assert whole == ["decode step"] * 3 and events.count("forward of 2") == events.count("draw of 2") == 2
    masked = [key for key in null.runner._chains if key[0] == "draw"]
    assert masked[0][3].masked


def test_each_loop_has_logits_of_its_own(null: Model) -> None:
    b = null.runner.buffers
    one, other = b.own_logits(0, 2), b.own_logits(1, 2)
    assert b.own_logits(0, 2) is one and one.shape == (2, null.config.vocab_size)
    assert len({one.memory.id, other.memory.id, b.logits.memory.id}) == 3 or (
        one.end <= other.offset or other.end <= one.offset
    )


def test_a_generation_that_is_left_waits_for_its_forward_pass(null: Model, events: list[str]) -> None:
    g = null.start([1] * 4, GREEDY, grammar=ANY)
    next(g)
    next(g)
    g.close()
    assert events[-1] == "forward of 1"
    runner = null.runner
    assert runner.slots.in_use == 0 and runner.pool.n_free == runner.pool.n_pages
    assert sorted(runner._groups) == list(range(runner.limits.sequences))
    assert all(r.poll() for r in runner._chains.values())
