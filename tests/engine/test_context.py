"""The end of the context: a clear stop, or pages recycled as a float64 sliding window says; what sessions keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import flux_vk as fx
from flux_vk.engine.model import Model
from flux_vk.engine.pages import PAGE_SIZE
from flux_vk.engine.session import Session
from flux_vk.errors import ContextFull, InputError
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Device
from flux_vk.models import reference

Array = npt.NDArray[np.float64]
CONTEXT = 128
ENTRIES = CONTEXT // PAGE_SIZE
NO_END = {2: float("-inf")}  # the end token never comes
GREEDY = fx.SamplingParams(temperature=0, logit_bias=NO_END)
PROMPT = "It was in July"


@pytest.fixture(scope="module")
def stopping(device: Device, demo_model: Path) -> Iterator[Model]:
    with fx.load(demo_model, device=device, kv_type="f32", context=CONTEXT) as m:
        yield m


@pytest.fixture(scope="module")
def shifting(device: Device, demo_model: Path) -> Iterator[Model]:
    with fx.load(demo_model, device=device, kv_type="f32", context=CONTEXT, context_shift=True) as m:
        yield m


def run(model: Model, prompt: str | list[int], n: int | None = None, session: Session | None = None) -> list[int]:
    g = model.start(prompt, GREEDY, max_tokens=n, session=session)
    for _ in g:
        pass
    return g.tokens


def sliding(path: Path, ids: list[int], monkeypatch: pytest.MonkeyPatch) -> Array:
    """Logits where a query sees the first page and the newest ENTRIES - 1 pages, its own among them; float64."""

    def attend(q: Array, k: Array, v: Array, scale: float, softcap: float = 0.0, window: int = 0) -> Array:
        group = q.shape[1] // k.shape[1]
        s = np.einsum("ihd,jhd->hij", q, np.repeat(k, group, axis=1)) * scale
        i, j = np.arange(len(q))[:, None], np.arange(len(k))[None, :]
        kept = (j < PAGE_SIZE) | (j // PAGE_SIZE > i // PAGE_SIZE - (ENTRIES - 1))
        e = np.where((j <= i) & kept, np.exp(s - s.max(axis=-1, keepdims=True)), 0.0)
        return np.asarray(np.einsum("hij,jhd->ihd", e / e.sum(axis=-1, keepdims=True), np.repeat(v, group, axis=1)))

    monkeypatch.setattr(reference, "attend", attend)
    with open_gguf(path) as file:
        return reference.forward(file, np.array(ids))


def test_the_text_stops_when_prompt_and_text_fill_the_context(stopping: Model) -> None:
    ids = stopping.prompt_ids(PROMPT)
    g = stopping.start(PROMPT, GREEDY)
    assert len(list(g)) == CONTEXT - len(ids)
    assert g.finish_reason == "context"
    assert stopping.runner.slots.in_use == 0
    assert g.text == stopping.tokenizer.decode(ids + g.tokens)[len(stopping.tokenizer.decode(ids)) :]


def test_limits_of_prompts(stopping: Model) -> None:
    assert len(run(stopping, [5] * (CONTEXT - 1))) == 1
    message = r"the prompt has 128 tokens and the context holds 128; expected at most 127: shorten .* own limit is 256"
    with pytest.raises(ContextFull, match=message):
        stopping.start([5] * CONTEXT)
    assert len(stopping.logits([5] * CONTEXT)) == CONTEXT
    with pytest.raises(ContextFull, match="129 tokens asked for, the context holds 128"):
        stopping.logits([5] * (CONTEXT + 1))
    with stopping.session() as s:
        s.prefill([5] * CONTEXT)
        with pytest.raises(ContextFull, match="129 tokens asked for"):
            s.decode_step(5)
        assert len(s.cached_tokens) == CONTEXT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context is 0; expected 1 to 256"),
        ({"context": 257}, "context is 257; expected 1 to 256"),
        ({"context": 64, "context_shift": True}, "context is 64; shifting needs at least 96"),
        ({"context": 64, "kv_tokens": 63}, "kv_tokens is 63; expected at least the context of 64"),
        ({"sequences": 0}, "sequences is 0"),
        ({"kv_type": "f64"}, "kv_type is 'f64'"),
    ],
)
def test_sizes_that_cannot_be(device: Device, demo_model: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fx.load(demo_model, device=device, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("context", [1, 2, 31, 33])
def test_small_contexts(device: Device, demo_model: Path, context: int) -> None:
    with fx.load(demo_model, device=device, context=context) as m:
        if context > 1:
            g = m.start([1], fx.SamplingParams(temperature=0, repeat_penalty=1.1, logit_bias=NO_END))
            assert len(list(g)) == context - 1 and g.finish_reason == "context"
        assert m.logits([1] * context).shape == (context, m.config.vocab_size)


def test_up_to_the_wrap_a_shifting_context_is_as_any_other(stopping: Model, shifting: Model) -> None:
    tokens = run(stopping, PROMPT)
    assert run(shifting, PROMPT, 240)[: len(tokens)] == tokens


def test_behind_the_wrap_it_is_a_sliding_window_with_sinks(
    shifting: Model, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen by decode chains one by one; float64 agrees on each choice that is clear, and on all logits."""
    prompt = shifting.prompt_ids(PROMPT)
    tokens = run(shifting, prompt, 230)
    ids = [*prompt, *tokens]
    exact = sliding(demo_model, ids, monkeypatch)
    assert len(ids) > CONTEXT + 3 * PAGE_SIZE
    exact[:, 2] = -np.inf
    choices = exact[len(prompt) - 1 : -1]
    best, second = np.sort(choices, axis=1)[:, :-3:-1].T
    clear = best - second > 2e-3
    assert clear.mean() > 0.9
    assert (choices.argmax(1) == tokens)[clear].all()
    got = shifting.logits(ids)
    got[:, 2] = exact[:, 2] = 0
    np.testing.assert_allclose(got, exact, atol=1e-3, rtol=0)
    monkeypatch.undo()
    with open_gguf(demo_model) as file:
        full = reference.forward(file, np.array(ids))
    full[:, 2] = 0
    assert np.abs(got[:CONTEXT] - full[:CONTEXT]).max() < 1e-3
    assert np.abs(got[CONTEXT:] - full[CONTEXT:]).max() > 0.1, "the window must be seen to matter"


def test_a_long_prompt_gives_the_same_however_it_is_cut(shifting: Model, rng: np.random.Generator) -> None:
    """Prefill in chunks, token by token, and by a generation: bit by bit, across several dropped pages."""
    ids = rng.integers(3, 2000, 300).tolist()
    whole = shifting.logits(ids)
    with shifting.session() as s:
        rows = [s.prefill(ids[:50]), *(s.decode_step(i) for i in ids[50:200]), s.prefill(ids[200:])]
    np.testing.assert_array_equal(rows[:-1], whole[49:200])
    np.testing.assert_array_equal(rows[-1], whole[299])
    assert run(shifting, ids, 1) == [int(np.delete(whole[-1], 2).argmax() + (np.delete(whole[-1], 2).argmax() >= 2))]


def test_a_session_says_what_a_fresh_run_says(stopping: Model) -> None:
    """Several turns, each behind all before; then a prompt that parts from the cache, and a shorter one."""
    with stopping.session() as s:
        history = stopping.prompt_ids(PROMPT)
        for turn in ("Pierre said", " and then", " but"):
            tokens = run(stopping, history, 12, s)
            assert tokens == run(stopping, history, 12)
            assert s.cached_tokens == [*history, *tokens[:-1]]
            history += tokens + stopping.tokenizer.encode(turn, add_special=False)
        for prompt in (history[:20], [*history[:15], 7, 8, 9], history[:20], stopping.prompt_ids("Something else")):
            assert run(stopping, prompt, 12, s) == run(stopping, prompt, 12)


def test_only_what_is_new_is_run(stopping: Model) -> None:
    ran: list[tuple[int, int]] = []
    ids = [1, *range(100, 180)]
    with stopping.session() as s:
        for prompt in (ids, ids, [*ids, 7], ids[:40]):
            g = stopping.start(prompt, GREEDY, max_tokens=1, session=s, prompt_progress=lambda *a: ran.append(a))
            list(g)
            assert s.cached_tokens == prompt
    assert ran == [(64, 81), (81, 81), (81, 81), (82, 82), (40, 40)]


def test_a_session_goes_on_behind_the_wrap(shifting: Model) -> None:
    """What was dropped stays dropped while the text goes on; another prompt begins anew."""
    with shifting.session() as s:
        history = shifting.prompt_ids(PROMPT)
        for _ in range(3):
            history += run(shifting, history, 70, s)
        assert history == shifting.prompt_ids(PROMPT) + run(shifting, PROMPT, 210)
        assert run(shifting, history[:30], 12, s) == run(shifting, history[:30], 12)


def test_sessions_that_take_pages_from_each_other_stay_apart(device: Device, demo_model: Path) -> None:
    """Truncated in turn, so that tables have as many entries as before but other pages."""
    with fx.load(demo_model, device=device, kv_type="f32", context=CONTEXT, sequences=2) as m:
        a, b = [1, *range(100, 180)], [1, *range(300, 380)]
        want = [run(m, ids, 8) for ids in (a, b)]
        with m.session() as first, m.session() as second:
            assert run(m, a, 8, first) == want[0]
            run(m, a[:5], 1, first)
            run(m, b[:40], 1, second)
            assert run(m, a, 8, first) == want[0]
            run(m, a[:5], 1, first)
            assert run(m, b, 8, second) == want[1]
