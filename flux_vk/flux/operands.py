"""Kinds of operands: how many bytes, which register bank, which values are legal. Not for: what an opcode does."""

from __future__ import annotations

from enum import Enum


class Operand(Enum):
    """One operand of an instruction, in the order of its bytes; all numbers are little-endian."""

    RD = "rd"
    """Integer register, written (1 byte, 0-15)."""
    RS = "rs"
    """Integer register, read."""
    RX = "rx"
    """Integer register, read and written."""
    FD = "fd"
    """Float register, written."""
    FS = "fs"
    """Float register, read."""
    FX = "fx"
    """Float register, read and written."""
    FR = "fr"
    """One number for two registers: the float register is read, the integer register of the same number is written."""
    VD = "vd"
    """Vector register, written."""
    VS = "vs"
    """Vector register, read."""
    VX = "vx"
    """Vector register, read and written."""
    PAD = "pad"
    """A byte that is consumed and ignored, whatever it is."""
    ICOND = "icond"
    """Condition of ICMP (1 byte, 0-9)."""
    CC = "cc"
    """Condition of SETCC (1 byte, 0-9)."""
    CAST = "cast"
    """Kind of a CAST (1 byte, 0-3)."""
    U8 = "u8"
    """A byte, 0-255."""
    I16 = "i16"
    """A signed 16-bit number."""
    REL = "rel"
    """A signed 16-bit distance from the end of the instruction to the jump's target."""
    I32 = "i32"
    """A signed 32-bit number."""
    DATA = "data"
    """A payload: its length in 16 bits, then so many bytes."""

    @property
    def size(self) -> int:
        """Bytes in the code; of DATA the length field alone."""
        return _SIZES.get(self, 1)

    @property
    def bank(self) -> str:
        """ "R", "F", "V" for registers, else ""."""
        if self is Operand.FR:
            return "F"
        return self.value[0].upper() if self in _REGISTERS else ""

    @property
    def low(self) -> int:
        """The smallest legal value."""
        return {Operand.I16: -(2**15), Operand.REL: -(2**15), Operand.I32: -(2**31)}.get(self, 0)

    @property
    def high(self) -> int:
        """The largest legal value; of DATA the longest payload."""
        if self in _REGISTERS:
            return 15
        return _HIGHEST.get(self, 255)


_REGISTERS = frozenset(
    {
        Operand.RD,
        Operand.RS,
        Operand.RX,
        Operand.FD,
        Operand.FS,
        Operand.FX,
        Operand.FR,
        Operand.VD,
        Operand.VS,
        Operand.VX,
    }
)
_SIZES = {Operand.I16: 2, Operand.REL: 2, Operand.I32: 4, Operand.DATA: 2}
_HIGHEST = {
    Operand.ICOND: 9,
    Operand.CC: 9,
    Operand.CAST: 3,
    Operand.I16: 2**15 - 1,
    Operand.REL: 2**15 - 1,
    Operand.I32: 2**31 - 1,
    Operand.DATA: 2**16 - 1,
}

# What the values of these kinds are called in listings, by value.
NAMES = {
    Operand.ICOND: ("EQ", "NE", "LT", "LE", "GT", "GE", "ULT", "ULE", "UGT", "UGE"),
    Operand.CC: ("EQ", "NE", "LT", "GE", "GT", "LE", "CS", "CC", "VS", "VC"),
}
