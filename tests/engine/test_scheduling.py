"""Which chains are submitted when, what is written before, and when a generation ends: without Vulkan."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from flux_vk.decode import SamplingParams
from flux_vk.engine import runner as runner_module
from flux_vk.engine.batch import PADDING
from flux_vk.engine.model import Model
from flux_vk.engine.pages import PAGE_SIZE
from flux_vk.errors import ContextFull, FluxError, InputError
from tests.engine.null_model import null_model, script, submits

GREEDY = SamplingParams(temperature=0)


@pytest.fixture(params=["cpu", "discrete"])
def null(request: pytest.FixtureRequest, demo_model: Path) -> Model:
    """One decode step in flight on a CPU driver, two elsewhere."""
    model = null_model(demo_model, kind=request.param)
    script(model, 400)
    return model


def free(model: Model) -> bool:
    runner = model.runner
    return runner.slots.in_use == 0 and runner.pool.n_free == runner.pool.n_pages


def test_a_prompt_goes_in_chunks_and_no_step_is_run_for_nothing(null: Model) -> None:
    g = null.start([1] * 70, GREEDY, max_tokens=5)
    assert [t.id for t in g] == [400] * 5
    assert g.finish_reason == "length"
    assert submits(null) == {"prefill of 64": 1, "prefill of 8": 1, "decode step": 4}
    assert free(null)


def test_chains_are_recorded_once(null: Model) -> None:
    for _ in range(3):
        list(null.start([1] * 16, GREEDY, max_tokens=3))
    assert submits(null) == {"prefill of 16": 3, "decode step": 6}
    assert len(null.runner._chains) == 2


def test_decode_chains_run_ahead_as_far_as_the_device_likes(null: Model) -> None:
    g = null.start([1], GREEDY)
    next(g)
    assert submits(null)["decode step"] == null.runner.depth == 2
    next(g)
    assert submits(null)["decode step"] == null.runner.depth + 1
    g.close()
    assert g.finish_reason == "cancelled" and free(null)


@pytest.mark.parametrize("prompt", [1, 31, 32, 100, 126, 127])
def test_prompt_and_text_fill_the_context_exactly(null: Model, prompt: int) -> None:
    g = null.start([1] * prompt, GREEDY)
    assert len(list(g)) == 128 - prompt
    assert g.finish_reason == "context"
    assert submits(null).get("decode step", 0) == 128 - prompt - 1


def test_a_prompt_that_leaves_no_room_is_refused_at_once(null: Model) -> None:
    with pytest.raises(ContextFull, match="the prompt has 128 tokens and the context holds 128; expected at most 127"):
        null.start([1] * 128)


def test_an_end_token_ends_the_text(null: Model) -> None:
    eos = null.tokenizer.eos_id
    assert eos is not None
    script(null, 400, {7: eos})
    g = null.start([1] * 4, GREEDY, max_tokens=50)
    tokens = list(g)
    assert [t.id for t in tokens] == [400, 400, 400, eos]
    assert tokens[-1].piece == "" and g.finish_reason == "stop"
    assert g.text == "".join(t.piece for t in tokens) == null.tokenizer.decode([400] * 3)
    assert free(null)


def test_max_tokens_zero_runs_nothing(null: Model) -> None:
    g = null.start("It", GREEDY, max_tokens=0)
    assert list(g) == [] and g.finish_reason == "length" and g.text == ""
    assert submits(null) == {}
    with pytest.raises(InputError, match="max_tokens is -1"):
        null.start("It", max_tokens=-1)


def test_the_device_has_the_page_table_of_every_sequence(null: Model) -> None:
    """Also where a sequence lost pages to another one, and then has as many as the device knew of, but others."""
    runner = null.runner
    a, b = runner.open_sequence(), runner.open_sequence()
    runner.prefill(a, [1] * 64)
    runner.prefill(a, [1] * 20)
    assert a.keep_prefix([1] * 10 + [2] * 64) == 10
    runner.prefill(b, [1] * 40)
    runner.prefill(a, [2] * 64)
    assert len(a.table.entries) == 3 and set(a.table.entries).isdisjoint(b.table.entries)
    for s in (a, b):
        row = runner.buffers.pages.view()[s.slot]
        assert row[: len(s.table.entries)].tolist() == s.table.entries
        runner.close_sequence(s)
    assert free(null)


@pytest.mark.parametrize("chunks", [1, 7, 64])
def test_a_shifted_context_moves_the_table_with_its_pages(demo_model: Path, chunks: int) -> None:
    model = null_model(demo_model, shift=True)
    runner = model.runner
    sequence = runner.open_sequence()
    done = 0
    while done < 300:
        n = runner.chunk(sequence, 300 - done, chunks)
        if (done + n - 1) // PAGE_SIZE >= 4:
            assert done // PAGE_SIZE == (done + n - 1) // PAGE_SIZE, "a step that drops a page stays in its page"
        runner.prefill(sequence, [1] * n)
        done += n
    assert sequence.table.dropped == 6 and len(sequence.table.entries) == 4
    assert runner.buffers.slot_info.view()[sequence.slot].tolist() == [1, 6, 0, 0]
    assert runner.buffers.pages.view()[sequence.slot].tolist() == sequence.table.entries
    runner.close_sequence(sequence)


def test_a_shifted_context_has_no_end(demo_model: Path) -> None:
    model = null_model(demo_model, kind="discrete", shift=True)
    script(model, 400)
    g = model.start([1] * 200, GREEDY, max_tokens=100)
    assert len(list(g)) == 100 and g.finish_reason == "length"


def test_rows_and_positions_are_written_before_a_step(null: Model) -> None:
    b = null.runner.buffers
    list(null.start([*range(3, 73)], GREEDY, max_tokens=1))
    np.testing.assert_array_equal(b.ids.view()[:6], np.arange(67, 73))
    np.testing.assert_array_equal(b.pos.view()[:6], np.arange(64, 70))
    assert (b.last_pos.view()[0], b.logit_row.view()[0]) == (69, 5)
    assert b.slot.view()[:8].tolist() == [0] * 6 + [PADDING] * 2


def test_a_few_sizes_serve_all_prompts(null: Model) -> None:
    tile = 4 if null.device.family == "cpu" else 8
    for n in range(1, 65):
        list(null.start([1] * n, GREEDY, max_tokens=1))
    sizes = {int(name.removeprefix("prefill of ")) for name in submits(null)}
    assert sizes == {1, 2, 4, *range(tile, 65, tile)}
    assert runner_module.rows_for(13, "gpu", 14) == 13, "where the rows of logits are few, none is padding"


def test_recorded_chains_are_bounded_and_dropped_ones_come_back(null: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "PREFILL_CHAINS", 3)
    g = null.start([1], GREEDY)
    next(g)
    for n in range(1, 60):
        list(null.start([1] * n, GREEDY, max_tokens=2))
    assert len(null.runner._chains) == 3 + 2 * 2
    assert next(g).id == 400
    g.close()


def test_an_abandoned_generation_ends_without_the_collector(null: Model) -> None:
    gc.disable()
    try:
        for _ in range(5):
            for _piece in null.generate([1], seed=1):
                break
            assert free(null)
            for _token in null.start([1]):
                break
            assert free(null)
            g = null.start([1])
            next(g)
            del g
            assert free(null)
    finally:
        gc.enable()


def test_cancel_ends_after_the_token_in_flight(null: Model) -> None:
    g = null.start([1] * 3, GREEDY)
    next(g)
    g.cancel()
    assert [t.id for t in g] == [400]
    assert g.finish_reason == "cancelled" and len(g.tokens) == 2 and free(null)
    g = null.start([1] * 100, GREEDY, prompt_progress=lambda done, total: g.cancel())
    assert list(g) == [] and g.finish_reason == "cancelled" and free(null)
    assert [name for name in submits(null) if name > "prefill of 4"] == ["prefill of 64"], "the rest is not run"


def test_progress_counts_what_is_run(null: Model) -> None:
    seen: list[tuple[int, int]] = []
    with null.session() as s:
        for prompt in ([1] * 100, [1] * 110):
            list(null.start(prompt, GREEDY, max_tokens=1, session=s, prompt_progress=lambda *a: seen.append(a)))
    assert seen == [(64, 100), (100, 100), (110, 110)]


def test_a_session_runs_one_generation_at_a_time(null: Model) -> None:
    s = null.session()
    g = null.start([1], GREEDY, session=s)
    next(g)
    with pytest.raises(FluxError, match="in use by another generation"):
        next(null.start([1], GREEDY, session=s))
    with pytest.raises(FluxError, match="in use by another generation"):
        s.decode_step(1)
    s.close()
    assert null.runner.slots.in_use == 1, "the generation still has it"
    assert len(list(g)) == 1 and g.finish_reason == "cancelled"
    assert free(null)
    s.close()
    with pytest.raises(FluxError, match="the session is closed"):
        next(null.start([1], GREEDY, session=s))
    with pytest.raises(FluxError, match="the session is closed"):
        s.prefill([1])


def test_a_session_of_another_model_is_refused(null: Model, demo_model: Path) -> None:
    other = null_model(demo_model)
    with other.session() as s, pytest.raises(InputError, match="belongs to another model"):
        null.start([1], session=s)


def test_pages_that_others_hold_are_missed_with_a_message(null: Model) -> None:
    """128 tokens and one page more for two sequences: the second one cannot fill its context while the first lives."""
    with null.session() as s:
        list(null.start([1] * 120, GREEDY, max_tokens=1, session=s))
        g = null.start([1] * 20, GREEDY)
        with pytest.raises(ContextFull, match="all 5 KV pages"):
            list(g)
        assert g.finish_reason == "cancelled" and 0 < len(g.tokens) < 20
    assert free(null)
    assert len(list(null.start([1] * 20, GREEDY))) == 108


def test_use_after_close(null: Model) -> None:
    g, s = null.start([1], GREEDY), null.session()
    next(g)
    null.close()
    null.close()
    for call in (
        lambda: next(g), lambda: null.start("It"), lambda: null.logits([1]), lambda: null.perplexity([1, 2]),
        null.session, lambda: s.prefill([1]), lambda: null.context,
    ):  # fmt: skip
        with pytest.raises(FluxError, match="the model is closed; load it again"):
            call()
    s.close()
    assert g.timings["load_s"] == 0 and len(g.tokens) == 1
