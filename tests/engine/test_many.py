"""Several prompts decoded together: each gets, bit for bit, what it gets alone, however they come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import flux_vk as fx
from flux_vk.engine.generation import Written
from flux_vk.engine.many import Many
from flux_vk.engine.model import Model
from flux_vk.engine.stream import Token
from flux_vk.gpu import Device

PROMPTS = ("It was in July", "Natasha looked at him and", "The commander in chief", "Prince Andrew")
NO_END = {2: float("-inf")}


@dataclass(frozen=True)
class Job:
    """What one stream is asked for."""

    prompt: list[int]
    params: fx.SamplingParams
    most: int | None
    stop: tuple[str, ...] = ()


def jobs(model: Model, rng: np.random.Generator, n: int, longest: int = 40) -> list[Job]:
    """Prompts of all lengths, every rule of sampling, limits that are reached at different times."""
    ways: list[dict[str, object]] = [
        {"temperature": 0},
        {"temperature": 0.9, "top_k": 50, "repeat_penalty": 1.1, "logprobs": 3},
        {"temperature": 0.8, "top_k": 0, "top_p": 0.9, "min_p": 0.0},
        {"temperature": 1.0, "frequency_penalty": 0.3, "logit_bias": NO_END},
        {"temperature": 1.2, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    ]
    made = []
    for i in range(n):
        ids = model.prompt_ids(PROMPTS[i % 4]) + rng.integers(3, 2000, int(rng.integers(0, longest))).tolist()
        params = fx.SamplingParams(seed=i, **ways[i % len(ways)])  # type: ignore[arg-type]
        made.append(Job(ids, params, int(rng.integers(1, 30)), (" the", "and") if i % 3 == 0 else ()))
    return made


def alone(model: Model, job: Job) -> tuple[list[Token], str, str | None]:
    g = model.start(job.prompt, job.params, max_tokens=job.most, stop=job.stop)
    return list(g), g.text, g.finish_reason


def begin(model: Model, made: list[Job]) -> Many:
    return model.start_many(
        [j.prompt for j in made], [j.params for j in made], max_tokens=[j.most for j in made],
        stop=[list(j.stop) for j in made],
    )  # fmt: skip


def together(model: Model, made: list[Job]) -> list[tuple[list[Token], str, str | None]]:
    many = begin(model, made)
    tokens: list[list[Token]] = [[] for _ in made]
    for i, token in many:
        tokens[i].append(token)
    assert [[t.id for t in row] for row in tokens] == [g.tokens for g in many.generations]
    return [(row, g.text, g.finish_reason) for row, g in zip(tokens, many.generations, strict=True)]


@pytest.fixture(scope="module")
def narrow(device: Device, demo_model: Path) -> Iterator[Model]:
    """Three slots, and pages for little more than one context."""
    with fx.load(demo_model, device=device, kv_type="f32", sequences=3, context=256, kv_tokens=320) as m:
        yield m


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
def test_each_gets_what_it_gets_alone(model: Model, rng: np.random.Generator, n: int) -> None:
    """Also those that wait for a slot (13 prompts, eight slots)."""
    made = jobs(model, rng, n)
    want = [alone(model, job) for job in made]
    assert together(model, made) == want


@pytest.mark.parametrize("lengths", [(1,), (1, 1), (1, 1, 1), (1, 1, 2), (2, 1, 1, 1, 1), (1,) * 8, (9, 1, 40, 3, 11)])
def test_prompts_that_share_a_step(model: Model, rng: np.random.Generator, lengths: tuple[int, ...]) -> None:
    params = fx.SamplingParams(temperature=0.9, top_k=0, seed=7, logprobs=1)
    made = [Job(rng.integers(3, 2000, n).tolist(), params, 3) for n in lengths]
    want = [alone(model, job) for job in made]
    assert together(model, made) == want


def test_thirty_two_rows(device: Device, demo_model: Path, rng: np.random.Generator) -> None:
    """All sizes of batches that there are: from 32 rows, some of them padding, down to one."""
    with fx.load(demo_model, device=device, kv_type="f32", sequences=40) as m:
        made = jobs(m, rng, 36, longest=6)
        want = [alone(m, job) for job in made]
        assert together(m, made) == want
        names = {recorded.name for recorded in m.runner._chains.values()}
        assert {"decode step", "decode of 16", "decode of 32"} <= names
        assert m.runner.slots.in_use == 0
        assert m.runner.buffers.arena.nbytes <= m.memory_plan()["activations"]


def test_where_pages_are_short_the_youngest_waits_and_loses_nothing(narrow: Model, rng: np.random.Generator) -> None:
    """Ten pages for three texts that grow to six each: tokens are run again, and come out the same."""
    made = [
        Job(rng.integers(3, 2000, 30 + 9 * i).tolist(), fx.SamplingParams(seed=i, temperature=0.9, logit_bias=NO_END,
            repeat_penalty=1.1, logprobs=i), 140)
        for i in range(5)
    ]  # fmt: skip
    want = [alone(narrow, job) for job in made]
    prefill, runs = narrow.runner.prefill, []
    narrow.runner.prefill = lambda *a, **k: (runs.append(len(a[1])), prefill(*a, **k))[1]  # type: ignore[method-assign]
    try:
        assert together(narrow, made) == want
    finally:
        narrow.runner.prefill = prefill  # type: ignore[method-assign]
    assert sum(runs) > sum(len(j.prompt) for j in made), "nobody had to wait; the test is too easy"
    assert narrow.runner.slots.in_use == 0 and narrow.runner.pool.n_free == narrow.runner.pool.n_pages


def test_beside_other_threads(model: Model, rng: np.random.Generator) -> None:
    """Two batches, single generations and questions for logits at once, on eight slots."""
    made, more, single = jobs(model, rng, 5), jobs(model, rng, 4), jobs(model, rng, 3)
    want = [[alone(model, job) for job in group] for group in (made, more, single)]
    ids = model.prompt_ids(PROMPTS[2])
    logits = model.logits(ids)
    with ThreadPoolExecutor(4) as pool:
        first, second = pool.submit(together, model, made), pool.submit(together, model, more)
        third = pool.submit(lambda: [alone(model, job) for job in single])
        fourth = pool.submit(lambda: [model.logits(ids) for _ in range(5)])
        assert [first.result(), second.result(), third.result()] == want
        assert all((found == logits).all() for found in fourth.result())


def test_several_batches_and_too_few_slots(narrow: Model, rng: np.random.Generator) -> None:
    made = [jobs(narrow, rng, 3, longest=10) for _ in range(3)]
    want = [[alone(narrow, job) for job in group] for group in made]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda group: together(narrow, group), made)) == want


@pytest.mark.parametrize("shift", [False, True])
def test_to_the_end_of_the_context(device: Device, demo_model: Path, rng: np.random.Generator, shift: bool) -> None:
    with fx.load(demo_model, device=device, kv_type="f32", context=128, context_shift=shift) as m:
        made = [
            Job(rng.integers(3, 2000, 10 + 29 * i).tolist(), fx.SamplingParams(seed=i, logit_bias=NO_END), 110)
            for i in range(4)
        ]
        want = [alone(m, job) for job in made]
        assert together(m, made) == want
        assert {reason for _, _, reason in want} == ({"length"} if shift else {"length", "context"})


def test_cancel_one_and_cancel_all(model: Model) -> None:
    params = fx.SamplingParams(temperature=0.9, seed=1, logit_bias=NO_END)
    want = alone(model, Job(model.prompt_ids(PROMPTS[0]), params, 40))
    many = model.start_many([PROMPTS[i % 4] for i in range(10)], params, max_tokens=40)
    seen = 0
    for i, _ in many:
        seen += 1
        if i == 1 and len(many.generations[1].tokens) == 5:
            many.generations[1].cancel()
            many.generations[9].cancel()
    reasons = [g.finish_reason for g in many.generations]
    assert reasons == ["length", "cancelled", *["length"] * 7, "cancelled"]
    assert len(many.generations[1].tokens) < 10 and many.generations[9].tokens == []
    assert seen == sum(len(g.tokens) for g in many.generations)
    assert many.generations[0].text == many.generations[4].text == want[1]

    many = model.start_many(PROMPTS, params)
    next(many)
    threading.Timer(0.05, many.cancel).start()
    for _ in many:
        pass
    assert [g.finish_reason for g in many.generations] == ["cancelled"] * 4


def test_many_texts_in_one_call(model: Model) -> None:
    texts = model.generate_many(PROMPTS, 8, temperature=0.9, seed=3)
    assert texts == ["".join(model.generate(p, 8, temperature=0.9, seed=3)) for p in PROMPTS]
    assert len(set(model.generate_many([PROMPTS[0]] * 4, 8, temperature=1.5, top_k=0))) > 1, "a seed for each"
    assert model.generate_many([]) == []


def test_figures_of_each(model: Model, rng: np.random.Generator) -> None:
    told: list[tuple[int, int, int]] = []
    prompts = [rng.integers(3, 2000, n).tolist() for n in (5, 100, 70)]
    with model.start_many(prompts, max_tokens=3, prompt_progress=lambda *a: told.append(a)) as many:
        for _ in many:
            pass
    rows = model.runner.limits.max_rows
    assert told == [(i, min(at + rows, n), n) for i, n in enumerate((5, 100, 70)) for at in range(0, n, rows)]
    times = [g.timings for g in many.generations]
    waited = [t["ttft_s"] for t in times]
    assert 0 < waited[0] < waited[1] < waited[2], "prompts are run one after the other"
    assert all(t["generated_per_second"] > 0 and t["prompt_per_second"] > 0 for t in times)
    assert [isinstance(g, Written) and g.prompt_tokens for g in many.generations] == prompts


def left(many: Many) -> None:
    for _ in many:
        break


def failed(many: Many) -> None:
    def consume() -> None:
        for _ in many:
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    many.close()


@pytest.mark.parametrize("leave", [left, failed, Many.close], ids=["left", "failed", "closed"])
def test_left_early(model: Model, leave: Callable[[Many], None]) -> None:
    """Slots and pages are free again (the fixture looks), and the next texts are as they should be."""
    want = alone(model, Job(model.prompt_ids(PROMPTS[0]), fx.SamplingParams(temperature=0), 10))
    many = model.start_many(list(PROMPTS) * 3, fx.SamplingParams(temperature=0))
    for _ in range(15):
        next(many)
    leave(many)
    del many
    assert alone(model, Job(model.prompt_ids(PROMPTS[0]), fx.SamplingParams(temperature=0), 10)) == want
