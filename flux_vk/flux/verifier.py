"""Verifier: whether code may be loaded, for the host or for the GPU; every finding with its offset and what to do.

What passes for the GPU decodes, has its operands in range, jumps only to instructions and holds only operations that
the kernel offers. That it ends, and that computed addresses are good, is the step limit's and the traps' business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import InputError, ProgramError
from .instructions import Decoded, Instruction, decode
from .opcodes import OPCODES
from .operands import Operand
from .program import MAX_CODE, MAX_HOST_CODE, Program, code_of

LIMITS = {"gpu": MAX_CODE, "host": MAX_HOST_CODE}
"""Bytes of code by target."""


@dataclass(frozen=True)
class Finding:
    """Something that keeps a program from being loaded."""

    kind: str
    """One of empty, length, opcode, operand, target, tail (control runs into data), offered (not on the GPU)."""
    offset: int
    mnemonic: str
    """Of the instruction; of what is none, how its byte is written."""
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"offset {self.offset}, {self.mnemonic}: {self.problem}; {self.advice}"


@dataclass(frozen=True)
class Report:
    """What the verifier found. `tail` is how many bytes of data stand behind the instructions.

    Code beyond the length limit is not looked into: its report has that one finding and counts no instructions.
    """

    name: str
    target: str
    findings: tuple[Finding, ...]
    bytes: int
    instructions: int
    tail: int

    @property
    def ok(self) -> bool:
        """Whether the program may be loaded."""
        return not self.findings

    @property
    def not_offered(self) -> tuple[Finding, ...]:
        """The operations that the target does not offer."""
        return tuple(finding for finding in self.findings if finding.kind == "offered")


def verify(program: bytes | Program, target: str = "gpu") -> Report:
    """Judge code for a target, "gpu" or "host". Raises InputError for another target, never for the code."""
    if target not in LIMITS:
        raise InputError(f"target {target!r}, expected 'gpu' or 'host'")
    code = code_of(program)
    name = program.name if isinstance(program, Program) else "program"
    if len(code) > LIMITS[target]:
        return Report(name, target, tuple(_length(code, target)), len(code), 0, 0)
    decoded = decode(code)
    findings = [*_length(code, target), *_tail(code, decoded)]
    for instruction in decoded.instructions:
        findings += _instruction(instruction, decoded, target)
    findings.sort(key=lambda finding: finding.offset)
    return Report(name, target, tuple(findings), len(code), len(decoded.instructions), len(decoded.tail))


def check(program: bytes | Program, target: str = "gpu") -> Report:
    """As `verify`, but raises ProgramError (an InputError) that names all findings unless there are none."""
    report = verify(program, target)
    if report.findings:
        count = f"{len(report.findings)} findings: " if len(report.findings) > 1 else ""
        findings = " | ".join(map(str, report.findings))
        raise ProgramError(f"{report.name}: not a legal program for the {target}: {count}{findings}")
    return report


def _length(code: bytes, target: str) -> Iterator[Finding]:
    if not code:
        yield Finding("empty", 0, "nothing", "the program has no code", "write at least HALT")
    if len(code) > LIMITS[target]:
        advice = "shorten it" if target == "host" else f"shorten it, or run it on the host (up to {MAX_HOST_CODE})"
        problem = f"the code has {len(code)} bytes, expected at most {LIMITS[target]}"
        yield Finding("length", LIMITS[target], "code", problem, advice)


def _tail(code: bytes, decoded: Decoded) -> Iterator[Finding]:
    """Data behind the code is legal where the last instruction never runs into it."""
    if not decoded.tail or (decoded.instructions and not decoded.instructions[-1].op.falls):
        return
    byte = decoded.tail[0]
    written = f"0x{byte:02X}"
    advice = "end the code with HALT, JMP, RET or TAILCALL in front of data"
    if byte in OPCODES:
        problem = "the instruction is cut off by the end of the code"
        yield Finding("opcode", decoded.end, OPCODES[byte].name, problem, f"add its operands, or {advice}")
    elif decoded.instructions:
        yield Finding("tail", decoded.end, written, "no opcode, and the code runs into it", advice)
    else:
        yield Finding("opcode", 0, written, "no opcode", "this is no FLUX bytecode; a source needs a name in .flx")


def _instruction(instruction: Instruction, decoded: Decoded, target: str) -> Iterator[Finding]:
    name, offset = instruction.op.name, instruction.offset
    for place, (kind, value) in enumerate(zip(instruction.op.operands, instruction.operands, strict=True), 1):
        if kind in (Operand.PAD, Operand.DATA) or isinstance(value, bytes) or kind.low <= value <= kind.high:
            continue
        what = f"register {kind.bank}{value}" if kind.bank else f"{value}"
        problem = f"operand {place} is {what}, expected {kind.bank}{kind.low} to {kind.bank}{kind.high}"
        yield Finding("operand", offset, name, problem, "correct the operand")
    if instruction.target is not None and instruction.target not in decoded.boundaries:
        problem = f"it jumps to offset {instruction.target}, {_what_is_at(decoded, instruction.target)}"
        yield Finding("target", offset, name, problem, "jump to the start of an instruction or to the end of the code")
    if target == "gpu" and not instruction.op.gpu:
        problem = "the GPU does not offer this operation"
        yield Finding("offered", offset, name, problem, "leave it out, or run the program on the host")


def _what_is_at(decoded: Decoded, offset: int) -> str:
    for instruction in decoded.instructions:
        if instruction.offset < offset < instruction.end:
            return f"inside the {instruction.op.name} at offset {instruction.offset}"
    inside = decoded.end <= offset < decoded.end + len(decoded.tail)
    return "which is data behind the code" if inside else "outside the code"
