"""Texts that follow a grammar, on the demo model: every one validates, and nothing else changes."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import flux_vk as fx
from flux_vk.engine.model import Model
from flux_vk.errors import FluxError, GrammarError, InputError
from flux_vk.gpu import Device
from flux_vk.text import Grammar
from tests.text.walks import ARITHMETIC, LARK, LIST, SCHEMAS, is_arithmetic, is_list

PERSON = Grammar.from_json_schema(SCHEMAS["person"])
CODE = Grammar.regex("[0-9]{3}-[a-z]{2,9}!")
LONG = Grammar.regex("(?s:[^z]*)z")  # hardly ever ends
PROMPT = "It was in July"


def run(model: Model, grammar: Grammar | None, prompt: Any = PROMPT, most: int = 300, **more: Any) -> tuple[Any, ...]:
    stop, session = more.pop("stop", ()), more.pop("session", None)
    g = model.start(
        prompt, fx.SamplingParams(**more), max_tokens=most, stop=stop, grammar=grammar, session=session
    )
    shown = "".join(token.piece for token in g)
    assert shown == g.text
    return g.text, g.tokens, g.finish_reason


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("temperature", [0.0, 0.8, 3.0])
def test_json_validates(model: Model, rng: np.random.Generator, name: str, temperature: float) -> None:
    grammar = Grammar.from_json_schema(SCHEMAS[name])
    checker = jsonschema.Draft202012Validator(SCHEMAS[name])
    ended = 0
    for seed in rng.integers(0, 2**63, 1 if temperature == 0 else 8).tolist():
        top_k = 0 if temperature > 1 else 40
        text, tokens, reason = run(model, grammar, temperature=temperature, seed=seed, top_k=top_k)
        if reason == "stop":
            checker.validate(json.loads(text))
            ended += 1
        else:
            assert reason == "context" and len(tokens) > 100
    assert ended or temperature == 0, "no text came to an end"


@pytest.mark.parametrize(
    "text, check", [(LIST, is_list), (ARITHMETIC, is_arithmetic),
                    (LARK, lambda t: re.fullmatch("(hello|he|caf\u00e9) [a-z\u00e4]{1,9}!", t))],
)  # fmt: skip
def test_grammars_are_followed(model: Model, rng: np.random.Generator, text: str, check: Any) -> None:
    grammar = Grammar.from_text(text)
    seeds = rng.integers(0, 2**63, 8).tolist()
    many = model.start_many(
        [PROMPT] * 9, [fx.SamplingParams(temperature=0), *(fx.SamplingParams(temperature=1.5, seed=s) for s in seeds)],
        max_tokens=200, grammar=grammar,
    )  # fmt: skip
    list(many)
    ended = [g.text for g in many.generations if g.finish_reason == "stop"]
    assert ended and all(check(t) for t in ended), ended


def test_others_in_the_batch_notice_nothing(model: Model, rng: np.random.Generator) -> None:
    """Texts with several grammars and with none, of many lengths, coming and going: each what it is alone."""
    grammars = [PERSON, None, CODE, None, LONG] * 3
    most = rng.integers(1, 60, 15).tolist()
    params = [
        fx.SamplingParams(seed=int(s), temperature=1.0, repeat_penalty=1.1 if i % 2 else 1.0, logprobs=i % 3)
        for i, s in enumerate(rng.integers(0, 2**63, 15))
    ]
    prompts = [rng.integers(3, 2000, int(rng.integers(1, 80))).tolist() for _ in range(15)]
    many = model.start_many(prompts, params, max_tokens=most, grammar=grammars, stop=["and"])
    together: list[list[fx.engine.Token]] = [[] for _ in prompts]
    for i, token in many:
        together[i].append(token)
    for i, g in enumerate(many.generations):
        alone = model.start(prompts[i], params[i], max_tokens=most[i], grammar=grammars[i], stop=["and"])
        assert together[i] == list(alone), i
        assert (g.text, g.finish_reason) == (alone.text, alone.finish_reason)


def test_where_a_text_ends(model: Model) -> None:
    """With its last character, not with a token behind it; also where max_tokens falls on it."""
    text, tokens, reason = run(model, CODE, temperature=0)
    assert re.fullmatch("[0-9]{3}-[a-z]{2,9}!", text) and reason == "stop"
    assert tokens[-1] not in model.tokenizer.eog_ids
    assert run(model, CODE, temperature=0, most=len(tokens)) == (text, tokens, "stop")
    short, cut, reason = run(model, CODE, temperature=0, most=len(tokens) - 1)
    assert cut == tokens[:-1] and reason == "length" and text.startswith(short)


def test_the_model_ends_it_where_it_may(model: Model) -> None:
    end = model.tokenizer.eos_id
    text, tokens, reason = run(model, Grammar.regex("[a-z ]*"), temperature=1.0, seed=3, logit_bias={end: 12.0})
    assert reason == "stop" and tokens[-1] == end and re.fullmatch("[a-z ]*", text)
    text, tokens, reason = run(model, Grammar.regex("[a-z ]{30}"), temperature=1.0, seed=3, logit_bias={end: 100.0})
    assert reason == "stop" and end not in tokens and re.fullmatch("[a-z ]{30}", text)


def test_a_space_at_the_beginning_is_part_of_the_text(model: Model) -> None:
    """Although nothing is written in front of it."""
    bos = [model.tokenizer.bos_id]
    assert run(model, Grammar.regex(" [a-z]{3}!"), bos, temperature=0)[0].startswith(" ")


def test_the_same_seed_the_same_text(model: Model) -> None:
    found = [run(model, LONG, temperature=1.2, seed=11, most=40) for _ in range(2)]
    assert found[0] == found[1] and found[0][2] == "length"
    assert run(model, LONG, temperature=1.2, seed=12, most=40) != found[0]


def test_stop_strings_and_cancel(model: Model) -> None:
    whole = run(model, LONG, temperature=1.0, seed=11, most=60)[0]
    assert len(whole) > 60
    text, _, reason = run(model, LONG, temperature=1.0, seed=11, most=60, stop=[whole[40:44]])
    assert reason == "stop" and whole.startswith(text) and len(text) <= 40
    g = model.start(PROMPT, fx.SamplingParams(temperature=0), grammar=LONG)
    next(g)
    g.cancel()
    list(g)
    assert g.finish_reason == "cancelled"
    for _ in model.start(PROMPT, fx.SamplingParams(temperature=0), grammar=PERSON):
        break  # left with a forward pass in flight
    assert run(model, CODE, temperature=0) == run(model, CODE, temperature=0)


def test_a_conversation(model: Model) -> None:
    """Answers with and without a grammar behind each other; what is cached is what was written."""
    told = []
    for fresh in (False, True):
        seen: list[Any] = []
        with model.session() as session:
            ids = model.prompt_ids("Prince Andrew")
            for grammar in (CODE, None, PERSON, None):
                kept = {} if fresh else {"session": session}
                text, tokens, reason = run(model, grammar, ids, most=40, temperature=0, **kept)
                if not fresh:
                    assert session.cached_tokens == [*ids, *tokens[:-1]]
                ids = ids + tokens
                seen.append((text, tokens, reason))
        told.append(seen)
    assert told[0] == told[1]


def test_two_threads(model: Model) -> None:
    """Each loop's forward pass and draw have other loops' steps between them."""
    jobs = [(CODE, 1), (None, 2), (PERSON, 3), (LONG, 4)] * 2
    alone = [run(model, g, temperature=1.0, seed=s, most=60) for g, s in jobs]
    found: list[Any] = [None] * len(jobs)

    def work(i: int) -> None:
        grammar, seed = jobs[i]
        found[i] = [run(model, grammar, temperature=1.0, seed=seed, most=60) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, one in enumerate(alone):
        assert found[i] == [one] * 3, jobs[i]


def test_the_context_shifts_or_ends(device: Device, demo_model: Path) -> None:
    wanted = Grammar.regex("(?s:[^%]*)%")
    texts = []
    for shift in (True, False):
        with fx.load(demo_model, device=device, context=96, context_shift=shift, sequences=2) as m:
            text, tokens, reason = run(m, wanted, temperature=1.0, seed=5, most=250, top_k=50)
            texts.append(text)
            assert (reason, len(tokens)) == (("length", 250) if shift else ("context", 96 - len(m.prompt_ids(PROMPT))))
            if shift:
                plain = m.start(PROMPT, fx.SamplingParams(temperature=1.0, seed=5, top_k=50, logit_bias={2: -np.inf}),
                                max_tokens=250)  # fmt: skip
                if "%" not in "".join(t.piece for t in plain):
                    assert plain.tokens == tokens
    assert texts[0].startswith(texts[1])


def test_pages_run_out(device: Device, demo_model: Path) -> None:
    """Who must wait for pages goes on where it was, its grammar too."""
    with fx.load(demo_model, device=device, context=128, kv_tokens=160, sequences=3) as m:
        grammars = [LONG, None, LONG]
        params = [fx.SamplingParams(seed=i, temperature=1.0, logit_bias={2: -np.inf}) for i in range(3)]
        many = m.start_many([PROMPT, "He said", "The"], params, max_tokens=90, grammar=grammars)
        list(many)
        for i, g in enumerate(many.generations):
            alone = m.start([PROMPT, "He said", "The"][i], params[i], max_tokens=90, grammar=grammars[i])
            list(alone)
            assert (g.tokens, g.finish_reason) == (alone.tokens, alone.finish_reason)


def test_nothing_left_to_draw(model: Model) -> None:
    digits = {t: -np.inf for i in range(10) for t in [*model.tokenizer.encode_inside(str(i))]}
    for t in range(model.tokenizer.vocab_size):
        if model.tokenizer.piece(t).isdigit():
            digits[t] = -np.inf
    with pytest.raises(FluxError, match="A grammar decides here .the regular expression.*logit_bias of -inf"):
        run(model, Grammar.regex("[a-c][0-9]+"), temperature=0, logit_bias=digits)


def test_arguments(model: Model) -> None:
    with pytest.raises(InputError, match="grammar is a str; expected a Grammar"):
        model.start(PROMPT, grammar="root ::= x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="grammar has 1 entries for 2 prompts"):
        model.start_many([PROMPT] * 2, grammar=[CODE])
    with pytest.raises(GrammarError, match="prompt 1: the grammar: no token of"):
        model.start_many([PROMPT] * 2, grammar=[CODE, Grammar.from_text('start: start "a"')])
    texts = model.generate_many([PROMPT] * 2, 40, grammar=CODE, temperature=0)
    assert texts == ["".join(model.generate(PROMPT, 40, grammar=CODE, temperature=0))] * 2
