"""The state of the reference VM while a program runs, with checked access to stack and memory.

Not for: what opcodes do (handlers.py, host_handlers.py), the loop and the public result (vm.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ctypes import c_float

from .program import REGISTERS, SP, STACK_BYTES, WINDOW, Trap

A2AHandler = Callable[[str, bytes], "int | None"]
_WORD = struct.Struct("<i")


class Fault(Exception):
    """A trap on its way to the loop; it never leaves `run`."""

    def __init__(self, trap: Trap) -> None:
        self.trap = trap


def wrap(value: int) -> int:
    """A whole number as int32 in two's complement."""
    return (value + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def f32(value: float) -> float:
    """A float rounded to 32 bits, half to even; beyond the largest it is an infinity.

    Sums, products and quotients of 32-bit floats made with 64 bits round to the same as if made exactly.
    """
    return c_float(value).value


class Machine:
    """Registers, flags, stack memory and what host operations keep. `next` is where the running instruction leads."""

    __slots__ = (
        "boxes", "c", "capabilities", "code_end", "boundaries", "fp", "generation", "gp", "halted", "memory", "next",
        "notes", "o", "on_a2a", "pc", "regions", "resources", "s", "vectors", "windowed", "z",
    )  # fmt: skip

    def __init__(self, boundaries: frozenset[int], windowed: bool, on_a2a: A2AHandler | None) -> None:
        self.gp = [0] * REGISTERS
        self.gp[SP] = STACK_BYTES
        self.fp = [0.0] * REGISTERS
        self.vectors = [bytes(16)] * REGISTERS
        self.z = self.s = self.c = self.o = False
        self.memory = bytearray(STACK_BYTES)
        self.windowed = windowed
        self.boundaries = boundaries
        self.pc = self.next = 0
        self.halted = False
        self.on_a2a = on_a2a
        self.regions: dict[bytes, bytearray] = {b"stack": self.memory, b"heap": bytearray(STACK_BYTES)}
        self.boxes: list[tuple[int, int]] = []
        self.capabilities: set[int] = set()
        self.resources: set[int] = set()
        self.generation = self.notes = 0

    def flags_of(self, result: int) -> None:
        """Flags of an int32 result."""
        self.z = result == 0
        self.s = self.c = result < 0
        self.o = False

    def jump(self, target: int) -> None:
        """Go on at an offset. Fault where no instruction begins there and it is not the end of the code."""
        if target not in self.boundaries:
            raise Fault(Trap.BAD_ADDRESS)
        self.next = target

    def _in_window(self, address: int, size: int) -> bool:
        return not self.windowed or address + size <= WINDOW or address >= STACK_BYTES - WINDOW

    def place(self, address: int, size: int) -> int:
        """The address, if `size` bytes from there on exist. Fault elsewhere."""
        if not 0 <= address <= STACK_BYTES - size or not self._in_window(address, size):
            raise Fault(Trap.BAD_ADDRESS)
        return address

    def load(self, address: int) -> int:
        """The word at an address that `place` has passed."""
        value: int = _WORD.unpack_from(self.memory, address)[0]
        return value

    def store(self, address: int, value: int) -> None:
        """Write a word at an address that `place` or `room` has passed."""
        _WORD.pack_into(self.memory, address, value)

    def room(self, sp: int) -> int:
        """Where a push puts its word with this stack pointer. Fault where there is no room."""
        if sp < 4:
            raise Fault(Trap.STACK_OVERFLOW)
        if sp > STACK_BYTES:
            raise Fault(Trap.BAD_ADDRESS)
        if not self._in_window(sp - 4, 4):
            raise Fault(Trap.STACK_OVERFLOW)
        return sp - 4

    def words(self, sp: int, count: int) -> list[int]:
        """The top words of the stack, top first. Fault where there are fewer."""
        if sp > STACK_BYTES - 4 * count:
            raise Fault(Trap.STACK_UNDERFLOW)
        return [self.load(self.place(sp + 4 * i, 4)) for i in range(count)]

    def push(self, value: int) -> None:
        """PUSH of a value."""
        address = self.room(self.gp[SP])
        self.store(address, value)
        self.gp[SP] = address
