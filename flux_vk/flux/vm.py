"""The reference VM: runs a program on the host, one instruction after the other, and says how it ended.

Faults of a program are typed traps in the result, never exceptions. Not for: what opcodes do (handlers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import InputError
from .handlers import HANDLERS, Handler
from .host_handlers import not_offered
from .instructions import Decoded, Instruction, decode
from .machine import A2AHandler, Fault, Machine, f32
from .operands import Operand
from .program import HOST_STEPS, REGISTERS, Program, Trap, code_of


class Flags(NamedTuple):
    """The four flags."""

    Z: bool
    """Zero, or equal."""
    S: bool
    """Sign, or less."""
    C: bool
    """Carry; this machine sets it as S."""
    O: bool  # noqa: E741  (the flag's name)
    """Overflow; this machine never sets it."""

    @property
    def word(self) -> int:
        """As the GPU interpreter reports them: bit 0 Z, 1 S, 2 C, 3 O."""
        return self.Z | self.S << 1 | self.C << 2 | self.O << 3


class Step(NamedTuple):
    """One executed instruction for a trace: registers and flags after it; a trap is the last step of its trace."""

    instruction: Instruction
    gp: tuple[int, ...]
    fp: tuple[float, ...]
    flags: Flags
    trap: Trap


@dataclass(frozen=True)
class State:
    """How a run ended. `halted`: by HALT, by RET with an empty stack, or by running off the end of the code.

    `pc` is the offset of the trapping instruction, of the next one at a step limit, or behind the last one. `steps`
    counts executed instructions; one that traps is not counted.
    """

    gp: tuple[int, ...]
    fp: tuple[float, ...]
    flags: Flags
    halted: bool
    trap: Trap
    steps: int
    pc: int
    vectors: tuple[bytes, ...] = field(repr=False)
    memory: bytes = field(repr=False)


def run(
    program: bytes | Program,
    gp: Mapping[int, int] | None = None,
    fp: Mapping[int, float] | None = None,
    *,
    max_steps: int = HOST_STEPS,
    memory: str = "full",
    on_a2a: A2AHandler | None = None,
    trace: list[Step] | Callable[[Step], None] | None = None,
) -> State:
    """Run a program and give its last state.

    Registers start at 0 but for R11 (65536), then take the program's constants, then `gp` (int32) and `fp` (rounded to
    32 bits) by number. memory: "full" (64 KiB), or "gpu": only its first and last 256 bytes, and operations that the
    GPU does not offer trap. on_a2a: called with (name, payload) by agent operations; an int that it returns goes to R0,
    what it raises passes through. trace: a list that every Step is appended to, or a function that is given each.
    Raises InputError for registers or limits that make no sense; whatever the program does ends in the State.
    """
    code = code_of(program)
    if memory not in ("full", "gpu"):
        raise InputError(f"memory {memory!r}, expected 'full' or 'gpu'")
    if max_steps < 0:
        raise InputError(f"max_steps {max_steps}, expected 0 or more")
    decoded = decode(code)
    m = Machine(decoded.boundaries, memory == "gpu", on_a2a)
    if isinstance(program, Program):
        _set_registers(m, program.gp, program.fp)
    _set_registers(m, gp or {}, fp or {})
    note = trace.append if isinstance(trace, list) else trace
    trap, steps = _loop(m, _prepared(decoded, memory == "gpu"), len(code), max_steps, note)
    registers = tuple(m.gp), tuple(m.fp), _flags(m)
    return State(*registers, m.halted, trap, steps, m.pc, tuple(m.vectors), bytes(m.memory))


_Prepared = dict[int, tuple[Handler, tuple["int | bytes", ...], int, Instruction]]


def _prepared(decoded: Decoded, gpu: bool) -> _Prepared:
    """By offset: what to call with which operands, where the next instruction begins, the instruction itself."""
    return {i.offset: (_handler_of(i, gpu), i.operands, i.end, i) for i in decoded.instructions}


def _handler_of(instruction: Instruction, gpu: bool) -> Handler:
    if gpu and not instruction.op.gpu:
        return not_offered
    for kind, value in zip(instruction.op.operands, instruction.operands, strict=True):
        if kind not in (Operand.PAD, Operand.DATA) and isinstance(value, int) and not kind.low <= value <= kind.high:
            return _bad_operand
    return HANDLERS[instruction.op.byte]


def _bad_operand(m: Machine, *_: int | bytes) -> None:
    raise Fault(Trap.OTHER)


def _loop(
    m: Machine, prepared: _Prepared, end: int, max_steps: int, note: Callable[[Step], None] | None
) -> tuple[Trap, int]:
    """Run to the end: the trap and the number of steps. `m.pc` is left where State says."""
    steps = 0
    while m.pc != end:
        if steps >= max_steps:
            return Trap.STEP_LIMIT, steps
        found = prepared.get(m.pc)
        if found is None:
            return Trap.BAD_OPCODE, steps
        handler, operands, m.next, instruction = found
        try:
            handler(m, *operands)
        except Fault as fault:
            if note:
                note(_step(m, instruction, fault.trap))
            return fault.trap, steps
        m.pc = m.next
        steps += 1
        if note:
            note(_step(m, instruction, Trap.NONE))
        if m.halted:
            return Trap.NONE, steps
    m.halted = True
    return Trap.NONE, steps


def _step(m: Machine, instruction: Instruction, trap: Trap) -> Step:
    return Step(instruction, tuple(m.gp), tuple(m.fp), _flags(m), trap)


def _flags(m: Machine) -> Flags:
    return Flags(m.z, m.s, m.c, m.o)


def _set_registers(m: Machine, gp: Mapping[int, int], fp: Mapping[int, float]) -> None:
    for bank, values in (("R", gp), ("F", fp)):
        for number in values:
            if not 0 <= number < REGISTERS:
                raise InputError(f"register {bank}{number} does not exist, expected {bank}0 to {bank}{REGISTERS - 1}")
    for number, value in gp.items():
        if not -(2**31) <= value < 2**31 or int(value) != value:  # in this order: NaN and infinities have no int
            raise InputError(f"R{number} = {value}, expected a whole number from -2147483648 to 2147483647")
        m.gp[number] = int(value)
    for number, real in fp.items():
        try:
            m.fp[number] = f32(real)
        except OverflowError:
            raise InputError(f"F{number} = {real}, expected a float; this whole number is beyond all of them") from None
