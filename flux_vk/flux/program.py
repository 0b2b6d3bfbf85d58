"""A program with its constants, and the numbers of the machine and its ABI that everything else agrees on.

Not for: opcodes (opcodes.py), running (vm.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from numbers import Integral
from types import MappingProxyType

from ..errors import InputError

REGISTERS = 16
Q16 = 65536
"""One in the Q16.16 numbers of R0 and R6."""
STACK_BYTES = 65536
"""Size of the stack region; the stack pointer starts at its end."""
WINDOW = 256
"""On a GPU only the first and the last so many bytes of the stack region exist."""
MAX_HOST_CODE = 1 << 20
MAX_CODE = 1024
"""Bytes of code of a program for the GPU."""
MAX_NAME = 64
"""Characters of a program's name."""
HOST_STEPS = 1_000_000
GPU_STEPS = 1024
"""Default step limits."""

SP, REGION, TRUST, FP, LR = 11, 12, 13, 14, 15
ALIASES: Mapping[str, int] = MappingProxyType({"SP": SP, "FP": FP, "LR": LR})
"""Other names of integer registers, as the assembler takes them."""

ABI_GP: Mapping[int, str] = MappingProxyType(
    {
        0: "logit of the candidate, Q16.16 (half to even, saturated)",
        1: "position of the token to be drawn, from 0",
        2: "how often the candidate occurs in the history window",
        3: "token id of the candidate",
        4: "rank: 0 is the best (logit descending, id ascending)",
        5: "number of candidates",
        6: "probability, Q16.16",
        7: "distance to the candidate's last occurrence: 1 the token before, -1 never",
        10: "random bits, fixed by seed, position, agent and token",
        SP: "stack pointer, 65536",
    }
)
"""Integer registers that are set on entry, for each candidate."""
ABI_FP: Mapping[int, str] = MappingProxyType(
    {
        0: "logit of the candidate",
        1: "probability: softmax over the whole vocabulary at temperature 1",
        2: "position (as R1)",
        3: "frequency (as R2)",
        4: "best logit of the row",
        5: "entropy of the whole distribution in nats",
    }
)
"""Float registers that are set on entry."""


class Trap(IntEnum):
    """Why a program was stopped; the GPU interpreter uses the same numbers."""

    NONE = 0
    DIVIDE_BY_ZERO = 1
    BAD_OPCODE = 2
    BAD_ADDRESS = 3
    STACK_OVERFLOW = 4
    STACK_UNDERFLOW = 5
    STEP_LIMIT = 6
    NOT_OFFERED = 7
    OTHER = 8
    """A failed check of types, bounds, capabilities or operands; overflow of a vector operation; a result that is no
    finite number."""


@dataclass(frozen=True)
class Program:
    """Bytecode with what it needs on entry.

    `result`: "R0" (the score is R0 / 65536) or "F0". `gp`, `fp`: values of registers that the ABI leaves free, by
    number (int32; finite floats, rounded to 32 bits when they are loaded). `source`: the text it was made from, if any.
    Raises InputError where one of these is not legal. The code itself is judged by `flux_vk.flux.verify`.
    """

    code: bytes
    name: str = "agent"
    result: str = "R0"
    gp: Mapping[int, int] = field(default_factory=dict)
    fp: Mapping[int, float] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= MAX_NAME or not self.name.isprintable():
            raise InputError(f"program name {self.name!r}, expected 1 to {MAX_NAME} printable characters")
        if self.result not in ("R0", "F0"):
            raise InputError(f"program {self.name!r}: result {self.result!r}, expected 'R0' or 'F0'")
        for bank, constants, filled in (("R", self.gp, ABI_GP), ("F", self.fp, ABI_FP)):
            for number, value in constants.items():
                problem = constant_problem(bank, number, value, filled)
                if problem:
                    raise InputError(f"program {self.name!r}: constant {bank}{number}: {problem}")
        object.__setattr__(self, "code", code_of(self.code))
        object.__setattr__(self, "gp", MappingProxyType({number: int(value) for number, value in self.gp.items()}))
        object.__setattr__(self, "fp", MappingProxyType({number: float(value) for number, value in self.fp.items()}))

    def __hash__(self) -> int:
        return hash((self.code, self.name, self.result, tuple(self.gp.items()), tuple(self.fp.items())))

    def __reduce__(self) -> tuple[object, ...]:  # read-only mappings cannot be pickled
        return Program, (self.code, self.name, self.result, dict(self.gp), dict(self.fp), self.source)


def code_of(program: bytes | bytearray | memoryview | Program) -> bytes:
    """The bytecode of a program. Raises InputError for what is neither bytes nor a Program."""
    if isinstance(program, Program):
        return program.code
    if isinstance(program, (bytes, bytearray, memoryview)):
        return bytes(program)
    what = "text; assemble it first" if isinstance(program, str) else type(program).__name__
    raise InputError(f"a program is bytes or a flux.Program, found {what}")


def constant_problem(bank: str, number: int, value: float, filled: Mapping[int, str]) -> str:
    """What is wrong with a constant, or ""."""
    if not 0 <= number < REGISTERS:
        return f"there is no such register, expected {bank}0 to {bank}{REGISTERS - 1}"
    if number in filled:
        free = ", ".join(f"{bank}{n}" for n in range(REGISTERS) if n not in filled)
        return f"the register holds the {filled[number]} on entry; free are {free}"
    if bank == "R" and not (isinstance(value, Integral) and -(2**31) <= value < 2**31):
        return f"{value!r}, expected a whole number from -2147483648 to 2147483647"
    if bank == "F" and not abs(value) <= 3.4028234663852886e38:
        return f"{value!r}, expected a finite 32-bit float"
    return ""
