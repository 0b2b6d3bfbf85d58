"""Disassembler: bytecode to text that assembles to the same bytes. Not for: judging programs (verifier.py)."""

from __future__ import annotations

import re

from .instructions import Decoded, Instruction, decode
from .operands import NAMES, Operand
from .program import Program, code_of

_TEXT = re.compile(rb'[ !#-\[\]-~]+')
_COMMENT_COLUMN = 36


def disassemble(program: bytes | Program) -> str:
    """The program as assembler text, with offsets and meanings as comments; of a Program with its directives.

    Whatever the bytes are, assembling the text gives them again. An instruction with an operand out of range, and what
    cannot be decoded, is shown as `.byte`.
    """
    code = code_of(program)
    decoded = decode(code)
    labels = label_names(decoded)
    lines = _head(program) if isinstance(program, Program) else []
    for instruction in decoded.instructions:
        if instruction.offset in labels:
            lines.append(f"{labels[instruction.offset]}:")
        lines.append(_line(instruction, labels))
    for at in range(0, len(decoded.tail), 8):
        numbers = ", ".join(f"0x{byte:02X}" for byte in decoded.tail[at : at + 8])
        lines.append(_commented(f".byte {numbers}", decoded.end + at, "data"))
    if len(code) in labels:
        lines.append(f"{labels[len(code)]}:")
    return "".join(f"{line}\n" for line in lines)


def label_names(decoded: Decoded) -> dict[int, str]:
    """A name for every boundary that a direct jump leads to, by offset."""
    targets = {i.target for i in decoded.instructions if i.target is not None and expressible(i)}
    return {offset: f"L{offset:04X}" for offset in sorted(targets & decoded.boundaries)}


def expressible(instruction: Instruction) -> bool:
    """Whether all operands are in range, so that the instruction can be written with its mnemonic."""
    pairs = zip(instruction.op.operands, instruction.operands, strict=True)
    return all(isinstance(value, bytes) or kind.low <= value <= kind.high for kind, value in pairs)


def instruction_text(instruction: Instruction, labels: dict[int, str] | None = None) -> str:
    """The instruction alone, as in a listing; jumps show their label if it is named, else the distance."""
    if not expressible(instruction):
        return f".byte {', '.join(f'0x{byte:02X}' for byte in instruction.encode())}"
    shown = [
        text
        for kind, value in zip(instruction.op.operands, instruction.operands, strict=True)
        if (text := _operand(kind, value, instruction, labels or {}))
    ]
    return f"{instruction.op.name} {', '.join(shown)}".strip()


def meaning(instruction: Instruction, labels: dict[int, str] | None = None) -> str:
    """The effect of the instruction in a few words."""
    if not expressible(instruction):
        return f"{instruction.op.name} with an operand out of range"
    names = labels or {}
    shown = []
    for kind, value in zip(instruction.op.operands, instruction.operands, strict=True):
        if kind is Operand.REL:
            assert instruction.target is not None
            shown.append(names.get(instruction.target, f"offset {instruction.target}, where no instruction begins"))
        else:
            shown.append(_operand(kind, value, instruction, names))
    return instruction.op.effect.format(*shown)


def _operand(kind: Operand, value: int | bytes, instruction: Instruction, labels: dict[int, str]) -> str:
    if isinstance(value, bytes):
        return payload_text(value)
    if kind is Operand.PAD:
        return f"{value}" if value else ""
    if kind is Operand.REL:
        return labels.get(instruction.target if instruction.target is not None else -1, str(value))
    if kind in NAMES:
        return NAMES[kind][value]
    return f"{kind.bank}{value}"


def payload_text(payload: bytes) -> str:
    """Bytes as a string in quotes where they are plain text, else as numbers."""
    if _TEXT.fullmatch(payload):
        return f'"{payload.decode("ascii")}"'
    return ", ".join(f"0x{byte:02X}" for byte in payload)


def _line(instruction: Instruction, labels: dict[int, str]) -> str:
    return _commented(instruction_text(instruction, labels), instruction.offset, meaning(instruction, labels))


def _commented(text: str, offset: int, words: str) -> str:
    return f"{f'    {text}':<{_COMMENT_COLUMN}} ; {offset:04X}  {words}".rstrip()


def _head(program: Program) -> list[str]:
    quoted = program.name.replace("\\", "\\\\").replace('"', '\\"')
    lines = [f'.name "{quoted}"', f".result {program.result}"]
    lines += [f".const R{number} {value}" for number, value in sorted(program.gp.items())]
    lines += [f".const F{number} {value!r}" for number, value in sorted(program.fp.items())]
    return lines
