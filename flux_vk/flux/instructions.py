"""Decoding: code as a list of instructions from the first byte on, and back to bytes.

Not for: judging them (verifier.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InputError
from .opcodes import OPCODES, Opcode
from .operands import Operand


class Instruction(NamedTuple):
    """One decoded instruction. `operands` are numbers as they stand in the code, a payload is bytes."""

    offset: int
    op: Opcode
    operands: tuple[int | bytes, ...]
    length: int

    @property
    def end(self) -> int:
        """Offset of the next instruction."""
        return self.offset + self.length

    @property
    def target(self) -> int | None:
        """Offset that a direct jump or call leads to; None of other instructions."""
        if Operand.REL not in self.op.operands:
            return None
        distance = self.operands[self.op.operands.index(Operand.REL)]
        assert isinstance(distance, int)
        return self.end + distance

    def encode(self) -> bytes:
        """The instruction's bytes."""
        return encode(self.op, self.operands)


@dataclass(frozen=True)
class Decoded:
    """The linear decode of code: instructions one behind the other from offset 0.

    It ends at the first byte that is no opcode, or whose instruction would reach beyond the end; `tail` is what is left
    (data; empty for most programs). `boundaries` are the offsets that may be jumped to: the starts of all instructions
    and the end of the code.
    """

    instructions: tuple[Instruction, ...]
    tail: bytes
    boundaries: frozenset[int]

    @property
    def end(self) -> int:
        """Offset behind the last instruction, where the tail begins."""
        return self.instructions[-1].end if self.instructions else 0


def decode(code: bytes) -> Decoded:
    """Decode from the first byte; never raises, whatever the bytes are."""
    found = []
    offset = 0
    while offset < len(code):
        instruction = decode_one(code, offset)
        if instruction is None:
            break
        found.append(instruction)
        offset = instruction.end
    return Decoded(tuple(found), code[offset:], frozenset({*(i.offset for i in found), len(code)}))


def decode_one(code: bytes, offset: int) -> Instruction | None:
    """The instruction at an offset; None if its byte is no opcode or the code ends inside it."""
    op = OPCODES.get(code[offset])
    if op is None:
        return None
    at = offset + 1
    operands: list[int | bytes] = []
    for kind in op.operands:
        raw = code[at : at + kind.size]
        if len(raw) < kind.size:
            return None
        at += kind.size
        value = int.from_bytes(raw, "little", signed=kind.low < 0)
        if kind is not Operand.DATA:
            operands.append(value)
            continue
        payload = code[at : at + value]
        if len(payload) < value:
            return None
        at += value
        operands.append(payload)
    return Instruction(offset, op, tuple(operands), at - offset)


def encode(op: Opcode, operands: Sequence[int | bytes]) -> bytes:
    """The bytes of an instruction. Raises InputError for operands that its fields cannot hold."""
    if len(operands) != len(op.operands):
        raise InputError(f"{op.name}: {len(operands)} operands, expected {len(op.operands)}")
    out = bytearray([op.byte])
    for kind, value in zip(op.operands, operands, strict=True):
        if isinstance(value, bytes) != (kind is Operand.DATA):
            raise InputError(
                f"{op.name}: operand {value!r}, expected {'bytes' if kind is Operand.DATA else 'a number'}"
            )
        number, payload = (len(value), value) if isinstance(value, bytes) else (value, b"")
        try:
            out += number.to_bytes(kind.size, "little", signed=kind.low < 0) + payload
        except OverflowError:
            raise InputError(f"{op.name}: {number} does not fit into the {kind.size} bytes of {kind.value}") from None
    return bytes(out)
