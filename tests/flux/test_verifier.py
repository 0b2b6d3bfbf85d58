"""The verifier: what it lets through, what it refuses, and that its words name everything."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.errors import InputError, ProgramError
from flux_vk.flux import OPCODES, Program, Trap, check, run, verify
from tests.flux.programs import code, random_program


@pytest.mark.parametrize(
    ("program", "target", "kind", "offset", "said"),
    [
        (b"", "host", "empty", 0, "nothing: the program has no code; write at least HALT"),
        (b"\0" * 1025, "gpu", "length", 1024, "the code has 1025 bytes, expected at most 1024"),
        (b"\0" * ((1 << 20) + 1), "host", "length", 1 << 20, "expected at most 1048576; shorten it"),
        (b"\xff\x80", "host", "opcode", 0, "0xFF: no opcode; this is no FLUX bytecode"),
        (b"\0\xff", "host", "tail", 1, "0xFF: no opcode, and the code runs into it; end the code with HALT"),
        (b"\0\x2b\0", "gpu", "opcode", 1, "MOVI: the instruction is cut off by the end of the code"),
        (b"\x01\x10\0", "gpu", "operand", 0, "MOV: operand 1 is register R16, expected R0 to R15"),
        (b"\x40\0\0\xff", "gpu", "operand", 0, "FADD: operand 3 is register F255, expected F0 to F15"),
        (b"\x1f\0\x0a", "gpu", "operand", 0, "SETCC: operand 2 is 10, expected 0 to 9"),
        (b"\0\x04\0\x05\0\x80", "gpu", "target", 1, "JMP: it jumps to offset 10, outside the code; jump to the start"),
        (b"\x06\0\xfe\xff\x80", "host", "target", 0, "JNZ: it jumps to offset 2, inside the JNZ at offset 0"),
        (b"\x07\0\x01\0\x80\xff", "host", "target", 0, "CALL: it jumps to offset 5, which is data behind the code"),
        (b"\0\x60\0\0\x80", "gpu", "offered", 1, "TELL: the GPU does not offer this operation; leave it out"),
    ],
)
def test_what_is_refused(program: bytes, target: str, kind: str, offset: int, said: str) -> None:
    report = verify(program, target)
    assert not report.ok and [finding.kind for finding in report.findings] == [kind]
    assert report.findings[0].offset == offset and said in str(report.findings[0])
    with pytest.raises(ProgramError, match="^bad: not a legal program") as caught:
        check(Program(program, "bad"), target)
    assert f"offset {offset}, " in str(caught.value) and said in str(caught.value)


def test_all_findings_are_named() -> None:
    program = code(("TELL", b"x"), ("MOV", 20, 21), ("JMP", 0, 100), ("VADD", 0, 1), ("HALT",))
    report = verify(program)
    assert [(f.kind, f.offset) for f in report.findings] == [
        ("offered", 0), ("operand", 4), ("operand", 4), ("target", 7), ("offered", 11),
    ]  # fmt: skip
    assert [f.mnemonic for f in report.not_offered] == ["TELL", "VADD"]
    with pytest.raises(InputError, match="5 findings: .*TELL.*R20.*R21.*JMP.*VADD"):
        check(program)
    assert [f.kind for f in verify(program, "host").findings] == ["operand", "operand", "target"]


def test_what_the_gpu_does_not_offer_is_listed_by_opcode() -> None:
    for op in OPCODES.values():
        report = verify(code((op.name, *[b"" if k.value == "data" else 0 for k in op.operands]), ("HALT",)))
        assert report.ok == op.gpu


def test_data_behind_the_code() -> None:
    for end in (("HALT",), ("RET",), ("JMP", 0, -4), ("TAILCALL", 0, -4)):
        report = verify(code(end) + b"\xff\x01")
        assert report.ok and (report.instructions, report.tail, report.bytes) == (1, 2, len(code(end)) + 2)


def test_a_good_program() -> None:
    assert check(code(("JMP", 0, 0))).ok  # to the end of the code
    assert check(Program(b"\x80", "fine"), "host").name == "fine"
    with pytest.raises(InputError, match="target 'cpu', expected 'gpu' or 'host'"):
        verify(b"\x80", "cpu")


def test_verified_programs_run_into_no_bad_opcode_and_no_bad_operand(rng: np.random.Generator) -> None:
    """Thousands of random legal programs on the GPU's machine: what is left are traps that only running can show."""
    seen = set()
    for _ in range(3000):
        program = random_program(rng, int(rng.integers(1, 40)), gpu=True)
        if len(program) > 1024:
            continue
        assert verify(program).ok
        state = run(program, {i: int(rng.integers(-70000, 70000)) for i in range(10)}, max_steps=200, memory="gpu")
        seen.add(state.trap)
        assert state.trap not in (Trap.BAD_OPCODE, Trap.NOT_OFFERED)
        if state.trap == Trap.OTHER:
            assert program[state.pc] == 0x3C  # CHECK_BOUNDS
    assert {Trap.NONE, Trap.BAD_ADDRESS, Trap.STACK_UNDERFLOW, Trap.STEP_LIMIT, Trap.DIVIDE_BY_ZERO} <= seen
