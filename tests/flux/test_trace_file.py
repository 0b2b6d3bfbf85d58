"""The trace file: what is written is read back, and what is wrong is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.flux import trace as t

PROGRAMS = (
    t.TracedProgram("conservative", 0.5, b"\x80", gp={8: 3}),
    t.TracedProgram("mine", 0.25, b"\x01\x80", "F0", fp={8: float(np.float32(0.7))}),
)
HEADER = t.TraceHeader(PROGRAMS, "demo", 2**63 + 1, "prob", 0, 0.125)


def token(index: int = 0) -> t.TracedToken:
    agents = (t.TracedAgent(0.5, 1.0), t.TracedAgent(0.25, 0.75, 3, 1))
    first = t.TracedCandidate(7, "\n\u00e9", 0, float(np.float32(1.1)), 2, 5, -0.5, 0.625, (2.5, -1.0), (0.5, 0.125))
    last = t.TracedCandidate(3, "x", 9, -4.0, 0, -1, -math.inf, 0.0, (0.0, 0.0), (0.0, 0.0))
    return t.TracedToken(index, 40 + index, 3, "x", 256, 1.5, 2.25, 3.5, agents, (first, last))


def write(path: Path) -> list[str]:
    with t.TraceWriter(path, HEADER) as writer:
        writer.token(token(0))
        writer.replace(t.Replacement(1, 0, PROGRAMS[1]))
        writer.token(token(1))
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = write(path)
    trace = t.read_trace(path)
    assert trace == t.Trace(HEADER, (token(0), token(1)), (t.Replacement(1, 0, PROGRAMS[1]),))
    assert "1.1," in lines[1] and "1.10000002" not in lines[1], "the fewest digits of a 32-bit float"
    assert trace.header.agents[0].program.gp == {8: 3}
    assert trace.programs(0) == PROGRAMS and trace.programs(1) == (PROGRAMS[1], PROGRAMS[1])
    chosen = trace.token(1).chosen
    assert chosen is not None and chosen.id == 3 and chosen.consensus == -math.inf
    with pytest.raises(InputError, match="no token 5; it has 0 to 1"):
        trace.token(5)


def test_every_32_bit_float_comes_back(rng: np.random.Generator) -> None:
    bits = rng.integers(0, 0x7F800000, 2000).astype(np.uint32)
    for x in bits.view(np.float32):
        assert np.float32(t.short(float(x))) == x


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = write(path)
    for cut in (1, 20, len(lines[-1]) - 2):
        path.write_text("".join(lines[:-1]) + lines[-1][:cut], encoding="utf-8")
        trace = t.read_trace(path)
        assert trace.truncated and trace.tokens == (token(0),)
    path.write_text(lines[0][:30])
    with pytest.raises(InputError, match="no complete line"):
        t.read_trace(path)


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (0, {"flux_trace": 2}, "line 1: flux_trace is 2; expected 1"),
        (0, {"seed": 12}, "line 1: seed is 12; expected a text"),
        (0, {"seed": "-1"}, "seed is '-1'; expected decimal digits"),
        (0, {"vote": "veto"}, "vote is 'veto'; expected one of sum, prob, borda, majority"),
        (0, {"agents": [{"name": "a", "weight": 1, "code": "zz"}]}, r"agents\[0\].code is 'zz'; expected bytecode"),
        (0, {"agents": [{"name": "a", "weight": 1}]}, r"agents\[0\].code is missing; expected a text"),
        (0, {"candidates": None}, "candidates is None; expected a whole number"),
        (1, {"index": True}, "line 2: index is True; expected a whole number"),
        (1, {"type": "tokens"}, "type is 'tokens'; expected 'token' or 'replace'"),
        (1, {"agents": []}, "agents is a list of 0; expected 2, as in the header"),
        (1, {"candidates": [3]}, r"candidates\[0\]: a int; expected an object"),
        (1, {"entropy": "high"}, "entropy is 'high'; expected a number"),
        (2, {"agent": 2}, "line 3: agent is 2; expected 0 to 1"),
        (2, {"program": None}, "program is None; expected an object"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: int, change: dict[str, object], message: str) -> None:
    path = tmp_path / "out.jsonl"
    lines = write(path)
    lines[line] = json.dumps(json.loads(lines[line]) | change) + "\n"
    path.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        t.read_trace(path)


def test_whole_numbers_beyond_all_floats(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = write(path)
    lines[0] = json.dumps(json.loads(lines[0]) | {"trust_rate": 10**400}) + "\n"
    lines[1] = json.dumps(json.loads(lines[1]) | {"entropy": -(10**400)}) + "\n"
    path.write_text("".join(lines), encoding="utf-8")
    found = t.read_trace(path)
    assert found.header.trust_rate == float("inf") and found.tokens[0].entropy == float("-inf")


def test_bytes_that_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = write(path)
    path.write_bytes(lines[0].encode() + b"\xff{}\n")
    with pytest.raises(InputError, match="line 2: not JSON"):
        t.read_trace(path)
    with pytest.raises(InputError, match="cannot be read"):
        t.read_trace(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be written"):
        t.TraceWriter(tmp_path / "no" / "folder.jsonl", HEADER)
