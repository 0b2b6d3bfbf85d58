"""`explain`: one token, a whole text, pictures, and files that are no traces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flux_vk.cli.flux import main
from flux_vk.cli.flux._retrace import BOUND, DIFFERS, EXACT, entry, rerun, verdict
from flux_vk.cli.flux._trace_summary import summarise
from flux_vk.flux import assemble_program, stock
from flux_vk.flux.reference import entry_registers
from flux_vk.flux.trace import Replacement, TracedProgram, TracedToken, TraceWriter, read_trace
from flux_vk.run import main as run_model


@pytest.fixture
def trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "out.jsonl"
    assert main(["demo", "--reference", "--seed", "3", "--trace", str(path)]) == 0
    capsys.readouterr()
    return path


def rewritten(path: Path, **changes: object) -> Path:
    """The trace with one token changed: at=index, and fields of it."""
    old = read_trace(path)
    at = changes.pop("at")
    other = path.with_name("changed.jsonl")
    with TraceWriter(other, old.header) as writer:
        for token in old.tokens:
            writer.token(replace(token, **changes) if token.index == at else token)  # type: ignore[arg-type]
    return other


def test_one_token(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = read_trace(trace).token(17)
    assert main(["explain", str(trace), "--at", "17"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"token 17, position 17: {token.text!r} (id {token.id})")
    chosen = token.chosen
    assert chosen is not None
    for name in ("conservative", "creative", "penalty"):
        assert f"== {name}" in out and f'.name "{name}"' in out
    (line,) = [line for line in out.splitlines() if line.startswith("* ")]
    for number in (*chosen.score, *chosen.contribution, chosen.total):
        assert f"{number:.4f}" in line
    assert out.count("for ") >= 3 and out.count("the trace has the same") == 3
    assert "FADD F0, F0, F0" in out and "HALT" in out and "F0=" in out


def test_registers_on_entry_are_those_of_the_device(trace: Path) -> None:
    """As the reference of the kernel has them, R10 among them; for each agent and candidate of a token."""
    found = read_trace(trace)
    token = found.tokens[11]
    row = np.zeros(8, np.uint32)
    row[0], row[4], row[5] = token.n, token.position, found.header.seed
    row[1:4] = np.array([token.best, token.entropy, token.logsumexp], np.float32).view(np.uint32)
    for agent in range(3):
        for c in token.candidates:
            logit = np.float32(c.logit).view(np.uint32)
            cand = np.array([c.id, logit, c.count, c.distance & 0xFFFFFFFF], np.uint32)
            assert entry(found, token, c, agent).registers() == entry_registers(row, cand, c.rank, agent)
            assert rerun(found, token, c, agent).verdict == EXACT


def test_a_real_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Agents that voted on the demo model's tokens, one of them by its random bits, run again with the same scores."""
    random = tmp_path / "random.flx"
    random.write_text("ISHR R10, R10, R8\nIADD R0, R0, R10\nHALT\n.const R8 12\n")
    path = tmp_path / "real.jsonl"
    agents = ("--agent", "default", "--agent", f"{random}:0.2", "--trust-rate", "0.2")
    assert run_model(["-p", "It was in July", "-n", "8", "--seed", "5", "-q", *agents, "--trace", str(path)]) == 0
    found = read_trace(path)
    assert len(found.tokens) == 8 and len(found.header.agents) == 4
    for token in found.tokens:
        for c in token.candidates:
            assert all(rerun(found, token, c, agent).verdict != DIFFERS for agent in range(4))
    capsys.readouterr()
    assert main(["explain", str(path), "--at", "7"]) == 0
    assert "== random" in capsys.readouterr().out


def test_a_score_that_is_not_the_agents(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = read_trace(trace).token(4)
    score = token.chosen
    assert score is not None
    wrong = tuple(
        replace(c, score=(c.score[0] * 1.001, *c.score[1:])) if c.id == token.id else c for c in token.candidates
    )
    path = rewritten(trace, at=4, candidates=wrong)
    assert main(["explain", str(path), "--at", "4"]) == 1
    assert capsys.readouterr().out.count("THEY DIFFER") == 1
    assert main(["explain", str(path), "--at", "5"]) == 0


def test_verdicts() -> None:
    assert verdict(1.5, 1.5) == EXACT and verdict(float("inf"), float("inf")) == EXACT
    assert verdict(1.5, 1.5000001) == BOUND and verdict(0.0, 1e-3) == DIFFERS and verdict(2.0, -2.0) == DIFFERS


def test_json(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(trace), "--at", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    token = read_trace(trace).token(2)
    assert (found["index"], found["id"], found["vote"]) == (2, token.id, "sum")
    assert [a["verdict"] for a in found["agents"]] == [EXACT] * 3
    assert found["agents"][0]["steps"][-1]["mnemonic"] == "HALT"
    for c in found["candidates"]:
        assert sum(c["contribution"]) == pytest.approx(c["total"], abs=1e-5)
    assert main(["explain", str(trace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["voted"] == 20


def test_the_whole_text(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = summarise(read_trace(trace))
    assert (found.tokens, found.voted, found.first) == (20, 20, 20)
    assert found.agents[0].won == found.agents[1].won  # a temperature alone does not change an agent's favourite
    assert found.agreement[0][1] == 1 and found.agreement[0][2] == found.agreement[2][0] < 1
    assert main(["explain", str(trace)]) == 0
    out = capsys.readouterr().out
    assert "20 tokens, 20 voted on" in out and f"{found.agents[2].won} ({found.agents[2].won / 20:.0%})" in out


def test_replaced_agents_and_tokens_without_votes(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = read_trace(trace)
    path = trace.with_name("replaced.jsonl")
    new = assemble_program(".name other\nMOVI R0, 0\nHALT")
    with TraceWriter(path, old.header) as writer:
        writer.token(TracedToken(0, 0, 1, " x", 0, 0.0, 0.0, 0.0, old.tokens[0].agents, ()))
        for token in old.tokens[1:3]:
            writer.token(token)
        writer.replace(Replacement(3, 1, TracedProgram("other", 0.3, new.code, new.result)))
        changed = [replace(c, score=(c.score[0], 0.0, c.score[2])) for c in old.tokens[3].candidates]
        writer.token(replace(old.tokens[3], candidates=tuple(changed)))
    assert main(["explain", str(path), "--at", "3"]) == 0
    assert "== other" in capsys.readouterr().out
    assert main(["explain", str(path), "--at", "2"]) == 0
    assert "== creative" in capsys.readouterr().out
    assert main(["explain", str(path)]) == 0
    assert "from token 3 on creative ran other" in capsys.readouterr().out
    assert main(["explain", str(path), "--at", "0"]) == 2
    assert "without agents" in capsys.readouterr().err


def test_a_trace_without_votes(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was stopped at once: nothing is said of agreement, which nobody measured."""
    path = trace.with_name("header.jsonl")
    with TraceWriter(path, read_trace(trace).header):
        pass
    assert main(["explain", str(path)]) == 0
    out = capsys.readouterr().out
    assert "0 tokens, 0 voted on" in out and "%" not in out


def test_a_trap_is_told(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = read_trace(trace)
    program = assemble_program(".result F0\nFSUB F6, F6, F6\nFDIV F0, F0, F6")
    agents = (TracedProgram("traps", 0.5, program.code, "F0"), *old.header.agents[1:])
    path = trace.with_name("traps.jsonl")
    token = old.tokens[0]
    changed = tuple(replace(c, score=(c.logit, *c.score[1:])) for c in token.candidates)
    facts = (replace(token.agents[0], traps=token.n, trap=1), *token.agents[1:])
    with TraceWriter(path, replace(old.header, agents=agents)) as writer:
        writer.token(replace(token, candidates=changed, agents=facts))
    assert main(["explain", str(path), "--at", "0"]) == 0
    out = capsys.readouterr().out
    assert f"{token.n} (DIVIDE_BY_ZERO)" in out and "trapped: DIVIDE_BY_ZERO, so the logit counts" in out


def test_a_picture(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    for ending, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        picture = trace.with_name(f"vote.{ending}")
        assert main(["explain", str(trace), "--at", "5", "--plot", str(picture)]) == 0
        assert picture.read_bytes().startswith(start)
    capsys.readouterr()
    assert main(["explain", str(trace), "--plot", str(picture)]) == 2
    assert "--at" in capsys.readouterr().err


def test_what_is_no_trace(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = trace.with_name("other")
    other.write_text('{"something": 1}\n')
    cases = ((trace, "99", "no token 99; it has 0 to 19"), (other, "0", "flux_trace"), (Path("absent"), "0", "absent"))
    for path, at, word in cases:
        assert main(["explain", str(path), "--at", at]) == 2
        error = capsys.readouterr().err
        assert word in error and error.count("\n") == 1


def test_stock_agents_are_named_by_their_first_line() -> None:
    """What demo prints of each agent comes from its source."""
    assert stock("penalty").source.startswith("; penalty: ")
