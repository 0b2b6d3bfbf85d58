"""Random programs that the GPU may run: every operation that it offers, loops, calls, stack and wild addresses.

They decode to their end and jump to instructions only; how they stop is left to chance, so runs need a step limit.
"""

from __future__ import annotations

import numpy as np

from flux_vk.flux.instructions import encode
from flux_vk.flux.opcodes import OPCODES, Opcode
from flux_vk.flux.operands import Operand
from flux_vk.flux.program import ABI_FP, ABI_GP, MAX_CODE, SP, Program

OFFERED = [op for op in OPCODES.values() if op.gpu]
_CALLS = ("CALL", "RET", "CALL_IND")
_STACK = ("PUSH", "POP", "DUP", "SWAP", "ROT", "ENTER", "LEAVE", "ALLOCA", "LOAD", "STORE", "LOAD8", "STORE8")
_STOPS = ("HALT", "RET")
_CAUTIOUS = {"HALT": 0.15, "RET": 0.3, "CALL_IND": 0.3, "CHECK_BOUNDS": 0.3, "FDIV": 0.7, "LEAVE": 0.4, "ALLOCA": 0.4}
_NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 63, 64, 100, 251, 252, 253, 255, 256, -1, -2, -4, 32767, -32768, 12345)
_REALS = (0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -0.25, 1e-3, 7e5, 1e30, -3e38)


def random_program(rng: np.random.Generator, name: str = "random", flavour: str = "") -> Program:
    """A program of 1 to 40 instructions with constants. flavour: "stack", "calls", "floats", "loop", or "" for all."""
    if flavour == "loop":
        return loop_program(rng, name)
    weights = np.array([_weight(op, flavour) for op in OFFERED])
    picks = rng.choice(len(OFFERED), size=int(rng.integers(1, 41)), p=weights / weights.sum())
    ops = [OFFERED[i] for i in picks]
    lengths = [op.length or 0 for op in ops]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(int).tolist()
    pool = rng.integers(0, 16, 4).tolist()  # few registers, so that instructions meet each other's results
    code = b"".join(
        encode(op, [_operand(rng, kind, pool, starts, at) for kind in op.operands]) for at, op in enumerate(ops)
    )
    assert len(code) <= MAX_CODE
    gp = {r: int(rng.choice(_NUMBERS)) for r in range(16) if r not in ABI_GP and rng.random() < 0.5}
    fp = {r: float(rng.choice(_REALS)) for r in range(16) if r not in ABI_FP and rng.random() < 0.5}
    return Program(code, name, "F0" if rng.random() < 0.3 else "R0", gp, fp)


def loop_program(rng: np.random.Generator, name: str = "loop") -> Program:
    """A random body inside a counted loop (R15 counts down), so that most runs are long and end by themselves."""
    count = int(rng.integers(2, 12))
    body = random_program(rng, flavour="floats" if rng.random() < 0.3 else "")
    kept = Program(body.code, name, body.result, {**body.gp, 15: count}, body.fp)
    tail = encode(_op("DEC"), [15])
    jump = encode(_op("JNZ"), [15, -(len(body.code) + len(tail) + 4)])
    return Program(kept.code + tail + jump, name, body.result, kept.gp, kept.fp)


def _op(name: str) -> Opcode:
    return next(op for op in OFFERED if op.name == name)


def _weight(op: Opcode, flavour: str) -> float:
    weight = _CAUTIOUS.get(op.name, 1.0)
    if flavour == "stack" and op.name in _STACK:
        weight *= 6
    if flavour == "calls" and op.name in (*_CALLS, "PUSH", "POP"):
        weight *= 8
    if flavour == "floats" and op.group == "float":
        weight *= 5
    return weight


def _operand(rng: np.random.Generator, kind: Operand, pool: list[int], starts: list[int], at: int) -> int:
    if kind is Operand.REL:
        ahead = rng.random() < 0.75  # mostly forward, so that most programs end
        target = int(rng.integers(at + 1, len(starts))) if ahead else int(rng.integers(0, len(starts)))
        return starts[target] - starts[at + 1]
    if kind is Operand.I16:
        return int(rng.choice(_NUMBERS) if rng.random() < 0.8 else rng.integers(-(2**15), 2**15))
    if kind.bank:
        if kind.bank == "R" and rng.random() < 0.06:
            return SP
        return int(rng.choice(pool)) if rng.random() < 0.7 else int(rng.integers(16))
    if kind is Operand.U8:
        return int(rng.choice([0, 1, 2, 5, 60, 255]))
    return int(rng.integers(kind.low, kind.high + 1))
