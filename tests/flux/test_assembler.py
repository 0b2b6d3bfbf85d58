"""Assembler and disassembler: syntax, errors with their places, and text that gives the same bytes again."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.errors import InputError, ProgramError
from flux_vk.flux import OPCODES, Program, assemble, assemble_program, decode, disassemble, load_program, verify
from tests.flux.programs import code, random_program, random_value


def test_a_source_with_everything() -> None:
    text = """
    ; a comment            // and another
    .name "the agent"
    .result F0
    .const F8, 0.7
    .const R8 -3
    start:  movi r0, 0x10   // hexadecimal
    again: and_here: DEC R0 ; two labels
            jnz R0 again
            JMP start
            IADD R1, R2     ; R1 = R1 + R2
            FMUL F1 F2
            INEG R3
            PUSH lr
            MOVI SP, -0b101
            TELL "a;b//c", 0, 255
            ICMP GE, R1, R2
            SETCC R1, 9
            .byte 1, -1, 0xff
            .word -2
            .dword 0x12345678
            .ascii "hi"
            .asciz "\\n\\x41"
            .fill 3, 7
    """
    program = assemble_program(text, "x.flx")
    head = code(
        ("MOVI", 0, 16), ("DEC", 0), ("JNZ", 0, -6), ("JMP", 0, -14), ("IADD", 1, 1, 2), ("FMUL", 1, 1, 2),
        ("INEG", 3, 3), ("PUSH", 15), ("MOVI", 11, -5), ("TELL", b"a;b//c\0\xff"), ("ICMP", 5, 1, 2), ("SETCC", 1, 9),
    )  # fmt: skip
    assert program.code == head + b"\x01\xff\xff\xfe\xff\x78\x56\x34\x12hi\nA\0\x07\x07\x07"
    assert (program.name, program.result, program.source) == ("the agent", "F0", text)
    assert (dict(program.gp), dict(program.fp)) == ({8: -3}, {8: 0.7})
    assert assemble(text) == program.code


def test_operands_that_may_be_left_out() -> None:
    short = "JMP 4\nLEAVE\nCALL_IND R5\nCONF 7\nJE R3, -4"
    full = "JMP 0, 4\nLEAVE 0\nCALL_IND R0, R5\nCONF 0, 7\nJE 3, -4"
    assert assemble(short) == assemble(full)


def test_labels_may_come_later_and_stand_at_the_end() -> None:
    assert assemble("JZ R0, end\nINC R0\nend:") == code(("JZ", 0, 2), ("INC", 0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MOVO R0, 1", r"a.flx:1:1: unknown mnemonic 'MOVO'; did you mean MOV\?"),
        ("HALT\n  haltt", r"a.flx:2:3: unknown mnemonic 'haltt'; did you mean HALT\?"),
        ("IADD R0", r"a.flx:1:1: IADD has 1 operands, expected 3: an integer register"),
        ("IADD R0, R1, R2, R3", "a.flx:1:18: IADD has 4 operands, expected 3"),
        ("MOVI R0, 40000", "a.flx:1:10: 40000 is out of range, expected -32768 to 32767"),
        ("MOVI R0, 1.5", "a.flx:1:10: found '1.5', expected a number from -32768 to 32767"),
        ("MOVI R16, 1", r"a.flx:1:6: found 'R16', expected an integer register R0 to R15 \(or SP, FP, LR\)"),
        ("FADD F0, R1, F2", "a.flx:1:10: found 'R1', expected a float register F0 to F15"),
        ("VADD V0, V16", "a.flx:1:10: found 'V16', expected a vector register"),
        ("JMP lop\nloop: HALT", r"a.flx:1:5: unknown label 'lop'; did you mean loop\?"),
        ("loop: HALT\n loop: HALT", "a.flx:2:2: the label 'loop' is already in line 1"),
        ("R3: HALT", "a.flx:1:1: a label cannot be called 'R3'"),
        ("JMP end\n.fill 40000\nend:", "a.flx:1:5: 'end' is 40000 bytes away"),
        ("SETCC R0, XX", r"a.flx:1:11: found 'XX', expected a condition \(EQ, NE, LT, GE"),
        ("ICMP 10, R0, R1", "a.flx:1:6: 10 is out of range, expected 0 to 9"),
        ('TELL "x', "a.flx:1:6: a string without an end"),
        ('TELL "\\q"', r"a.flx:1:6: unknown escape \\q"),
        ("TELL 256", "a.flx:1:6: 256 is out of range, expected -128 to 255"),
        ("MOVI R0,,1", "a.flx:1:9: found a comma, expected an operand"),
        ("MOVI R0, 1,", "a.flx:1:11: a comma without an operand behind it"),
        ("MOVI R0 : 1", "a.flx:1:9: unexpected ':'"),
        ("HALT @", "a.flx:1:6: unexpected '@'"),
        ("12", "a.flx:1:1: found '12', expected a mnemonic"),
        (".bite 3", r"a.flx:1:1: unknown directive .bite; did you mean .byte\?"),
        (".byte", "a.flx:1:1: .byte without numbers"),
        (".ascii 3", "a.flx:1:1: .ascii expects strings"),
        (".fill", "a.flx:1:1: .fill has 0 operands"),
        (".fill 2000000", "a.flx:1:7: 2000000 is out of range"),
        (".fill 1048576\nHALT", "a.flx:2:1: the code is longer than 1048576 bytes"),
        (".result R5", "a.flx:1:1: .result R5, expected R0 .* or F0"),
        (".result F0\n.result F0", "a.flx:2:1: a second .result"),
        (".name a\n.name b", "a.flx:2:1: a second .name"),
        (".name", "a.flx:1:1: .name expects one word"),
        (".const F8", "a.flx:1:1: .const has 1 operands, expected a register and a number"),
        (".const X8 1", "a.flx:1:8: found 'X8', expected a register such as R8 or F8"),
        (".const R8 0.5", "a.flx:1:11: found '0.5', expected a whole number for R8"),
        (".const F8 x", "a.flx:1:11: found 'x', expected a number for F8"),
        (".const F8 1\n.const F8 2", "a.flx:2:8: a second .const for F8"),
        (".const R0 1", "a.flx:1:8: R0: the register holds the logit of the candidate"),
        (".const R8 3000000000", "a.flx:1:8: R8: 3000000000, expected a whole number from -2147483648"),
        (".const F8 1e40", "a.flx:1:8: F8: 1e.40, expected a finite 32-bit float"),
    ],
)
def test_errors_say_where_and_what(text: str, said: str) -> None:
    with pytest.raises(ProgramError, match=f"^{said}"):
        assemble(text, "a.flx")


def test_files(tmp_path: Path) -> None:
    source = tmp_path / "warm.flx"
    source.write_text("\ufeff.result F0\nHALT\n", encoding="utf-8")
    assert load_program(source).name == "warm" and load_program(str(source)).code == b"\x80"
    raw = tmp_path / "warm.bin"
    raw.write_bytes(b"\x0e\x00\x80")
    assert load_program(raw) == Program(b"\x0e\x00\x80", "warm")
    broken = tmp_path / "broken.flx"
    broken.write_text("HALT\nHOLT\n")
    with pytest.raises(InputError, match=r"broken.flx:2:1: unknown mnemonic 'HOLT'; did you mean HALT"):
        load_program(broken)
    broken.write_bytes(b"\x80\xff")
    with pytest.raises(InputError, match="byte 0 is not UTF-8; a .flx file is source text"):
        load_program(broken)
    with pytest.raises(InputError, match="none.flx: No such file"):
        load_program(tmp_path / "none.flx")


@pytest.mark.parametrize("name", ["UPPER.FLX", ".flx", "t\ta\udcff.flx", "x" * 90 + ".flx"])
def test_sources_by_odd_names(tmp_path: Path, name: str) -> None:
    """Any file that ends in .flx is source, and a program can always be called something."""
    (tmp_path / name).write_text("HALT\n")
    found = load_program(tmp_path / name)
    assert found.code == b"\x80" and found.name == {"U": "UPPER", ".": "agent", "t": "t?a?", "x": "x" * 64}[name[0]]


def test_bytecode_by_an_odd_name(tmp_path: Path) -> None:
    (tmp_path / "a\tb").write_bytes(b"\x80")
    assert load_program(tmp_path / "a\tb").name == "a?b"


def test_long_words_are_refused_at_once() -> None:
    """In time that grows with their length, not with its square (which would be hours here)."""
    for text in ("9" * 10**6 + "x", "9" * 10**6 + ".x", "0x" + "f" * 10**6 + "g", '"' + "\\a" * 10**6):
        with pytest.raises(InputError, match="<text>:1:10: "):
            assemble("MOVI R0, " + text)


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match="/dev/zero: more than"):
        load_program("/dev/zero")


def test_a_listing() -> None:
    loop = [("MOVI", 1, -2), ("DEC", 1), ("JNZ", 1, -6)]
    text = disassemble(code(*loop, ("JE", 3, 1), ("TELL", b"hi"), ("HALT",)) + b"\xff")
    assert text.splitlines() == [
        "    MOVI R1, -2                      ; 0000  R1 = -2",
        "L0004:",
        "    DEC R1                           ; 0004  R1 -= 1",
        "    JNZ R1, L0004                    ; 0006  if R1 != 0 go to L0004",
        "    JE 3, 1                          ; 000A  if equal go to offset 15, where no instruction begins",
        '    TELL "hi"                        ; 000E  tell "hi"',
        "    HALT                             ; 0013  stop",
        "    .byte 0xFF                       ; 0014  data",
    ]


def test_programs_keep_their_directives() -> None:
    program = Program(b"\x80", 'a "quoted" \\ name', "F0", {8: -5}, {9: 0.1, 8: 1e-20})
    again = assemble_program(disassemble(program))
    assert (again.code, again.name, again.result, again.gp, again.fp) == (
        program.code, program.name, program.result, program.gp, program.fp,
    )  # fmt: skip


def test_every_opcode_comes_back() -> None:
    for op in OPCODES.values():
        rng = np.random.default_rng(op.byte)
        for _ in range(20):
            values = [random_value(kind, rng) for kind in op.operands]
            program = code((op.name, *values), ("HALT",))
            text = disassemble(program)
            assert assemble(text) == program
            assert re.search(rf"^ +{op.name}\b", text, re.M), text


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.booleans())
def test_legal_programs_come_back(seed: int, length: int, gpu: bool) -> None:
    program = random_program(np.random.default_rng(seed), length, gpu)
    assert verify(program, "gpu" if gpu and len(program) <= 1024 else "host").ok
    text = disassemble(program)
    assert assemble(text) == program
    assert disassemble(assemble(text)) == text


@given(st.binary(max_size=120))
def test_any_bytes_come_back(program: bytes) -> None:
    """Jumps into the middle of instructions, operands out of range, data in between."""
    assert assemble(disassemble(program)) == program


def test_thousands_of_random_bytes_come_back(rng: np.random.Generator) -> None:
    first = np.array(list(OPCODES), np.uint8)
    for _ in range(2000):
        drawn = rng.integers(0, 24, 40, dtype=np.uint8)
        drawn[::4] = first[rng.integers(0, first.size, 10)]
        program = drawn.tobytes()
        assert assemble(disassemble(program)) == program
        assert sum(i.length for i in decode(program).instructions) + len(decode(program).tail) == 40


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_assembled_or_refused(text: str) -> None:
    try:
        assemble(text)
    except ProgramError as error:
        assert re.match(r"<text>:\d+:\d+: ", str(error))
