"""Agents that vote inside the decode chain of a model: the same tokens whoever decodes beside, changes between tokens,
trust, traces and traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flux_vk as fx
from flux_vk.engine.model import Model
from flux_vk.errors import FluxError, InputError
from flux_vk.flux.trace import read_trace
from flux_vk.gpu import Device

PROMPT = "It was in July"
IDENTITY = ".name identity\n.result F0\n  HALT\n"
MOODY = ".name moody\n.result F0\n  FSUB F0, F0, F3\n  HALT\n"
PARITY = """.name parity\n.result F0\n.const F8 8\n.const R8 1
  IAND R9, R3, R8
  JZ R9, even
  FADD F0, F0, F8
even:
  HALT
"""


def agent(text: str) -> fx.flux.Program:
    return fx.flux.assemble_program(text)


def tokens(model: Model, swarm: fx.Swarm | None, n: int = 24, prompt: Any = PROMPT, **sampling: Any) -> list[int]:
    g = model.start(prompt, fx.SamplingParams(**{"seed": 3, **sampling}), max_tokens=n, agents=swarm)
    return [t.id for t in g]


@pytest.mark.parametrize("vote", ["sum", "prob", "majority", "borda"])
def test_agents_that_change_nothing_of_the_order_leave_greedy_texts_alone(model: Model, vote: str) -> None:
    plain = tokens(model, None, temperature=0)
    for agents in ([agent(IDENTITY)], ["greedy"], ["conservative"], ["creative", "conservative"]):
        assert tokens(model, fx.Swarm(agents, vote=vote), temperature=0) == plain


def test_identity_draws_what_the_model_draws(model: Model) -> None:
    """Also at a temperature, since its consensus is the model's own logits; bias and penalties come behind."""
    rest = {"temperature": 0.9, "repeat_penalty": 1.2, "logit_bias": {500: 1.0}, "top_k": 40}
    assert tokens(model, fx.Swarm([agent(IDENTITY)]), **rest) == tokens(model, None, **rest)


def test_candidates_may_be_few_or_all(model: Model) -> None:
    assert tokens(model, fx.Swarm([agent(IDENTITY)], candidates=1), temperature=1.5) == tokens(
        model, None, temperature=0
    )
    plain = tokens(model, None, top_k=100)
    for candidates in (100, 256, 300, "all"):
        assert tokens(model, fx.Swarm([agent(IDENTITY)], candidates=candidates), top_k=100) == plain


def test_a_token_takes_one_submit_and_a_swap_records_nothing(model: Model) -> None:
    swarm = fx.Swarm([("conservative", 0.5), ("creative", 0.5)])
    tokens(model, swarm)
    counts = model.device.counts
    chains, submits = dict(model.runner._chains), counts.submits
    tokens(model, fx.Swarm([("penalty", 0.5), (agent(MOODY), 0.1)]), n=24)
    assert model.runner._chains.keys() == chains.keys()
    assert counts.submits - submits <= 24 + model.runner.depth


def test_replaced_agents_vote_on_the_next_token(model: Model) -> None:
    """Before the change the text is the first agent's; behind it, what the second makes of the same beginning."""
    first, second = agent(IDENTITY), agent(PARITY)
    want = tokens(model, fx.Swarm([first]), n=10)
    swarm = fx.Swarm([first])
    g = model.start(PROMPT, fx.SamplingParams(seed=3), max_tokens=24, agents=swarm)
    found = [next(g).id for _ in range(10)]
    assert found == want
    swarm.replace("identity", second)
    rest = [t.id for t in g]
    prompt = model.prompt_ids(PROMPT)
    assert rest == tokens(model, fx.Swarm([second]), n=14, prompt=prompt + found)
    assert rest != tokens(model, fx.Swarm([first]), n=14, prompt=prompt + found)


def test_weights_may_change_on_the_way(model: Model) -> None:
    swarm = fx.Swarm([(agent(IDENTITY), 1.0), (agent(PARITY), 0.0)])
    g = model.start(PROMPT, fx.SamplingParams(seed=3, temperature=0), max_tokens=20, agents=swarm)
    found = [next(g).id for _ in range(5)]
    swarm.set_weight("parity", 5.0)
    found += [t.id for t in g]
    assert found[:5] == tokens(model, None, n=5, temperature=0)
    assert all(t % 2 for t in found[5:] if t != model.tokenizer.eos_id)


def test_many_streams_with_swarms_of_their_own(model: Model) -> None:
    def swarms() -> list[fx.Swarm | None]:
        return [
            fx.Swarm.default(), None, fx.Swarm([agent(PARITY)], vote="prob"),
            fx.Swarm(["greedy", "uniform", "min_p"], vote="majority", trust_rate=0.3, candidates=17),
            fx.Swarm(["penalty", "repetition_window"], vote="borda", trust_rate=0.5, candidates=64),
        ]  # fmt: skip

    prompts = [PROMPT, "Natasha", "The commander in chief said", "War", "Prince Andrew"]
    params = [fx.SamplingParams(seed=i, temperature=0.9) for i in range(5)]
    most = [20, 11, 30, 7, 26]
    together = swarms()
    many = model.start_many(prompts, params, max_tokens=most, agents=together)
    list(many)
    single = swarms()
    for i, swarm in enumerate(single):
        g = model.start(prompts[i], params[i], max_tokens=most[i], agents=swarm)
        assert [t.id for t in g] == many.generations[i].tokens
        if swarm is not None:
            got = together[i]
            assert got is not None and got.trust == swarm.trust


def test_the_trace_tells_every_vote(model: Model, tmp_path: Path) -> None:
    agents = [("conservative", 0.5), ("penalty", 0.3), (agent(PARITY), 0.2)]
    swarm = fx.Swarm(agents, trust_rate=0.25, candidates=16)  # so few that the trace holds all of them
    path = tmp_path / "out.jsonl"
    g = model.start(PROMPT, fx.SamplingParams(seed=9), max_tokens=16, agents=swarm, trace=path)
    given = [next(g) for _ in range(6)]
    swarm.replace("parity", agent(MOODY))
    given += list(g)
    trace = read_trace(path)
    assert [t.id for t in trace.tokens] == g.tokens == [t.id for t in given]
    assert list(trace.tokens) == [t.vote for t in given]
    assert [(r.index, r.agent) for r in trace.replacements] == [(6, 2)]
    trust = np.ones(3)
    for t in trace.tokens:
        assert [a.trust for a in t.agents] == pytest.approx(trust, rel=1e-5)
        chosen = t.chosen
        assert chosen is not None and len(t.candidates) == 16
        for c in t.candidates:
            assert sum(c.contribution) == pytest.approx(c.total, rel=1e-5, abs=1e-5)
            parts = [a.weight * a.trust * s for a, s in zip(t.agents, c.score, strict=True)]
            assert c.contribution == pytest.approx(parts, rel=1e-5, abs=1e-6)
        best = np.max([c.score for c in t.candidates], axis=0)
        trust = 0.75 * trust + 0.25 * np.exp(np.array(chosen.score) - best)
    assert swarm.trust == pytest.approx(trust, rel=1e-4)


def test_traps_are_counted_and_leave_the_logits(model: Model) -> None:
    broken = agent(".name broken\n  MOVI R8, 0\n  IDIV R0, R0, R8\n  HALT\n")
    swarm = fx.Swarm([broken])
    assert tokens(model, swarm, n=6) == tokens(model, None, n=6, top_k=40)
    assert swarm.agents[0].traps == 6 * 256
    endless = fx.Swarm([agent(".name endless\nagain: JMP again\n")], candidates=32)
    assert tokens(model, endless, n=3, temperature=0) == tokens(model, None, n=3, temperature=0)
    assert endless.agents[0].traps == 3 * 32


def test_a_swarm_keeps_its_trust(model: Model, tmp_path: Path) -> None:
    swarm = fx.Swarm(["conservative", agent(PARITY)], trust_rate=0.2)
    first = tokens(model, swarm, n=12)
    swarm.save(tmp_path / "s.json")
    again = fx.Swarm.load(tmp_path / "s.json")
    assert again.trust == swarm.trust != (1.0, 1.0)
    prompt = model.prompt_ids(PROMPT) + first
    whole = fx.Swarm(["conservative", agent(PARITY)], trust_rate=0.2)
    assert tokens(model, whole, n=24) == first + tokens(model, again, n=12, prompt=prompt)
    assert whole.trust == again.trust


def test_a_stream_that_waits_for_pages_goes_on_with_its_trust(device: Device, demo_model: Path) -> None:
    def run(m: Model) -> tuple[list[list[int]], list[tuple[float, ...]]]:
        swarms = [fx.Swarm(["conservative", agent(PARITY)], trust_rate=0.2) for _ in range(3)]
        params = [fx.SamplingParams(seed=i) for i in range(3)]
        many = m.start_many([PROMPT] * 3, params, max_tokens=60, agents=swarms)
        list(many)
        return [g.tokens for g in many.generations], [s.trust for s in swarms]

    with fx.load(demo_model, device=device, kv_type="f32", context=96, kv_tokens=1024) as wide:
        want = run(wide)
    with fx.load(demo_model, device=device, kv_type="f32", context=96, kv_tokens=128, sequences=3) as narrow:
        assert run(narrow) == want


@pytest.mark.parametrize("grammar", [False, True])
def test_a_change_at_a_recycled_page_leaves_the_text_alone(device: Device, demo_model: Path, grammar: bool) -> None:
    """A step that runs ahead must not take a page from what is drawn again."""
    swarm, follow, found = fx.Swarm([agent(IDENTITY)]), None, []
    if grammar:
        pytest.importorskip("llguidance")
        follow = fx.Grammar.regex("[a-z ,.]{400}")
    with fx.load(demo_model, device=device, kv_type="f32", context=96, context_shift=True) as shifting:
        g = shifting.start(PROMPT, fx.SamplingParams(seed=4), max_tokens=110, agents=swarm, grammar=follow)
        want = [t.id for t in g]
        for token in shifting.start(PROMPT, fx.SamplingParams(seed=4), max_tokens=110, agents=swarm, grammar=follow):
            found.append(token.id)
            swarm.set_weight("identity", 1.0)
    assert len(want) == 110 and found == want


def test_a_trace_that_cannot_be_written_ends_the_text_with_a_clear_error(model: Model, tmp_path: Path) -> None:
    """And gives back what the text held. The writer is made to fail as on a full disk."""
    with pytest.raises(FluxError, match="trace /dev/full: cannot be written"):
        model.start(PROMPT, agents=fx.Swarm.default(), trace="/dev/full")
    g = model.start(PROMPT, fx.SamplingParams(seed=1), agents=fx.Swarm.default(), trace=tmp_path / "x.jsonl")
    next(g)
    assert g._stream.swarm is not None and g._stream.swarm._writer is not None
    with open("/dev/full", "w", encoding="utf-8") as full:
        g._stream.swarm._writer._file = full
        with pytest.raises(FluxError, match="x.jsonl: cannot be written"):
            list(g)
    assert model.runner.slots.in_use == 0 and g.finish_reason == "cancelled" and len(g.tokens) == 2


def test_a_refused_generation_leaves_an_old_trace_alone(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text("kept", encoding="utf-8")
    with pytest.raises(InputError, match="stop strings"):
        model.start(PROMPT, stop=[""], agents=fx.Swarm.default(), trace=path)
    assert path.read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize("grammar", [False, True])
@pytest.mark.parametrize("settings", [{"vote": "majority"}, {"candidates": 1}, {"vote": "prob", "candidates": 3}])
def test_nobody_votes_for_a_banned_token(model: Model, settings: dict[str, Any], grammar: bool) -> None:
    """However few tokens a vote leaves, those that logit_bias bans are not what it leaves. Other texts beside it."""
    if grammar:
        pytest.importorskip("llguidance")
    follow = fx.Grammar.regex("[a-z ,.]{90}") if grammar else None
    first = tokens(model, None, temperature=0, n=12)
    params = fx.SamplingParams(temperature=0, logit_bias=dict.fromkeys(first, -np.inf))
    g = model.start(PROMPT, params, max_tokens=12, agents=fx.Swarm(["greedy"], **settings), grammar=follow)
    found = [t.id for t in g]
    want = model.start(PROMPT, params, max_tokens=12, grammar=follow)
    assert found == [t.id for t in want] and not set(found) & set(first)
    both = model.start_many(
        [PROMPT] * 3, [params, params, fx.SamplingParams(temperature=0)], max_tokens=12, grammar=[follow, None, None],
        agents=[fx.Swarm(["greedy"], **settings), None, fx.Swarm(["greedy"], **settings)],
    )  # fmt: skip
    list(both)
    assert [both.generations[i].tokens for i in (0, 2)] == [found, first]


def test_agents_and_a_grammar(model: Model) -> None:
    pytest.importorskip("llguidance")
    grammar, params = fx.Grammar.regex("[ab]{3,9}"), fx.SamplingParams(seed=1)
    g = model.start(PROMPT, params, max_tokens=40, agents=fx.Swarm.default(), grammar=grammar)
    list(g)
    assert g.finish_reason == "stop" and set(g.text) <= set("ab") and 3 <= len(g.text) <= 9


def test_wrong_arguments(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="agents is a list; expected a Swarm"):
        model.start(PROMPT, agents=["greedy"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="trace is .* and nobody votes"):
        model.start(PROMPT, trace=tmp_path / "x.jsonl")
    with pytest.raises(InputError, match="trace is True; expected the path"):
        model.start(PROMPT, agents=fx.Swarm.default(), trace=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be written"):
        model.start(PROMPT, agents=fx.Swarm.default(), trace=tmp_path / "no" / "x.jsonl")
    with pytest.raises(InputError, match="2 entries for 1 prompts"):
        model.start_many([PROMPT], agents=[None, None])


@pytest.mark.parametrize(
    "sampling",
    [
        {"mirostat": 2, "temperature": 1.0},
        {"dry_multiplier": 0.8, "xtc_probability": 0.5, "xtc_threshold": 0.05, "temperature": 0.9},
        {"typical_p": 0.8, "dynatemp_range": 0.3, "temperature": 0.8},
    ],
)
def test_all_samplers_act_on_the_consensus(model: Model, sampling: dict[str, Any]) -> None:
    """Identity leaves them what they would get without agents, also where state goes on from token to token and steps
    that ran ahead are drawn again."""
    plain = tokens(model, None, **sampling)
    assert tokens(model, fx.Swarm([agent(IDENTITY)], candidates="all"), **sampling) == plain
    swarm = fx.Swarm([agent(IDENTITY)], candidates="all")
    g = model.start(PROMPT, fx.SamplingParams(seed=3, **sampling), max_tokens=24, agents=swarm)
    found = []
    for t in g:
        found.append(t.id)
        if len(found) % 5 == 0:
            swarm.replace("identity", agent(IDENTITY.replace("HALT", "NOP\n HALT" if len(found) % 2 else "HALT")))
    assert found == plain
