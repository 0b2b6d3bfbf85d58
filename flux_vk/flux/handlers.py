"""What the operations that the GPU offers too do on the reference VM: one function each, in HANDLERS by opcode.

The words of the table (opcodes.py) say the same. Each checks before it writes, so that a trap leaves no trace.
Not for: operations of the host alone (host_handlers.py).
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from typing import Any

from .machine import Fault, Machine, f32, wrap
from .opcodes import BY_NAME
from .program import FP, SP, STACK_BYTES, Trap

Handler = Callable[..., None]
HANDLERS: dict[int, Handler] = {}


def handler(*names: str) -> Callable[[Handler], Handler]:
    """Enter a function for these mnemonics."""

    def enter(function: Handler) -> Handler:
        HANDLERS.update({BY_NAME[name].byte: function for name in names})
        return function

    return enter


# --- integers --------------------------------------------------------------------------------------------------------


def _quotient(a: int, b: int) -> int:
    if b == 0:
        raise Fault(Trap.DIVIDE_BY_ZERO)
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


def _remainder(a: int, b: int) -> int:
    return a - b * _quotient(a, b)


def _shift_left(a: int, b: int) -> int:
    return a << (b & 63)


def _shift_right(a: int, b: int) -> int:
    return a >> (b & 63)


def _rotate_left(a: int, b: int) -> int:
    bits, n = a & 0xFFFFFFFF, b & 31
    return bits << n | bits >> (32 - n)


def _rotate_right(a: int, b: int) -> int:
    return _rotate_left(a, -b)


_BINARY: dict[str, Callable[[int, int], int]] = {
    "IADD": operator.add, "ISUB": operator.sub, "IMUL": operator.mul, "IDIV": _quotient, "IMOD": _remainder,
    "IREM": _remainder, "IAND": operator.and_, "IOR": operator.or_, "IXOR": operator.xor, "ISHL": _shift_left,
    "ISHR": _shift_right, "ROTL": _rotate_left, "ROTR": _rotate_right,
}  # fmt: skip
_UNARY: dict[str, Callable[[int], int]] = {"INEG": operator.neg, "INOT": operator.invert}


def _binary(function: Callable[[int, int], int]) -> Handler:
    def run(m: Machine, rd: int, a: int, b: int) -> None:
        gp = m.gp
        gp[rd] = result = wrap(function(gp[a], gp[b]))
        m.flags_of(result)

    return run


def _unary(function: Callable[[int], int]) -> Handler:
    def run(m: Machine, rd: int, rs: int) -> None:
        m.gp[rd] = result = wrap(function(m.gp[rs]))
        m.flags_of(result)

    return run


for _name, _function in _BINARY.items():
    handler(_name)(_binary(_function))
for _name, _one in _UNARY.items():
    handler(_name)(_unary(_one))


@handler("MOV")
def _mov(m: Machine, rd: int, rs: int) -> None:
    m.gp[rd] = m.gp[rs]


@handler("MOVI")
def _movi(m: Machine, rd: int, number: int) -> None:
    m.gp[rd] = number


@handler("INC")
def _inc(m: Machine, r: int) -> None:
    m.gp[r] = wrap(m.gp[r] + 1)
    m.flags_of(m.gp[r])


@handler("DEC")
def _dec(m: Machine, r: int) -> None:
    m.gp[r] = wrap(m.gp[r] - 1)
    m.flags_of(m.gp[r])


# --- comparing -------------------------------------------------------------------------------------------------------

_TESTS: tuple[Callable[[Any, Any], bool], ...] = (
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
)  # fmt: skip


@handler("ICMP")
def _icmp(m: Machine, condition: int, rd: int, rs: int) -> None:
    a, b = m.gp[rd], m.gp[rs]
    if condition >= 6:
        a, b, condition = a & 0xFFFFFFFF, b & 0xFFFFFFFF, condition - 4
    m.gp[rd] = result = int(_TESTS[condition](a, b))
    m.flags_of(result)


def _compare(test: Callable[[int, int], bool]) -> Handler:
    def run(m: Machine, rd: int, rs: int) -> None:
        m.gp[rd] = result = int(test(m.gp[rd], m.gp[rs]))
        m.flags_of(result)

    return run


def _compare_floats(test: Callable[[float, float], bool]) -> Handler:
    def run(m: Machine, rd: int, rs: int) -> None:
        m.gp[rd] = int(test(m.fp[rd], m.fp[rs]))

    return run


for _suffix, _test in (
    ("EQ", operator.eq), ("LT", operator.lt), ("LE", operator.le), ("GT", operator.gt), ("GE", operator.ge),
):  # fmt: skip
    handler(f"I{_suffix}")(_compare(_test))
    handler(f"F{_suffix}")(_compare_floats(_test))


@handler("TEST")
def _test_bits(m: Machine, a: int, b: int) -> None:
    m.flags_of(m.gp[a] & m.gp[b])


@handler("CMP")
def _cmp(m: Machine, a: int, b: int) -> None:
    x, y = m.gp[a], m.gp[b]
    m.z = x == y
    m.s = m.c = x < y
    m.o = False


@handler("SETCC")
def _setcc(m: Machine, rd: int, condition: int) -> None:
    holds = (
        m.z, not m.z, m.s, not m.s, not (m.z or m.s), m.z or m.s, m.c, not m.c, m.o, not m.o,
    )[condition]  # fmt: skip
    m.gp[rd] = int(holds)


# --- control ---------------------------------------------------------------------------------------------------------


@handler("NOP", "YIELD")
def _nothing(m: Machine) -> None:
    pass


@handler("HALT")
def _halt(m: Machine) -> None:
    m.halted = True


@handler("JMP", "TAILCALL")
def _jmp(m: Machine, _: int, distance: int) -> None:
    m.jump(m.next + distance)


@handler("JZ")
def _jz(m: Machine, r: int, distance: int) -> None:
    if m.gp[r] == 0:
        m.jump(m.next + distance)


@handler("JNZ")
def _jnz(m: Machine, r: int, distance: int) -> None:
    if m.gp[r] != 0:
        m.jump(m.next + distance)


def _branch(holds: Callable[[Machine], bool]) -> Handler:
    def run(m: Machine, _: int, distance: int) -> None:
        if holds(m):
            m.jump(m.next + distance)

    return run


handler("JE")(_branch(lambda m: m.z))
handler("JNE")(_branch(lambda m: not m.z))
handler("JL")(_branch(lambda m: m.s))
handler("JGE")(_branch(lambda m: not m.s))
handler("JG")(_branch(lambda m: not (m.z or m.s)))
handler("JLE")(_branch(lambda m: m.z or m.s))


def _call_to(m: Machine, target: int) -> None:
    back = m.next
    m.room(m.gp[SP])
    m.jump(target)
    m.push(back)


@handler("CALL")
def _call(m: Machine, _: int, distance: int) -> None:
    _call_to(m, m.next + distance)


@handler("CALL_IND")
def _call_ind(m: Machine, _: int, r: int) -> None:
    _call_to(m, m.gp[r])


@handler("RET")
def _ret(m: Machine) -> None:
    sp = m.gp[SP]
    if sp >= STACK_BYTES:
        m.halted = True
        return
    m.jump(m.words(sp, 1)[0])
    m.gp[SP] = sp + 4


# --- stack and memory ------------------------------------------------------------------------------------------------


@handler("PUSH")
def _push(m: Machine, r: int) -> None:
    m.push(m.gp[r])


@handler("POP")
def _pop(m: Machine, r: int) -> None:
    sp = m.gp[SP]
    (value,) = m.words(sp, 1)
    m.gp[SP] = sp + 4
    m.gp[r] = value


@handler("DUP")
def _dup(m: Machine) -> None:
    m.push(m.words(m.gp[SP], 1)[0])


@handler("SWAP")
def _swap(m: Machine) -> None:
    sp = m.gp[SP]
    a, b = m.words(sp, 2)
    m.store(sp, b)
    m.store(sp + 4, a)


@handler("ROT")
def _rot(m: Machine) -> None:
    sp = m.gp[SP]
    a, b, c = m.words(sp, 3)
    for i, value in enumerate((b, c, a)):
        m.store(sp + 4 * i, value)


@handler("ENTER")
def _enter(m: Machine, n: int) -> None:
    frame = m.room(m.gp[SP])
    if 4 * n > frame:
        raise Fault(Trap.STACK_OVERFLOW)
    m.push(m.gp[FP])
    m.gp[FP] = frame
    m.gp[SP] = frame - 4 * n


@handler("LEAVE")
def _leave(m: Machine, _: int) -> None:
    frame = m.gp[FP]
    (m.gp[FP],) = m.words(frame, 1)
    m.gp[SP] = frame + 4


@handler("ALLOCA")
def _alloca(m: Machine, rd: int, rs: int) -> None:
    n, sp = m.gp[rs], m.gp[SP]
    if n < 0 or sp < 0 or 4 * n > sp:
        raise Fault(Trap.STACK_OVERFLOW)
    m.gp[SP] = m.gp[rd] = sp - 4 * n


@handler("LOAD")
def _load(m: Machine, rd: int, rs: int) -> None:
    m.gp[rd] = m.load(m.place(m.gp[rs], 4))


@handler("STORE")
def _store(m: Machine, value: int, address: int) -> None:
    m.store(m.place(m.gp[address], 4), m.gp[value])


@handler("LOAD8")
def _load8(m: Machine, rd: int, rs: int) -> None:
    m.gp[rd] = m.memory[m.place(m.gp[rs], 1)]


@handler("STORE8")
def _store8(m: Machine, value: int, address: int) -> None:
    m.memory[m.place(m.gp[address], 1)] = m.gp[value] & 255


# --- floats and types ------------------------------------------------------------------------------------------------


def _divide(a: float, b: float) -> float:
    if b == 0.0:
        raise Fault(Trap.DIVIDE_BY_ZERO)
    return a / b


def _float(function: Callable[[float, float], float]) -> Handler:
    def run(m: Machine, fd: int, a: int, b: int) -> None:
        m.fp[fd] = f32(function(m.fp[a], m.fp[b]))

    return run


for _name, _arithmetic in (
    ("FADD", operator.add), ("FSUB", operator.sub), ("FMUL", operator.mul), ("FDIV", _divide),
):  # fmt: skip
    handler(_name)(_float(_arithmetic))


@handler("FNEG")
def _fneg(m: Machine, fd: int, fs: int) -> None:
    m.fp[fd] = -m.fp[fs]


@handler("FABS")
def _fabs(m: Machine, fd: int, fs: int) -> None:
    m.fp[fd] = abs(m.fp[fs])


@handler("FMIN")
def _fmin(m: Machine, fx: int, fs: int) -> None:
    m.fp[fx] = m.fp[fx] if m.fp[fx] < m.fp[fs] else m.fp[fs]


@handler("FMAX")
def _fmax(m: Machine, fx: int, fs: int) -> None:
    m.fp[fx] = m.fp[fx] if m.fp[fx] > m.fp[fs] else m.fp[fs]


@handler("CAST")
def _cast(m: Machine, rd: int, rs: int, kind: int) -> None:
    value = m.gp[rs]
    if kind == 0:
        product = f32(struct.unpack("<f", struct.pack("<i", value))[0] * 1000.0)
        value = 0 if math.isnan(product) else int(max(-2147483648.0, min(2147483647.0, product)))
    elif kind == 2:
        value = int(value != 0)
    m.gp[rd] = value


@handler("CHECK_BOUNDS")
def _check_bounds(m: Machine, index: int, size: int) -> None:
    if not 0 <= m.gp[index] < m.gp[size]:
        raise Fault(Trap.OTHER)
