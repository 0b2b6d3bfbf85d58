"""Words of a lowered program on the device: the fields of an entry, and what shaders know of them as a GLSL include.

An entry is four words: what to do and with which registers; a number that is added to the second operand; the slot of
the next entry; the slot of a taken jump, or two distances for operations on memory. The shader's include is written
from here: `python -m flux_vk.flux.micro > shaders/include/flux_words.glsl`. Not for: which opcode becomes which entry
(lower.py).
"""

from __future__ import annotations

from enum import IntEnum

from .program import MAX_CODE, REGISTERS, SP, STACK_BYTES, WINDOW, Trap


class Kind(IntEnum):
    """What a plain entry computes from its operands a and b; the interpreter picks the result by these numbers."""

    ADD = 0
    SUB = 1
    AND = 2
    OR = 3
    XOR = 4
    SHL = 5
    SHR = 6
    ROTL = 7
    ROTR = 8
    MUL = 9
    BOOL = 10
    """1 where the comparison holds."""
    ORDER = 11
    """-1, 0 or 1 as a is less than b, equal or neither."""
    SELECT = 12
    """a where the comparison holds, else b."""
    FADD = 13
    FMUL = 14
    FDIV = 15


class Rare(IntEnum):
    """What an entry with the bit RARE does; in the place of the kind."""

    HALT = 0
    END = 1
    """Behind the code: stops and is no step."""
    DIV = 2
    REM = 3
    MILLI = 4
    """CAST of bits to thousandths."""
    BOUNDS = 5
    MEMORY = 6
    ALLOCA = 7
    RANDOM = 8
    """Fills R10; stands in front of programs that name it, and is no step."""


# First bit of each field of an entry's first word.
A_BIT, B_BIT, D_BIT, KIND_BIT, TRUTH_BIT = 0, 6, 12, 18, 22
FLOAT_BIT, UNSIGNED_BIT, FLAGS_BIT, BOUNDARY_BIT, FLAGS_A_BIT, COUNT_BIT, RARE_BIT = 25, 26, 27, 28, 29, 30, 31
# What the bits from TRUTH_BIT on mean for MEMORY.
STORE_BIT, BYTE_BIT, DYNAMIC_BIT, PUSH_BIT, POP_BIT, MOVE_SP_BIT = 22, 23, 24, 25, 26, 27

FLOATS = REGISTERS
"""F0 in the register file."""
ZERO = 32
SINK = 33
T0, T1, T2 = 34, 35, 36
LINK = 37
"""Where a shared sequence of entries goes on."""
FILE = 38

HEAD_WORDS = 40
"""A word of switches, the length of the code, the first slot, 5 unused; the registers on entry."""
IN_USE, RESULT_F0 = 1, 2
HEAD_SLOTS = HEAD_WORDS // 4
SHARED = 16
"""Entries that all programs have in common."""
BASE = HEAD_SLOTS + SHARED
"""The slot of the code's first byte."""
RANDOM_SLOT = HEAD_SLOTS
"""The shared entry that fills R10."""


def code_words(capacity: int = MAX_CODE) -> int:
    """Words of a lowered program with room for so many bytes of code."""
    return 4 * (BASE + capacity + 1)


CODE_WORDS = code_words()
"""Words of a lowered program of any length."""


def glsl() -> str:
    """The include with the same numbers for shaders."""
    numbers: dict[str, int] = {
        "FILE": FILE, "R_SP": SP, "R_F0": FLOATS, "R_ZERO": ZERO, "R_LINK": LINK,
        "STACK": STACK_BYTES, "WINDOW": WINDOW,
        "BASE": BASE, "RANDOM": RANDOM_SLOT, "IN_USE": IN_USE, "RESULT_F0": RESULT_F0,
        "A": A_BIT, "B": B_BIT, "D": D_BIT, "KIND": KIND_BIT, "TRUTH": TRUTH_BIT, "UNSIGNED": UNSIGNED_BIT,
        "COUNTS_BIT": COUNT_BIT,
    }  # fmt: skip
    bits = {
        "IS_FLOAT": FLOAT_BIT, "IS_UNSIGNED": UNSIGNED_BIT, "SETS_FLAGS": FLAGS_BIT, "IS_BOUNDARY": BOUNDARY_BIT,
        "A_IS_FLAGS": FLAGS_A_BIT, "COUNTS": COUNT_BIT, "IS_RARE": RARE_BIT,
        "M_STORE": STORE_BIT, "M_BYTE": BYTE_BIT, "M_DYNAMIC": DYNAMIC_BIT, "M_PUSH": PUSH_BIT, "M_POP": POP_BIT,
        "M_MOVE_SP": MOVE_SP_BIT,
    }  # fmt: skip
    numbers |= {name: 1 << bit for name, bit in bits.items()}
    numbers |= {f"K_{kind.name}": kind for kind in Kind}
    numbers |= {f"X_{rare.name}": rare for rare in Rare}
    numbers |= {f"TRAP_{trap.name}": trap for trap in Trap}
    lines = [f"const uint FLUX_{name} = {value:#x}u;" for name, value in numbers.items()]
    head = "// Written by `python -m flux_vk.flux.micro`, where these numbers are explained; a test compares."
    return "\n".join([head, *lines]) + "\n"


if __name__ == "__main__":
    print(glsl(), end="")
