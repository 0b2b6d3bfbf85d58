"""The table of opcodes against the facts of the instruction set, and decoding made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.errors import InputError
from flux_vk.flux import BY_NAME, OPCODES, Program, decode
from flux_vk.flux.instructions import decode_one, encode
from flux_vk.flux.operands import Operand


def test_sizes() -> None:
    assert len(OPCODES) == len(BY_NAME) == 131
    assert sum(op.gpu for op in OPCODES.values()) == 71
    for byte, op in OPCODES.items():
        assert op.byte == byte and op.meaning and op.effect
        assert op.effect.format(*"abc"[: len(op.operands)])
        if op.gpu:
            assert op.length is not None and not any(kind.bank == "V" for kind in op.operands)
    assert {op.name for op in OPCODES.values() if not op.falls} == {"HALT", "JMP", "RET", "TAILCALL", "EMERGENCY_STOP"}
    assert BY_NAME["IOR"].flags == "ZSCO" and BY_NAME["MOV"].flags == BY_NAME["SETCC"].flags == ""


def test_lengths_and_names_are_upstreams(reference_dir: Path) -> None:
    rows = re.findall(r"^\| 0x([0-9A-F]{2}) \| (\w+) \| (\w+) \|", (reference_dir / "flux-isa.md").read_text(), re.M)
    assert len(rows) == 131
    for byte, name, length in rows:
        op = OPCODES[int(byte, 16)]
        assert (op.name, str(op.length or "var")) == (name, length)


def test_decoding_a_program() -> None:
    """factorial(7), from the public FLUX repositories."""
    found = decode(bytes.fromhex("2b0007002b0101000a0101000f000600f6ff80"))
    assert [(i.offset, i.op.name, i.operands) for i in found.instructions] == [
        (0, "MOVI", (0, 7)), (4, "MOVI", (1, 1)), (8, "IMUL", (1, 1, 0)), (12, "DEC", (0,)), (14, "JNZ", (0, -10)),
        (18, "HALT", ()),
    ]  # fmt: skip
    assert found.tail == b"" and found.instructions[4].target == 8 and found.instructions[0].target is None
    assert found.boundaries == {0, 4, 8, 12, 14, 18, 19}


@pytest.mark.parametrize("code", ["80ff", "802b00", "80 60 05 00 61", "8060ff"])
def test_the_decode_ends_where_no_instruction_begins(code: str) -> None:
    found = decode(bytes.fromhex(code))
    assert [i.op.name for i in found.instructions] == ["HALT"] and found.end == 1
    assert found.tail == bytes.fromhex(code)[1:]
    assert found.boundaries == {0, len(bytes.fromhex(code))}


@given(st.binary(max_size=200))
def test_decoding_loses_nothing(code: bytes) -> None:
    found = decode(code)
    assert b"".join(i.encode() for i in found.instructions) + found.tail == code
    assert not found.tail or decode_one(code, found.end) is None


def test_operands_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="MOVI: 40000 does not fit into the 2 bytes of i16"):
        encode(BY_NAME["MOVI"], (0, 40000))
    with pytest.raises(InputError, match="TELL: operand 3, expected bytes"):
        encode(BY_NAME["TELL"], (3,))
    with pytest.raises(InputError, match="HALT: 1 operands, expected 0"):
        encode(BY_NAME["HALT"], (1,))


def test_kinds_of_operands() -> None:
    assert (Operand.FR.bank, Operand.RX.bank, Operand.VD.bank, Operand.U8.bank) == ("F", "R", "V", "")
    assert [Operand.REL.low, Operand.REL.high, Operand.RD.high, Operand.ICOND.high] == [-32768, 32767, 15, 9]


@pytest.mark.parametrize(
    ("gp", "fp", "said"),
    [
        ({0: 1}, {}, r"constant R0: the register holds the logit .*; free are R8, R9, R12, R13, R14, R15"),
        ({11: 1}, {}, "constant R11: the register holds the stack pointer"),
        ({16: 1}, {}, "constant R16: there is no such register"),
        ({8: 2**31}, {}, "constant R8: 2147483648, expected a whole number"),
        ({}, {3: 1.0}, "constant F3: the register holds the frequency"),
        ({}, {8: float("nan")}, "constant F8: nan, expected a finite"),
        ({}, {8: 1e39}, "constant F8: 1e.39, expected a finite"),
    ],
)
def test_constants_that_no_program_may_have(gp: dict[int, int], fp: dict[int, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Program(b"\x80", gp=gp, fp=fp)


def test_programs() -> None:
    import pickle

    program = Program(b"\x80", "a", "F0", {8: 3}, {8: 0.5})
    assert pickle.loads(pickle.dumps(program)) == program and hash(program) == hash(pickle.loads(pickle.dumps(program)))
    with pytest.raises(TypeError):
        program.gp[8] = 4  # type: ignore[index]
    with pytest.raises(InputError, match="result 'R1', expected 'R0' or 'F0'"):
        Program(b"", result="R1")
