"""One model from several threads: the same tokens as alone, waiting for a slot, failures that stay where they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import flux_vk as fx
from flux_vk.engine import model as model_module
from flux_vk.engine.generation import Generation
from flux_vk.engine.model import Model
from flux_vk.errors import InputError
from flux_vk.gpu import Device

PROMPTS = ("It was in July", "Natasha looked at him and", "The commander in chief", "Prince Andrew")
LENGTH = 24


@pytest.fixture(scope="module")
def two_slots(device: Device, demo_model: Path) -> Iterator[Model]:
    with fx.load(demo_model, device=device, sequences=2, kv_tokens=512) as m:
        yield m


def run(model: Model, prompt: str, seed: int) -> Generation:
    # A seeded draw with every rule at work, so that any mix-up of slots would show.
    params = fx.SamplingParams(
        temperature=0.9, top_k=50, repeat_penalty=1.1, seed=seed, logit_bias={400 + seed: 2.0}, logprobs=3
    )
    g = model.start(prompt, params, max_tokens=LENGTH)
    for _ in g:
        pass
    return g


def test_same_seed_same_tokens(model: Model) -> None:
    first, second, other = run(model, PROMPTS[0], 1), run(model, PROMPTS[0], 1), run(model, PROMPTS[0], 2)
    assert first.tokens == second.tokens != other.tokens
    assert first.text == second.text


def test_threads_get_what_they_would_get_alone(model: Model) -> None:
    """Eight threads on eight slots, prompts of every length, tokens and log-probabilities."""
    jobs = [(PROMPTS[i % 4] * (1 + i % 3), i) for i in range(8)]

    def tokens(job: tuple[str, int]) -> list[tuple[int, float | None]]:
        params = fx.SamplingParams(temperature=0.8, seed=job[1], logprobs=job[1] % 2)
        return [(t.id, t.logprob) for t in model.start(job[0], params, max_tokens=LENGTH)]

    alone = [tokens(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokens, jobs)) == alone


def test_more_threads_than_slots_wait_their_turn(two_slots: Model) -> None:
    jobs = [(PROMPTS[i % 4], i) for i in range(6)]
    alone = [run(two_slots, *job).tokens for job in jobs]
    most = 0
    lock = threading.Lock()

    def job(prompt: str, seed: int) -> list[int]:
        nonlocal most
        g = run(two_slots, prompt, seed)
        with lock:
            most = max(most, two_slots.runner.slots.in_use)
        return g.tokens

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda j: job(*j), jobs)) == alone
    assert most <= 2
    assert two_slots.runner.slots.in_use == 0


def test_asking_for_logits_meanwhile_changes_nothing(model: Model) -> None:
    ids = model.prompt_ids(PROMPTS[1])
    logits, tokens = model.logits(ids), run(model, PROMPTS[0], 3).tokens
    with ThreadPoolExecutor(2) as pool:
        text = pool.submit(lambda: [run(model, PROMPTS[0], 3).tokens for _ in range(3)])
        asked = pool.submit(lambda: [model.logits(ids) for _ in range(6)])
        assert text.result() == [tokens] * 3
        assert all((found == logits).all() for found in asked.result())


def test_every_sequence_may_fill_its_context_where_memory_is_no_matter(device: Device, demo_model: Path) -> None:
    with fx.load(demo_model, device=device, context=100) as m:
        assert m.runner.limits.kv_tokens == 8 * 128

        def fill(seed: int) -> str | None:
            params = fx.SamplingParams(temperature=0.9, seed=seed, logit_bias={2: float("-inf")})
            g = m.start(PROMPTS[0], params)
            for _ in g:
                pass
            return g.finish_reason

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(fill, range(8))) == ["context"] * 8


def test_a_large_cache_is_shared(demo_model: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "SHARED_KV_BYTES", 1 << 20)
    with fx.load(demo_model, device=device) as m:
        assert m.runner.limits.kv_tokens == 256 + 7 * 32


class Interrupted(Exception):
    """Raised by a test's own progress function."""


def interrupted(done: int, total: int) -> None:
    raise Interrupted


@pytest.mark.parametrize("fail", ["progress", "consumer", "argument"])
def test_a_failure_leaves_the_others_well(model: Model, fail: str) -> None:
    tokens = run(model, PROMPTS[0], 5).tokens

    def broken() -> None:
        if fail == "progress":
            list(model.start("It was", prompt_progress=interrupted))
        elif fail == "consumer":
            for _ in model.start("It was"):
                raise Interrupted
        else:
            list(model.start("It was", fx.SamplingParams(logit_bias={1 << 20: 1.0})))

    def many(call: Callable[[], object]) -> int:
        failures = 0
        for _ in range(10):
            try:
                call()
            except (Interrupted, InputError):
                failures += 1
        return failures

    with ThreadPoolExecutor(2) as pool:
        failed = pool.submit(many, broken)
        assert all(run(model, PROMPTS[0], 5).tokens == tokens for _ in range(3))
        assert failed.result() == 10


def test_cancel_from_another_thread(model: Model) -> None:
    g = model.start(PROMPTS[0], fx.SamplingParams(temperature=0.9, seed=1, logit_bias={2: float("-inf")}))
    next(g)
    threading.Timer(0.02, g.cancel).start()
    count = 1 + sum(1 for _ in g)
    assert g.finish_reason == "cancelled" and 1 < count == len(g.tokens)


def test_cancel_while_waiting_for_a_slot(two_slots: Model) -> None:
    with two_slots.session(), two_slots.session():
        g = two_slots.start(PROMPTS[0])
        threading.Timer(0.05, g.cancel).start()
        assert list(g) == [] and g.finish_reason == "cancelled"


def test_two_models_on_one_device(device: Device, demo_model: Path) -> None:
    """Steps of both go to one queue; each keeps its own cache."""
    with fx.load(demo_model, device=device, kv_type="f32") as a, fx.load(demo_model, device=device) as b:
        alone = [run(m, PROMPTS[0], 9).tokens for m in (a, b)]
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda m: run(m, PROMPTS[0], 9).tokens, (a, b))) == alone


def test_closing_ends_the_threads_that_use_it(device: Device, demo_model: Path) -> None:
    m = fx.load(demo_model, device=device, sequences=1)
    errors: list[str] = []
    begun = threading.Barrier(4)

    def work() -> None:
        begun.wait()
        try:
            while True:
                run(m, PROMPTS[0], 1)
        except fx.FluxError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    begun.wait()
    threading.Event().wait(0.1)
    m.close()
    for t in threads:
        t.join(30)
    assert errors == ["the model is closed; load it again"] * 3
