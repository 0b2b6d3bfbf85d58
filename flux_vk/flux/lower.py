"""Lowering: a program for the GPU as the words that the kernel `flux_interpret` runs.

Every byte offset of the code has an entry (micro.py), so that an offset that was pushed or computed is found without a
search; the bytes inside an instruction hold further entries of it, where it needs more than one. Not for: judging
programs (verify.py), though what the device cannot run is refused here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from . import micro
from .instructions import Instruction, decode
from .micro import BASE, CODE_WORDS, FLOATS, LINK, SINK, T0, T1, T2, ZERO, Kind, Rare, code_words
from .operands import Operand
from .program import FP, MAX_CODE, SP, STACK_BYTES, Program

Entry = tuple[int, int, int, int]
LESS, EQUAL, GREATER = 1, 2, 4
"""Outcomes of a comparison, as a set; unordered floats count as GREATER."""
ALWAYS = LESS | EQUAL | GREATER
_SIGN = 0x80000000
_RANDOM_REGISTER = 10
_MOST = 0xFFFF


def plain(
    kind: Kind, d: int, a: int = ZERO, b: int = ZERO, number: int = 0, *, when: int = 0, to: int | None = None,
    real: bool = False, unsigned: bool = False, flags: bool = False, by_flags: bool = False, step: bool = True,
) -> Callable[[int], Entry]:  # fmt: skip
    """An entry of the innermost loop: d = kind(a, b + number), and a jump to slot `to` if the comparison is in `when`.

    It is finished by the slot of the next entry.
    """
    word = a << micro.A_BIT | b << micro.B_BIT | d << micro.D_BIT | kind << micro.KIND_BIT | when << micro.TRUTH_BIT
    word |= real << micro.FLOAT_BIT | unsigned << micro.UNSIGNED_BIT | flags << micro.FLAGS_BIT
    word |= by_flags << micro.FLAGS_A_BIT | step << micro.COUNT_BIT
    return lambda after: (word, number & 0xFFFFFFFF, after, after if to is None else to)


def rare(
    op: Rare, d: int = SINK, a: int = ZERO, b: int = ZERO, number: int = 0, *, flags: bool = False, step: bool = True
) -> Callable[[int], Entry]:
    """An entry outside of the innermost loop."""
    word = a << micro.A_BIT | b << micro.B_BIT | d << micro.D_BIT | op << micro.KIND_BIT
    word |= flags << micro.FLAGS_BIT | step << micro.COUNT_BIT | 1 << micro.RARE_BIT
    return lambda after: (word, number & 0xFFFFFFFF, after, 0)


def memory(
    a: int, offset: int = 0, *, d: int = SINK, store: int | None = None, number: int = 0, check: str = "",
    move: int | None = None, byte: bool = False, jump: bool = False, step: bool = True, back: bool = False,
) -> Callable[[int], Entry]:  # fmt: skip
    """Load R[d], or store the register `store` + number, at R[a] + offset; then SP = R[a] + move.

    check: "push" or "pop" for the traps of the stack. jump: go to the offset that was loaded, or of a store to the one
    in R[d]. back: go on behind the instruction that a shared sequence stands for.
    """
    word = a << micro.A_BIT | (ZERO if store is None else store) << micro.B_BIT | d << micro.D_BIT
    word |= Rare.MEMORY << micro.KIND_BIT
    word |= (store is not None) << micro.STORE_BIT | byte << micro.BYTE_BIT | jump << micro.DYNAMIC_BIT
    word |= (check == "push") << micro.PUSH_BIT | (check == "pop") << micro.POP_BIT
    word |= (move is not None) << micro.FLAGS_BIT | step << micro.COUNT_BIT | 1 << micro.RARE_BIT
    far = offset & _MOST | ((move or 0) & _MOST) << 16
    return lambda after: (word, number & 0xFFFFFFFF, 0 if back else after, far)


def _shared() -> tuple[list[Entry], dict[str, int]]:
    """Entries of instructions that are shorter than what they do, and the slots where these begin."""
    entries: list[Entry] = [rare(Rare.RANDOM, _RANDOM_REGISTER, step=False)(BASE)]
    first: dict[str, int] = {}

    def add(name: str, *parts: Callable[[int], Entry]) -> None:
        first[name] = micro.HEAD_SLOTS + len(entries)
        for part in parts:
            entries.append(part(micro.HEAD_SLOTS + len(entries) + 1))

    add("HALT", rare(Rare.HALT))
    full = plain(Kind.ADD, SINK, SP, ZERO, STACK_BYTES, when=EQUAL | GREATER, to=first["HALT"], step=False)
    add("RET", full, memory(SP, d=T0, check="pop", move=4, jump=True))
    top = memory(SP, d=T0, check="pop", step=False)
    add("DUP", top, memory(SP, -4, store=T0, check="push", move=-4, back=True))
    second, third = (memory(SP, 4 * i, d=T0 + i, check="pop", step=False) for i in (1, 2))
    add("SWAP", second, top, memory(SP, store=T1, step=False), memory(SP, 4, store=T0, back=True))
    put = [memory(SP, 4 * i, store=r, step=i == 2, back=i == 2) for i, r in enumerate((T1, T2, T0))]
    add("ROT", third, second, top, *put)
    assert len(entries) <= micro.SHARED
    return entries, first


_SHARED, _FIRST = _shared()
_ICOND = (EQUAL, LESS | GREATER, LESS, LESS | EQUAL, GREATER, GREATER | EQUAL)
_CC = (EQUAL, LESS | GREATER, LESS, EQUAL | GREATER, GREATER, LESS | EQUAL, LESS, EQUAL | GREATER, 0, ALWAYS)
_JUMPS = {"JMP": ALWAYS, "TAILCALL": ALWAYS, "JE": EQUAL, "JNE": LESS | GREATER, "JL": LESS, "JGE": EQUAL | GREATER,
          "JG": GREATER, "JLE": LESS | EQUAL, "JZ": EQUAL, "JNZ": LESS | GREATER}  # fmt: skip
_BINARY = {"IADD": Kind.ADD, "ISUB": Kind.SUB, "IMUL": Kind.MUL, "IAND": Kind.AND, "IOR": Kind.OR, "IXOR": Kind.XOR,
           "ISHL": Kind.SHL, "ISHR": Kind.SHR, "ROTL": Kind.ROTL, "ROTR": Kind.ROTR}  # fmt: skip
_REAL = {"FADD": Kind.FADD, "FMUL": Kind.FMUL, "FDIV": Kind.FDIV}
_COMPARED = {"IEQ": 0, "ILT": 2, "ILE": 3, "IGT": 4, "IGE": 5}
_FCOMPARED = {"FEQ": (EQUAL, False), "FLT": (LESS, False), "FLE": (LESS | EQUAL, False), "FGT": (LESS, True),
              "FGE": (LESS | EQUAL, True)}  # fmt: skip
Parts = Sequence[Callable[[int], Entry]]


def _integer(name: str, x: Sequence[int]) -> Parts | None:
    if name in _BINARY:
        return [plain(_BINARY[name], x[0], x[1], x[2], flags=True)]
    if name in ("IDIV", "IMOD", "IREM"):
        return [rare(Rare.DIV if name == "IDIV" else Rare.REM, x[0], x[1], x[2], flags=True)]
    match name:
        case "MOV":
            return [plain(Kind.ADD, x[0], b=x[1])]
        case "MOVI":
            return [plain(Kind.ADD, x[0], number=x[1])]
        case "INEG":
            return [plain(Kind.SUB, x[0], b=x[1], flags=True)]
        case "INC" | "DEC":
            return [plain(Kind.ADD, x[0], x[0], number=1 if name == "INC" else -1, flags=True)]
        case "INOT":
            return [plain(Kind.XOR, x[0], x[1], number=-1, flags=True)]
        case "ICMP":
            when, unsigned = _ICOND[x[0] if x[0] < 6 else x[0] - 4], x[0] > 5
            return [plain(Kind.BOOL, x[1], x[1], x[2], when=when, unsigned=unsigned, flags=True)]
        case "TEST":
            return [plain(Kind.AND, SINK, x[0], x[1], flags=True)]
        case "CMP":
            return [plain(Kind.ORDER, SINK, x[0], x[1], flags=True)]
        case "SETCC":
            return [plain(Kind.BOOL, x[0], when=_CC[x[1]], by_flags=True)]
        case "CAST":
            if x[2] == 0:
                return [rare(Rare.MILLI, x[0], x[1])]
            return [plain(Kind.BOOL, x[0], x[1], when=LESS | GREATER) if x[2] == 2 else plain(Kind.ADD, x[0], b=x[1])]
        case "CHECK_BOUNDS":
            return [rare(Rare.BOUNDS, SINK, x[0], x[1])]
    if name in _COMPARED:
        return [plain(Kind.BOOL, x[0], x[0], x[1], when=_ICOND[_COMPARED[name]], flags=True)]
    return None


def _float(name: str, x: Sequence[int]) -> Parts | None:
    f = [FLOATS + i for i in x]
    if name in _REAL:
        return [plain(_REAL[name], f[0], f[1], f[2])]
    if name in _FCOMPARED:
        when, swapped = _FCOMPARED[name]
        a, b = (f[1], f[0]) if swapped else (f[0], f[1])
        return [plain(Kind.BOOL, x[0], a, b, when=when, real=True)]
    match name:
        case "FSUB":  # a - b is a + (-b) in every bit; adding the sign bit turns the sign round
            return [plain(Kind.FADD, f[0], f[1], f[2], _SIGN)]
        case "FNEG":
            return [plain(Kind.ADD, f[0], b=f[1], number=_SIGN)]
        case "FABS":
            return [plain(Kind.AND, f[0], f[1], number=_SIGN - 1)]
        case "FMIN":
            return [plain(Kind.SELECT, f[0], f[0], f[1], when=LESS, real=True)]
        case "FMAX":  # the second unless it is less than the first
            return [plain(Kind.SELECT, f[0], f[1], f[0], when=EQUAL | GREATER, real=True)]
    return None


def _stack(name: str, x: Sequence[int], end: int) -> Parts | None:
    match name:
        case "LOAD" | "LOAD8":
            return [memory(x[1], d=x[0], byte=name == "LOAD8")]
        case "STORE" | "STORE8":
            return [memory(x[1], store=x[0], byte=name == "STORE8")]
        case "PUSH":
            return [memory(SP, -4, store=x[0], check="push", move=-4)]
        case "POP":
            return [memory(SP, d=x[0], check="pop", move=4)]
        case "ENTER":
            room = 4 * x[0]
            return [
                memory(SP, -4, store=FP, check="push", move=-4 - room, step=False),
                plain(Kind.ADD, FP, SP, number=room),
            ]
        case "LEAVE":
            return [memory(FP, d=FP, check="pop", move=4)]
        case "ALLOCA":
            return [rare(Rare.ALLOCA, x[0], SP, x[1])]
        case "CALL_IND":
            return [memory(SP, -4, store=ZERO, number=end, check="push", move=-4, d=x[1], jump=True)]
    return None


def _parts(i: Instruction) -> Parts:
    """The entries of one instruction; InputError where the device has none."""
    name, x = i.op.name, [v for v in i.operands if not isinstance(v, bytes)]
    for kind, value in zip(i.op.operands, i.operands, strict=True):
        if kind is not Operand.PAD and isinstance(value, int) and not kind.low <= value <= kind.high:
            wanted = f"expected {kind.low} to {kind.high}"
            raise InputError(f"{name} at offset {i.offset}: an operand is {value}, {wanted}; flux_vk.flux.verify lists")
    if i.op.gpu:
        if name in _JUMPS:
            assert i.target is not None
            when, to = _JUMPS[name], BASE + i.target
            if name in ("JZ", "JNZ"):
                return [plain(Kind.ADD, SINK, x[0], when=when, to=to)]
            return [plain(Kind.ADD, SINK, when=when, to=to, by_flags=when != ALWAYS)]
        if name == "CALL":
            assert i.target is not None
            call, to = memory(SP, -4, store=ZERO, number=i.end, check="push", move=-4), BASE + i.target
            return [lambda _: call(to)]
        if name in ("NOP", "YIELD"):
            return [plain(Kind.ADD, SINK)]
        if name == "HALT":
            return [rare(Rare.HALT)]
        if name in ("RET", "DUP", "SWAP", "ROT"):
            to = _FIRST[name]
            return [plain(Kind.ADD, LINK, number=BASE + i.end, when=ALWAYS, to=to, step=False)]
        found = _integer(name, x) or _float(name, x) or _stack(name, x, i.end)
        if found:
            return found
    raise InputError(f"{name} at offset {i.offset}: the GPU does not offer this operation; flux_vk.flux.verify lists")


def lower(program: Program, capacity: int = MAX_CODE) -> npt.NDArray[np.uint32]:
    """The program as u32[code_words(capacity)], what `flux_interpret` takes for one slot and agent.

    capacity: bytes of code that there is room for; all programs of one buffer have the same. Raises InputError where
    the code is longer, runs into bytes that are no instruction, or holds what the device does not offer;
    `flux_vk.flux.verify` says all that is wrong at once.
    """
    code = program.code
    where = f"program {program.name!r}"
    if len(code) > capacity:
        raise InputError(f"{where}: {len(code)} bytes of code, expected at most {capacity}")
    decoded = decode(code)
    if not decoded.instructions or (decoded.tail and decoded.instructions[-1].op.falls):
        raise InputError(f"{where}: no instruction at offset {decoded.end} of {len(code)}; check it with flux_vk.flux")
    words = np.zeros((code_words(capacity) // 4, 4), np.uint32)
    words[micro.HEAD_SLOTS : micro.HEAD_SLOTS + len(_SHARED)] = _SHARED
    for i in decoded.instructions:
        if i.target is not None and i.target not in decoded.boundaries:
            raise InputError(f"{where}: {i.op.name} at offset {i.offset} jumps to {i.target}, inside an instruction")
        parts = _parts(i)
        for slot, part in enumerate(parts, BASE + i.offset):
            words[slot] = part(slot + 1)
        words[slot] = part(BASE + i.end)
    words[BASE + len(code)] = rare(Rare.END, step=False)(0)
    words[[BASE + offset for offset in decoded.boundaries], 0] |= 1 << micro.BOUNDARY_BIT
    flat = words.reshape(-1)
    flat[: micro.HEAD_WORDS] = _head(program, draws=any(map(_names_random_bits, decoded.instructions)))
    return flat


def _head(program: Program, draws: bool) -> npt.NDArray[np.uint32]:
    words = np.zeros(micro.HEAD_WORDS, np.uint32)
    words[0] = micro.IN_USE | (micro.RESULT_F0 if program.result == "F0" else 0)
    words[1] = len(program.code)
    words[2] = micro.RANDOM_SLOT if draws else BASE
    registers = words[8:]
    for number, value in program.gp.items():
        registers[number] = value & 0xFFFFFFFF
    registers[SP] = STACK_BYTES
    for number, real in program.fp.items():
        registers[FLOATS + number] = np.float32(real).view(np.uint32)
    return words


def _names_random_bits(i: Instruction) -> bool:
    """Whether the instruction has R10 among its operands."""
    pairs = zip(i.op.operands, i.operands, strict=True)
    return any(value == _RANDOM_REGISTER and (kind.bank == "R" or kind is Operand.FR) for kind, value in pairs)


__all__ = ["CODE_WORDS", "code_words", "lower"]
