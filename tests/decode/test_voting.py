"""The vote inside a chain: what agents make of the logits, trust, traps and traces, position after position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk import flux
from flux_vk.decode import AgentState, Drawing, SamplerState, SamplingParams, Swarm, add_sampling
from flux_vk.decode.trace import replacement, trace_header, traced_token
from flux_vk.errors import FluxError, InputError
from flux_vk.flux.trace import TraceWriter, read_trace
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference import reference

pytestmark = pytest.mark.kernel
F32 = npt.NDArray[np.float32]
GREEDY = SamplingParams(temperature=0)
IDENTITY = flux.assemble_program(".name identity\n.result F0\nHALT")
OPPOSITE = flux.assemble_program(".name opposite\n.result F0\nFNEG F0, F0\nHALT")
BROKEN = flux.assemble_program(".name broken\n.result F0\nMOVI R8, 0\nIDIV R0, R0, R8\nHALT")
LEAST_ID = flux.assemble_program(".name least_id\n.result R0\nINEG R0, R3\nHALT")


class Poll:
    """One row per slot over fixed logits, each with a swarm or none; `step` draws the next position's tokens."""

    def __init__(
        self, device: Device, logits: F32, swarms: Sequence[Swarm | None], params: Sequence[SamplingParams] = (),
        history: Sequence[Sequence[int]] | None = None, drawing: Drawing | None = None, pos: int = 0,
    ) -> None:  # fmt: skip
        rows, vocab = logits.shape
        self.sampler = SamplerState(device, rows, vocab, history=64, ring=16)
        self.agents = AgentState(device, rows, vocab, ring=16, trace_ring=4)
        for slot, swarm in enumerate(swarms):
            self.sampler.set_slot(slot, params[slot] if params else GREEDY, history[slot] if history else [], pos)
            if swarm is not None:
                self.agents.set_slot(slot, swarm)
        self.chain = Chain(device)
        position = device.zeros((rows,), "u32")
        self.chain.copy(src=self.sampler.slot_pos, dst=position)
        asked = Drawing.joined(s.drawing(vocab, trace=True) for s in swarms if s is not None)
        slots = device.array(np.arange(rows, dtype=np.uint32))
        drawing = drawing or asked
        add_sampling(
            self.chain, self.sampler, device.array(logits), slots, position, rows, drawing=drawing, agents=self.agents
        )
        self.recorded = self.chain.record()
        self.pos = pos

    def step(self) -> list[int]:
        self.recorded.submit()
        self.recorded.wait()
        self.pos += 1
        return [self.sampler.token(slot, self.pos) for slot in range(self.sampler.slots)]


def random_logits(rng: np.random.Generator, rows: int, vocab: int) -> F32:
    return (3 * rng.standard_normal((rows, vocab))).astype(np.float32)


SAMPLED = SamplingParams(temperature=0.9, top_k=40, top_p=0.95, min_p=0.01, repeat_penalty=1.2, seed=77)


@pytest.mark.parametrize("vocab", [40, 1001, 32000])
@pytest.mark.parametrize("vote", ["sum", "prob"])
def test_agents_that_agree_with_the_model_change_nothing(
    device: Device, rng: np.random.Generator, vocab: int, vote: str
) -> None:
    """The same tokens as without a vote, position after position; a slot without a swarm beside them too."""
    logits = np.repeat(random_logits(rng, 1, vocab), 3, axis=0)
    same = Swarm([IDENTITY], vote=vote)
    params = [SAMPLED, SAMPLED, GREEDY] if vote == "sum" else [GREEDY, SAMPLED, GREEDY]
    voted = Poll(device, logits, [same, None, same], params)
    plain = Poll(device, logits, [None, None, None], params, drawing=Drawing())
    for _ in range(8):
        assert voted.step() == plain.step()


def test_default_swarm_by_hand(device: Device, rng: np.random.Generator) -> None:
    """The three agents' formulas in float64 over the history: the consensus of the trace, and the greedy token."""
    logits = random_logits(rng, 1, 300)
    order = np.argsort(-logits[0], kind="stable")
    past = [int(order[0]), int(order[2]), int(order[0])]
    swarm = Swarm.default()
    poll = Poll(device, logits, [swarm], history=[past], pos=10)
    [token] = poll.step()
    x = logits[0].astype(np.float64)
    count = np.bincount(past, minlength=300)
    position = 11
    temperature = 0.7 + 0.6 * position / (position + 16)
    penalised = np.where(x >= 0, x / (1 + count), x * (1 + count))
    total = 0.5 * 2 * x + 0.3 * x / temperature + 0.2 * penalised
    inside = order[:256]
    best = inside[np.argmax(total[inside])]
    assert token == best
    trace = poll.agents.trace(0, position)
    assert (trace.position, trace.n, trace.chosen, trace.vote) == (11, 256, token, "sum")
    assert trace.weight == pytest.approx((0.5, 0.3, 0.2)) and trace.trust == (1, 1, 1)
    leading = inside[np.argsort(-total[inside], kind="stable")][:16]
    assert [v.id for v in trace.leading] == leading.tolist()
    for v in trace.leading:
        assert v.consensus == pytest.approx(total[v.id], rel=1e-5)
        assert v.rank == int(np.flatnonzero(order == v.id)[0]) and v.logit == logits[0, v.id]
        assert v.count == count[v.id]
        assert v.distance == (past[::-1].index(v.id) + 1 if v.id in past else -1)
        assert v.score == pytest.approx((2 * x[v.id], x[v.id] / temperature, penalised[v.id]), rel=1e-5)
        assert sum(v.contribution) == pytest.approx(v.total, rel=1e-6) and v.total == v.consensus


@pytest.mark.parametrize("vote", ["sum", "prob", "borda", "majority"])
def test_among_equals_the_lowest_id_wins(device: Device, rng: np.random.Generator, vote: str) -> None:
    """Of an agent's best candidates as of the consensus, wherever among the candidates they stand."""
    sizes = (3, 100, 256, 700)
    logits = random_logits(rng, len(sizes), 3000)
    polls = Poll(device, logits, [Swarm(["uniform"], vote=vote, candidates=n) for n in sizes])
    lowest = [int(np.argsort(-row, kind="stable")[:n].min()) for row, n in zip(logits, sizes, strict=True)]
    assert polls.step() == lowest


@pytest.mark.parametrize("vote", ["sum", "prob", "borda", "majority"])
def test_bits_do_not_depend_on_the_chain(device: Device, rng: np.random.Generator, vote: str) -> None:
    """More places for agents, more for candidates, other rows beside it: the same consensus, bit for bit."""
    logits = random_logits(rng, 5, 1000)
    swarm = Swarm([IDENTITY, OPPOSITE, "penalty"], vote=vote, trust_rate=0.3, candidates=200)
    big = Swarm(["conservative"] * 8, vote="sum", candidates="all")
    params = [SamplingParams(temperature=1.0, top_k=0, seed=5)] * 5
    alone = Poll(device, logits[:1], [swarm], params[:1], [[1, 2, 3]])
    wide = Poll(device, logits[:1], [swarm], params[:1], [[1, 2, 3]], Drawing(agents=8, candidates=1000, trace=True))
    many = Poll(device, logits, [swarm, None, big, swarm, big], params, [[1, 2, 3]] + [[]] * 4)
    for _ in range(6):
        tokens = alone.step()[0], wide.step()[0], many.step()[0]
        assert len(set(tokens)) == 1
        found = [p.agents.trace(0, alone.pos) for p in (alone, wide, many)]
        assert found[0] == found[1] == found[2]
        assert len({p.agents.trust(0, alone.pos) for p in (alone, wide, many)}) == 1


def test_larger_lists_are_sorted(device: Device, rng: np.random.Generator) -> None:
    """An agent whose favourite is far down the list: reached by "all" and by just enough, not by fewer."""
    logits = np.round(random_logits(rng, 1, 3000) * 4) / 4  # many ties, so that order by id counts
    logits[0, 0] = -1e6
    logits[0, 7] = -np.inf
    swarms = [Swarm([LEAST_ID], candidates=n) for n in ("all", 2999, 2998, 300)]
    polls = [Poll(device, logits, [s]) for s in swarms]
    order = np.lexsort((np.arange(3000), -logits[0].astype(np.float64)))
    for poll, n in zip(polls, (2999, 2999, 2998, 300), strict=True):
        assert poll.step() == [int(order[:n].min())]
        trace = poll.agents.trace(0, 1)
        assert trace.n == n and trace.leading[0].rank == int(np.flatnonzero(order == order[:n].min())[0])


def test_trust_follows_its_formula(device: Device, rng: np.random.Generator) -> None:
    """Whoever agrees keeps trust 1; whoever does not loses it step by step, and what it says with it."""
    logits = random_logits(rng, 1, 500)
    rate = 0.25
    swarm = Swarm([(IDENTITY, 1.0), (OPPOSITE, 0.4)], trust_rate=rate)
    poll = Poll(device, logits, [swarm])
    kept = np.sort(logits[0])[::-1][:256].astype(np.float64)
    p = np.exp(-kept[0] + kept[-1])  # of the greedy token by the opposite softmax, next to its best
    trust = 1.0
    for position in range(1, 12):
        assert poll.step() == [int(logits.argmax())]
        trace = poll.agents.trace(0, position)
        assert trace.trust == pytest.approx((1.0, trust), rel=1e-6)
        best = trace.leading[0]
        assert best.consensus == pytest.approx(kept[0] - 0.4 * trust * kept[0], rel=1e-5)
        trust = (1 - rate) * trust + rate * p
        assert poll.agents.trust(0, position) == pytest.approx((1.0, trust), rel=1e-5)


def test_a_trap_leaves_the_logit_and_is_told(device: Device, rng: np.random.Generator) -> None:
    logits = random_logits(rng, 1, 100)
    poll = Poll(device, logits, [Swarm([BROKEN, IDENTITY], candidates=30)])
    assert poll.step() == [int(logits.argmax())]
    assert poll.agents.traps(0, 1) == ((30, 1), (0, 0))
    assert all(v.score == (v.logit, v.logit) for v in poll.agents.trace(0, 1).leading)


def test_the_trace_file_has_what_the_device_tells(device: Device, rng: np.random.Generator, tmp_path: Path) -> None:
    """Through the writer and the reader, number by number; an agent is replaced on the way."""
    logits = random_logits(rng, 1, 300)
    swarm = Swarm([("conservative", 0.5), (BROKEN, 0.25)], vote="prob", trust_rate=0.5, candidates=40)
    poll = Poll(device, logits, [swarm], [SamplingParams(temperature=2.0, seed=2**63 + 9)])
    path = tmp_path / "out.jsonl"
    told = []
    with TraceWriter(path, trace_header(swarm, "none", 2**63 + 9)) as writer:
        for index in range(3):
            if index == 2:
                swarm.replace("broken", IDENTITY)
                for agent in poll.agents.refresh(0, swarm.agents):
                    writer.replace(replacement(index, agent, swarm.agents))
            [token] = poll.step()
            votes, traps = poll.agents.trace(0, poll.pos), poll.agents.traps(0, poll.pos)
            told.append(votes)
            writer.token(traced_token(votes, index, f"<{token}>", traps, lambda i: f"<{i}>"))
            assert votes.seed == 2**63 + 9 and votes.chosen == token
    trace = read_trace(path)
    assert (trace.header.seed, trace.header.vote, trace.header.candidates) == (2**63 + 9, "prob", 40)
    assert [p.name for p in trace.programs(1)] == ["conservative", "broken"]
    assert trace.programs(2)[1].code == IDENTITY.code and trace.replacements[0].index == 2
    for line, votes in zip(trace.tokens, told, strict=True):
        facts = (votes.position, votes.chosen, f"<{votes.chosen}>", votes.n, votes.best, votes.entropy, votes.logsumexp)
        assert (line.position, line.id, line.text, line.n, line.best, line.entropy, line.logsumexp) == facts
        assert [a.trust for a in line.agents] == list(votes.trust)
        assert line.agents[1].traps == (40 if line.index < 2 else 0)
        assert line.chosen is not None, "the drawn token is told wherever it stands"
        for a, b in zip(line.candidates, votes.leading, strict=True):
            assert (a.id, a.text, a.rank, a.count, a.distance) == (b.id, f"<{b.id}>", b.rank, b.count, b.distance)
            assert (a.logit, a.consensus, a.total, a.score, a.contribution) == (
                b.logit, b.consensus, b.total, b.score, b.contribution,
            )  # fmt: skip
            assert sum(a.contribution) == pytest.approx(a.total, rel=1e-6)
            assert np.log(a.total) == pytest.approx(a.consensus, rel=1e-5, abs=1e-6)


def test_an_agent_is_replaced_between_tokens(device: Device, rng: np.random.Generator) -> None:
    """Nothing is recorded again; only what changed is uploaded."""
    logits = random_logits(rng, 1, 200)
    swarm = Swarm([(IDENTITY, 1.0), (IDENTITY, 0.5)])
    poll = Poll(device, logits, [swarm])
    assert poll.step() == [int(logits.argmax())]
    version = swarm.version
    swarm.replace("identity", OPPOSITE)
    assert swarm.version > version
    assert poll.agents.refresh(0, swarm.agents) == [0]
    assert poll.step() == [int(logits.argmin())]
    swarm.set_weight("identity", 0.25)
    assert poll.agents.refresh(0, swarm.agents) == []
    assert poll.step() == [int(logits.argmax())]


def test_samplers_act_on_the_consensus(device: Device, rng: np.random.Generator) -> None:
    """Bias and penalties come behind the vote; log-probabilities stay the model's."""
    logits = random_logits(rng, 1, 300)
    order = np.argsort(logits[0])
    worst = int(order[-256:][0])
    params = SamplingParams(temperature=0, logit_bias={worst: -np.inf}, logprobs=2)
    drawing = Drawing(agents=1, candidates=256, logprobs=True)
    poll = Poll(device, logits, [Swarm([OPPOSITE])], [params], drawing=drawing)
    assert poll.step() == [int(order[-256:][1])]
    found = poll.sampler.logprobs(0, 1)
    x = logits[0].astype(np.float64)
    assert found.logprob == pytest.approx(x[found.token] - np.log(np.exp(x).sum()), abs=1e-5)
    assert [i for i, _ in found.top] == order[::-1][:2].tolist()


def test_nobody_has_weight(device: Device, rng: np.random.Generator) -> None:
    """With no trust left the row passes as it is."""
    logits = random_logits(rng, 1, 300)
    poll = Poll(device, logits, [Swarm([OPPOSITE])])
    poll.agents.set_slot(0, Swarm([OPPOSITE]), trust=(0.0,))
    assert poll.step() == [int(logits.argmax())]
    assert poll.agents.trace(0, 1).leading == ()
    poll.agents.set_slot(0, Swarm([OPPOSITE]))
    assert poll.step() != [int(logits.argmax())]
    poll.agents.clear_slot(0)
    assert poll.step() == [int(logits.argmax())]


def test_logits_that_are_not_finite(device: Device) -> None:
    logits = np.full((2, 300), -np.inf, np.float32)
    logits[1, 5] = np.nan
    logits[1, 9] = 1.0
    poll = Poll(device, logits, [Swarm(["penalty"]), Swarm(["penalty"])])
    with pytest.raises(FluxError, match="no finite logits"):
        poll.step()
    assert poll.sampler.token(1, 1) == 9


def test_more_rows_than_can_be_bound_at_once(
    device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 64 rows, as the vote's largest buffer wants it; and the error where not even one fits."""
    rows, vocab = 70, 12_000
    logits = np.repeat(random_logits(rng, 2, vocab), rows // 2, axis=0)
    swarms = [Swarm(["penalty", OPPOSITE], candidates="all")] * rows
    want = Poll(device, logits, swarms)
    monkeypatch.setattr(type(device), "max_range", 64 * vocab * 16)
    parts = Poll(device, logits, swarms)
    assert parts.step() == want.step()
    assert [s.name for s in parts.chain.steps].count("flux_vote") == 2
    monkeypatch.setattr(type(device), "max_range", 63 * vocab * 16)
    with pytest.raises(InputError, match="64 rows with 2 agents and 12000 candidates take 12288000 bytes; the device"):
        Poll(device, logits, swarms)


def test_arguments_that_do_not_fit(device: Device) -> None:
    state = AgentState(device, 2, 5000)
    with pytest.raises(InputError, match="slot is 2; expected 0 to 1"):
        state.set_slot(2, Swarm.default())
    with pytest.raises(InputError, match="trust has 1 numbers; expected 3"):
        state.set_slot(0, Swarm.default(), trust=(1.0,))
    with pytest.raises(InputError, match="slot 0 has 0 agents; expected the same number, not 3"):
        state.refresh(0, Swarm.default().agents)
    with pytest.raises(InputError, match="vote='borda' takes at most 1024"):
        state.set_slot(0, Swarm(["greedy"], vote="borda", candidates="all"))
    with pytest.raises(InputError, match="no trace of position 3"):
        state.trace(0, 3)
    with pytest.raises(InputError, match="no agents are given"):
        sampler = SamplerState(device, 1, 10)
        one = device.zeros((1,), "u32")
        add_sampling(Chain(device), sampler, device.zeros((1, 10)), one, one, 1, drawing=Drawing(agents=1))


def test_the_interpreter_gets_what_the_abi_says(device: Device, rng: np.random.Generator) -> None:
    """The chain's row facts and candidates against those of the reference, which the interpreter's own tests use."""
    logits, past = random_logits(rng, 1, 2000), rng.integers(0, 50, 40).tolist()
    logits[0, :50] += 6
    probe = flux.assemble_program(".name probe\n.result F0\nFADD F0, F4, F5\nFADD F0, F0, F1\nFADD F0, F0, F3\nHALT")
    poll = Poll(device, logits, [Swarm([probe], candidates=100)], history=[past], pos=33)
    poll.step()
    given = {
        "logits": logits, "row_slot": np.zeros(1, np.uint32), "row_pos": np.full(1, 33, np.uint32),
        "params": poll.sampler.params.numpy(), "swarm": poll.agents.swarm.numpy(),
        "history": np.resize(np.array(past, np.uint32), (1, 64)), "hist_count": np.array([40], np.uint32),
    }  # fmt: skip
    info, cand = reference("flux_candidates")(**given, c=256)
    best, entropy, lse = info.view(np.float32)[0, 1:4].astype(np.float64)
    expected = best + entropy + np.exp(cand.view(np.float32)[0, :, 1] - lse) + cand[0, :, 2]
    for v in poll.agents.trace(0, 34).leading:
        assert v.score[0] == pytest.approx(expected[v.rank], rel=1e-5)
