"""The options that make a swarm: what is refused, what comes of them, and what a run tells afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import flux_vk as fx
from flux_vk import run
from flux_vk.cli.agent_options import make_swarm, swarm_line
from flux_vk.cli.options import parse
from flux_vk.errors import InputError
from flux_vk.flux.trace import read_trace


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--vote", "sum"], "--vote"),
        (["--trust-rate", "0.1"], "--trust-rate"),
        (["--candidates", "9"], "--candidates"),
        (["--trace", "t"], "--trace"),
        (["--save-swarm", "t"], "--save-swarm"),
        (["--agent", "greedy", "--vote", "loudest"], "--vote"),
        (["--agent", "greedy", "--trust-rate", "2"], "--trust-rate"),
        (["--agent", "greedy", "--candidates", "0"], "--candidates"),
        (["--agent", "greedy", "--candidates", "some"], "--candidates"),
        (["--agent", "greedy", "--swarm", "s.json"], "--swarm"),
        (["--agent", ""], "--agent"),
    ],
)
def test_refused(argv: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["m.gguf", "-p", "x", *argv])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and named in err and err.count("\n") == 1


def test_a_trace_belongs_to_one_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["m.gguf", "--agent", "greedy", "--trace", "t.jsonl"])
    assert "--trace tells of one answer" in capsys.readouterr().err


def made(*argv: str) -> fx.Swarm | None:
    return make_swarm(parse(["m.gguf", "-p", "x", *argv]).agents)


def test_swarms(tmp_path: Path) -> None:
    assert made() is None
    mine = tmp_path / "mine.flx"
    mine.write_text(".name mine\n.result F0\nHALT\n")
    swarm = made("--agent", "conservative:0.5", "--agent", f"{mine}:0.3", "--vote", "prob", "--candidates", "all")
    assert swarm is not None and [(a.name, a.weight) for a in swarm.agents] == [("conservative", 0.5), ("mine", 0.3)]
    assert (swarm.vote, swarm.candidates, swarm.trust_rate) == ("prob", "all", 0.0)
    three = made("--agent", "default", "--agent", "greedy", "--trust-rate", "0.5")
    assert three is not None and [a.name for a in three.agents] == ["conservative", "creative", "penalty", "greedy"]
    three.record([0.5, 1, 1, 1], [0, 0, 7, 0])
    assert "conservative weight 0.5 trust 0.500" in swarm_line(three) and "7 traps" in swarm_line(three)
    three.save(tmp_path / "s.json")
    again = made("--swarm", str(tmp_path / "s.json"), "--vote", "majority")
    assert again is not None and again.trust == three.trust
    assert (again.vote, again.trust_rate) == ("majority", 0.5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("greedi", "did you mean 'greedy'"), ("greedy:nan", "weight"), ("greedy:-1", "weight"),
        ("greedy:x", "no number"), ("no/such.flx", "no/such.flx"),
    ],
)  # fmt: skip
def test_agents_that_are_none(given: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        made("--agent", given)


def test_bytecode_that_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "broken.flx"
    broken.write_bytes(bytes([0xEE, 0x01]))
    with pytest.raises(InputError, match="broken"):
        made("--agent", str(broken))


def test_a_run_with_agents(demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, kept = tmp_path / "t.jsonl", tmp_path / "s.json"
    argv = [str(demo_model), "-p", "It was in July", "-n", "6", "--seed", "1", "--agent", "default"]
    argv += ["--trust-rate", "0.2", "--trace", str(trace), "--save-swarm", str(kept)]
    assert run.main(argv) == 0
    out, err = capsys.readouterr()
    assert "[agents, vote sum: conservative weight 0.5 trust" in err
    assert "".join(t.text for t in read_trace(trace).tokens) == out.rstrip("\n")
    assert fx.Swarm.load(kept).trust != (1.0, 1.0, 1.0)
    assert run.main([*argv[:7], "--swarm", str(kept), "--json"]) == 0
    swarm = json.loads(capsys.readouterr().out)["swarm"]
    assert swarm["vote"] == "sum" and [a["name"] for a in swarm["agents"]] == ["conservative", "creative", "penalty"]


def test_an_unknown_agent_is_told_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["no-such.gguf", "-p", "x", "--agent", "greedi"]) == 2
    err = capsys.readouterr().err
    assert "did you mean 'greedy'" in err and "no-such" not in err


@pytest.mark.parametrize("place", ["no/s.json", "."])
def test_a_place_that_cannot_be_saved_to_is_refused_before_anything_runs(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["absent.gguf", "-p", "x", "--agent", "greedy", "--save-swarm", str(tmp_path / place)]
    assert run.main(argv) == 2
    assert "cannot be written" in capsys.readouterr().err
