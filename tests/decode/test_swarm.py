"""Swarms as users make them: what may be given, what is refused, changes, keeping. No device."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

import flux_vk as fx
from flux_vk import flux
from flux_vk.decode import Drawing
from flux_vk.decode.swarm import Agent, Swarm, parse_agent
from flux_vk.errors import InputError
from flux_vk.flux import Program

IDENTITY = flux.assemble_program(".name identity\n.result F0\nHALT")


def test_what_may_be_given(tmp_path: Path) -> None:
    source, raw = tmp_path / "mine:own.flx", tmp_path / "raw.bin"
    source.write_text(".result F0\n.const F8 0.7\nFADD F0, F0, F8\nHALT\n")
    raw.write_bytes(IDENTITY.code)
    given = [
        ("conservative", 0.5), "greedy", str(source), (raw, 2), IDENTITY, IDENTITY.code,
        Agent(IDENTITY, 0, "idle", 0.5), ("greedy", 1),
    ]  # fmt: skip
    swarm = fx.Swarm(given, vote="prob", trust_rate=0.1, candidates="all")
    names = ["conservative", "greedy", "mine:own", "raw", "identity", "agent", "idle", "greedy-2"]
    assert [a.name for a in swarm.agents] == names
    assert [a.weight for a in swarm.agents] == [0.5, 1, 1, 2, 1, 1, 0, 1]
    assert swarm.trust == (1, 1, 1, 1, 1, 1, 0.5, 1)
    assert swarm.agents[2].program.fp == {8: 0.7}
    assert repr(Swarm([IDENTITY])) == "Swarm(identity:1; vote=sum, trust_rate=0, candidates=256)"


def test_the_default_is_the_three() -> None:
    found = [(a.name, a.weight, a.trust) for a in Swarm.default().agents]
    assert found == [("conservative", 0.5, 1), ("creative", 0.3, 1), ("penalty", 0.2, 1)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Swarm([]), "the swarm has 0 agents; expected 1 to 8"),
        (lambda: Swarm(["greedy"] * 9), "the swarm has 9 agents; expected 1 to 8"),
        (lambda: Swarm("greedy"), "agents is 'greedy'; expected a list"),
        (lambda: Swarm(["gredy"]), r"no agent 'gredy' \(did you mean 'greedy'\?\); expected one of conservative, "),
        (lambda: Swarm(["no/such.flx"]), "no/such.flx"),
        (lambda: Swarm([7]), "agent 7 is a int; expected a stock agent's name"),
        (lambda: Swarm([("greedy", 1, 2)]), "expected a pair"),
        (lambda: Swarm([("greedy", math.nan)]), "weight of agent 'greedy' is nan; expected a finite number"),
        (lambda: Swarm([("greedy", -1)]), "weight of agent 'greedy' is -1; expected a finite number from 0 to 1e"),
        (lambda: Swarm([("greedy", "1")]), "weight of agent 'greedy' is '1'; expected a number"),
        (lambda: Swarm([("greedy", 0), ("uniform", 0)]), "weights of greedy, uniform are all 0; expected one above 0"),
        (lambda: Swarm(["greedy"], vote="mean"), "vote is 'mean'; expected one of sum, prob, borda, majority"),
        (lambda: Swarm(["greedy"], vote="sums"), "did you mean 'sum'"),
        (lambda: Swarm(["greedy"], trust_rate=1.5), "trust_rate is 1.5; expected a finite number from 0 to 1"),
        (lambda: Swarm(["greedy"], candidates=0), "candidates is 0; expected 1 to 262144, or 'all'"),
        (lambda: Swarm(["greedy"], candidates=True), "candidates is True"),
        (lambda: Swarm(["greedy"], vote="borda", candidates=2000), "vote='borda' takes at most 1024"),
        (lambda: Swarm([b"\xff\xff"]), "not a legal program for the gpu"),
        (lambda: Swarm([Program(b"")]), "not a legal program for the gpu"),
        (lambda: Swarm([Agent(IDENTITY, 1, "a\nb")]), "agent name"),
        (lambda: Swarm([Agent(IDENTITY, trust=2)]), "trust of agent 'identity' is 2"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_sizes_of_chains() -> None:
    """Few: powers of two."""
    three = Swarm.default()
    assert three.drawing(32000) == Drawing(agents=4, candidates=256)
    assert Swarm(["greedy"], candidates=5).drawing(32000, trace=True) == Drawing(agents=1, candidates=256, trace=True)
    assert Swarm(["greedy"] * 5, candidates=257).drawing(32000) == Drawing(agents=8, candidates=512)
    assert Swarm(["greedy"], candidates=20000).drawing(32000) == Drawing(agents=1, candidates=32000)
    assert Swarm(["greedy"], candidates="all").drawing(300) == Drawing(agents=1, candidates=300)
    assert Swarm(["greedy"], vote="borda", candidates="all").drawing(1024).candidates == 1024


def test_changes() -> None:
    swarm = Swarm([("greedy", 1), ("greedy", 2)])
    before = swarm.version
    swarm.replace("greedy-2", IDENTITY.code)
    swarm.set_weight("greedy", 0)
    assert swarm.version == before + 2
    assert [(a.name, a.weight, a.program.name) for a in swarm.agents] == [
        ("greedy", 0, "greedy"),
        ("greedy-2", 2, "agent"),
    ]
    for change, message in (
        (
            lambda: swarm.replace("gready", IDENTITY),
            r"no agent 'gready'; it has greedy, greedy-2 \(did you mean 'greedy'",
        ),
        (lambda: swarm.replace("greedy", b"\xff"), "not a legal program"),
        (lambda: swarm.set_weight("greedy-2", 0), "are all 0"),
        (lambda: swarm.set_weight("greedy", math.inf), "weight of agent 'greedy' is inf"),
    ):
        with pytest.raises(InputError, match=message):
            change()
    assert swarm.version == before + 2 and swarm.agents[1].weight == 2


def test_record_and_restore() -> None:
    swarm = Swarm.default()
    swarm.record((1.0, 0.5, 0.25), (0, 2, 0))
    swarm.record((0.75, 0.5, 0.125), (1, 2, 0))
    assert swarm.trust == (0.75, 0.5, 0.125) and [a.traps for a in swarm.agents] == [1, 4, 0]
    other = Swarm.default()
    other.restore(swarm.state())
    assert other.agents == swarm.agents
    for state, message in (
        ({}, "expected conservative, creative, penalty"),
        (swarm.state() | {"more": {}}, "expected conservative"),
        (swarm.state() | {"penalty": {"trust": math.nan}}, "trust of agent 'penalty' is nan"),
        (swarm.state() | {"penalty": {"trust": 1, "traps": -1}}, "traps of agent 'penalty' is -1"),
        (swarm.state() | {"penalty": 3}, "expected its trust and traps"),
    ):
        with pytest.raises(InputError, match=message):
            other.restore(state)
    assert other.agents == swarm.agents, "nothing was taken of a state that does not fit"


def test_changes_from_other_threads_are_all_there() -> None:
    swarm = Swarm(["greedy", "uniform"])

    def change() -> None:
        for _ in range(200):
            swarm.set_weight("greedy", 2)
            swarm.record((0.5, 0.5), (1, 2))

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert swarm.version == 800 and [a.traps for a in swarm.agents] == [800, 1600]


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "swarm.json"
    swarm = Swarm([("creative", 0.3), (IDENTITY, 2), ("creative", 1)], vote="borda", trust_rate=0.25, candidates=100)
    swarm.record((0.1, 0.2, 0.3), (1, 2, 3))
    swarm.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["swarm.json"], "nothing half-written is left"
    again = Swarm.load(path)
    assert [a.name for a in again.agents] == ["creative", "identity", "creative-2"]
    assert (again.vote, again.trust_rate, again.candidates) == ("borda", 0.25, 100)
    for a, b in zip(again.agents, swarm.agents, strict=True):
        assert (a.weight, a.trust, a.traps, a.name) == (b.weight, b.trust, b.traps, b.name)
        assert (a.program.code, a.program.result, a.program.name) == (b.program.code, b.program.result, b.program.name)
        assert a.program.source == b.program.source
    with pytest.raises(InputError, match="no regular file"):
        swarm.save("/dev/null")
    with pytest.raises(InputError, match="cannot be written"):
        swarm.save(tmp_path / "no" / "swarm.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flux_swarm": 2}, "expected an object with flux_swarm 1"),
        ({"agents": {}}, "a list of agents"),
        ({"agents": [3]}, "expected an object with name"),
        ({"agents": []}, "the swarm has 0 agents"),
        ({"vote": "veto"}, "vote is 'veto'"),
        ({"trust_rate": "a"}, "trust_rate is 'a'"),
        ({"agents": [{"name": "a", "weight": 1, "code": "zz"}]}, "agent 'a'.*expected code in hexadecimal"),
        ({"agents": [{"name": "a", "weight": 1}]}, "agent 'a'.*expected code"),
        ({"agents": [{"name": "a", "weight": 1, "code": "ff", "trust": 1}]}, "no opcode"),
        ({"agents": [{"name": "a", "weight": 1, "code": "80", "trust": 7}]}, "trust of agent 'a' is 7"),
        ({"agents": [{"name": "a", "weight": 10**400, "code": "80"}]}, "weight of agent 'a' is 1000"),
        ({"agents": [{"name": "a", "weight": 1, "code": "80", "fp": {"8": 10**400}}]}, "F8: 1000.*a finite 32-bit"),
    ],
)
def test_files_that_are_no_swarm(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "swarm.json"
    Swarm([IDENTITY]).save(path)
    data = json.loads(path.read_text()) | change
    halt = IDENTITY.code.hex()
    path.write_text(json.dumps(data).replace('"80"', f'"{halt}"'))
    with pytest.raises(InputError, match=message) as caught:
        Swarm.load(path)
    assert str(caught.value).startswith(f"swarm {path}: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "swarm.json"
    with pytest.raises(InputError, match="cannot be read"):
        Swarm.load(path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="not JSON"):
        Swarm.load(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="expected an object"):
        Swarm.load(path)


def test_agents_on_a_command_line(tmp_path: Path) -> None:
    assert parse_agent("conservative:0.5") == ("conservative", 0.5)
    assert parse_agent("greedy") == ("greedy", 1.0)
    assert parse_agent("path/with:colon.flx:0.3") == ("path/with:colon.flx", 0.3)
    assert parse_agent("path/with:colon.flx") == ("path/with:colon.flx", 1.0)
    there = tmp_path / "raw:code"
    there.write_bytes(b"\0")
    assert parse_agent(str(there)) == (str(there), 1.0)
    for text, message in (
        ("greedy:much", "weight 'much' is no number"),
        ("greedy:", "weight '' is no number"),
        ("greedy:nan", "weight of agent 'greedy' is nan"),
        ("greedy:-1", "weight of agent 'greedy' is -1"),
        (":0.5", "has no name"),
    ):
        with pytest.raises(InputError, match=message):
            parse_agent(text)
