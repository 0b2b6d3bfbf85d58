"""The reference VM's arithmetic against NumPy, its stack, memory, traps and traces against what the table says."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.flux import OPCODES, Program, Step, Trap, decode, disassemble, embed, run, verify
from tests.flux.programs import code

EDGES = [0, 1, -1, 2, -2, 7, -7, 31, 32, 33, 63, 64, 65535, 65536, 2**31 - 1, -(2**31), -(2**31) + 1, 0x12345678]


def pairs(rng: np.random.Generator) -> list[tuple[int, int]]:
    found = [(a, b) for a in EDGES for b in EDGES]
    some = rng.integers(-(2**31), 2**31, (2000, 2))
    small = rng.integers(-100, 100, (500, 2))
    return found + [(int(a), int(b)) for a, b in np.concatenate([some, small])]


def truncated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """C's division, from exact 64-bit integers."""
    q = np.abs(a.astype(np.int64)) // np.abs(b.astype(np.int64))
    return np.where((a < 0) == (b < 0), q, -q)


def rotated(a: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Bits turned left one by one, in uint32."""
    out = a.view(np.uint32).copy()
    for i in range(32):
        once = (out << np.uint32(1)) | (out >> np.uint32(31))
        out = np.where(i < n, once, out)
    return out.view(np.int32)


WIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "IADD": lambda a, b: a + b,
    "ISUB": lambda a, b: a - b,
    "IMUL": lambda a, b: a * b,
    "IAND": lambda a, b: a & b,
    "IOR": lambda a, b: a | b,
    "IXOR": lambda a, b: a ^ b,
    "IDIV": truncated,
    "IMOD": lambda a, b: a.astype(np.int64) - b.astype(np.int64) * truncated(a, b),
    "IREM": lambda a, b: a.astype(np.int64) - b.astype(np.int64) * truncated(a, b),
    "ISHL": lambda a, b: np.where((b & 63) > 31, 0, a.view(np.uint32) << (b & 31).astype(np.uint32)),
    "ISHR": lambda a, b: a >> np.minimum(b & 63, 31),
    "ROTL": lambda a, b: rotated(a, b & 31),
    "ROTR": lambda a, b: rotated(a, -b & 31),
}


@pytest.mark.parametrize("name", WIDE)
def test_integer_arithmetic_is_numpys(name: str, rng: np.random.Generator) -> None:
    """Thousands of pairs against int32 arithmetic of NumPy, which wraps; flags from the wrapped result."""
    both = [(a, b) for a, b in pairs(rng) if b or name not in ("IDIV", "IMOD", "IREM")]
    a, b = (np.array(column, np.int32) for column in zip(*both, strict=True))
    expected = WIDE[name](a, b).astype(np.int64).astype(np.uint32).view(np.int32)
    program = code((name, 3, 1, 2))
    for (x, y), wanted in zip(both, expected.tolist(), strict=True):
        state = run(program, {1: x, 2: y})
        assert state.gp[3] == wanted, f"{name} {x}, {y}"
        assert state.flags == (wanted == 0, wanted < 0, wanted < 0, False)


@pytest.mark.parametrize("name", ["IDIV", "IMOD", "IREM"])
def test_division_by_zero_traps_and_writes_nothing(name: str) -> None:
    state = run(code(("CMP", 1, 1), (name, 1, 1, 2)), {1: 5})
    assert (state.trap, state.halted, state.steps, state.pc) == (Trap.DIVIDE_BY_ZERO, False, 1, 3)
    assert state.gp[1] == 5 and state.flags.Z


def test_the_quotient_that_wraps() -> None:
    """-2^31 / -1."""
    assert run(code(("IDIV", 0, 1, 2)), {1: -(2**31), 2: -1}).gp[0] == -(2**31)
    assert run(code(("IMOD", 0, 1, 2)), {1: -(2**31), 2: -1}).gp[0] == 0
    assert run(code(("INEG", 0, 1)), {1: -(2**31)}).gp[0] == -(2**31)
    assert run(code(("INC", 0)), {0: 2**31 - 1}).gp[0] == -(2**31)
    assert run(code(("DEC", 0)), {0: -(2**31)}).gp[0] == 2**31 - 1


def test_comparisons(rng: np.random.Generator) -> None:
    """All conditions of ICMP, SETCC and the jumps by flags, against Python's comparisons."""
    signed = {"EQ": lambda a, b: a == b, "NE": lambda a, b: a != b, "LT": lambda a, b: a < b, "LE": lambda a, b: a <= b,
              "GT": lambda a, b: a > b, "GE": lambda a, b: a >= b}  # fmt: skip
    order = ["EQ", "NE", "LT", "LE", "GT", "GE"]
    for a, b in pairs(rng)[:600]:
        registers = {1: a, 2: b}
        for name in ("EQ", "LT", "LE", "GT", "GE"):
            state = run(code((f"I{name}", 1, 2)), registers)
            assert state.gp[1] == signed[name](a, b)
            assert state.flags == (not signed[name](a, b), False, False, False)
        for number, name in enumerate(order):
            assert run(code(("ICMP", number, 1, 2)), registers).gp[1] == signed[name](a, b)
        for number, name in enumerate(("LT", "LE", "GT", "GE"), 6):
            found = run(code(("ICMP", number, 1, 2)), registers).gp[1]
            assert found == signed[name](a % 2**32, b % 2**32)
        holds = [signed[name](a, b) for name in ("EQ", "NE", "LT", "GE", "GT", "LE", "LT", "GE")] + [False, True]
        for number, wanted in enumerate(holds):
            state = run(code(("CMP", 1, 2), ("SETCC", 3, number)), registers)
            assert state.gp[3] == wanted and state.flags == (a == b, a < b, a < b, False)
        for jump, name in {"JE": "EQ", "JNE": "NE", "JL": "LT", "JGE": "GE", "JG": "GT", "JLE": "LE"}.items():
            state = run(code(("CMP", 1, 2), (jump, 9, 2), ("INC", 0)), registers)
            assert state.gp[0] == (not signed[name](a, b))


def test_floats_round_to_32_bits(rng: np.random.Generator) -> None:
    bits = rng.integers(0, 2**32, 3000, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate([bits.view(np.float32), rng.standard_normal(1000).astype(np.float32)])
    values = values[~np.isnan(values)]
    with np.errstate(all="ignore"):
        for x, y in values[: values.size // 2 * 2].reshape(-1, 2):
            registers = {1: float(x), 2: float(y)}
            for name, wanted in (("FADD", x + y), ("FSUB", x - y), ("FMUL", x * y), ("FDIV", x / y)):
                if name == "FDIV" and y == 0:
                    continue
                found = np.float32(run(code((name, 0, 1, 2)), fp=registers).fp[0])
                assert found == wanted or (np.isnan(found) and np.isnan(wanted)), f"{name} {x!r} {y!r}"


def test_minimum_and_maximum_with_nan_and_zeros() -> None:
    """The second operand wins wherever the comparison does not hold."""
    nan = float("nan")
    for name in ("FMIN", "FMAX"):
        program = code((name, 1, 2))
        assert run(program, fp={1: nan, 2: 3.0}).fp[1] == 3.0
        assert np.isnan(run(program, fp={1: 3.0, 2: nan}).fp[1])
        assert np.signbit(run(program, fp={1: 0.0, 2: -0.0}).fp[1])
        assert not np.signbit(run(program, fp={1: -0.0, 2: 0.0}).fp[1])
    assert run(code(("FMIN", 1, 2)), fp={1: 1.0, 2: 2.0}).fp[1] == 1.0
    assert run(code(("FMAX", 1, 2)), fp={1: 1.0, 2: 2.0}).fp[1] == 2.0


def test_float_divisions_and_signs() -> None:
    for zero in (0.0, -0.0):
        assert run(code(("FDIV", 0, 1, 2)), fp={1: 1.0, 2: zero}).trap == Trap.DIVIDE_BY_ZERO
    assert np.signbit(run(code(("FNEG", 0, 1))).fp[0])
    assert run(code(("FABS", 0, 1)), fp={1: -2.5}).fp[0] == 2.5
    assert run(code(("FMUL", 0, 1, 1)), fp={1: 3e38}).fp[0] == float("inf")


def test_float_comparisons_write_integers_and_no_flags() -> None:
    nan = float("nan")
    for name, wanted in (("FEQ", 0), ("FLT", 1), ("FLE", 1), ("FGT", 0), ("FGE", 0)):
        state = run(code((name, 5, 6)), {5: 9}, {5: 1.0, 6: 2.0})
        assert (state.gp[5], state.fp[5], state.flags.word) == (wanted, 1.0, 0)
        assert run(code((name, 5, 6)), {5: 9}, {5: nan, 6: nan}).gp[5] == 0


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        (0, 0x3F800000, 1000), (0, 0xBFC00000 - 2**32, -1500), (0, 0x7F800000, 2**31 - 1), (0, -0x800000, -(2**31)),
        (0, 0x7FC00000, 0), (0, 1, 0), (1, -5, -5), (2, -5, 1), (2, 0, 0), (3, 77, 77),
    ],
)  # fmt: skip
def test_casts(kind: int, value: int, wanted: int) -> None:
    assert run(code(("CAST", 2, 1, kind)), {1: value}).gp[2] == wanted


def test_calls_and_frames() -> None:
    """CALL pushes where it comes from; ENTER makes room, LEAVE and RET find back."""
    program = code(("CALL", 0, 1), ("HALT",), ("ENTER", 3), ("INC", 0), ("LEAVE", 0), ("RET",))
    trace: list[Step] = []
    state = run(program, {14: 77}, trace=trace)
    assert (state.halted, state.gp[0], state.gp[11], state.gp[14], state.pc) == (True, 1, 65536, 77, 5)
    entered = trace[1].gp
    assert (entered[14], entered[11]) == (65536 - 8, 65536 - 8 - 12)
    assert struct.unpack_from("<ii", state.memory, 65536 - 8) == (77, 4)
    assert [step.instruction.op.name for step in trace] == ["CALL", "ENTER", "INC", "LEAVE", "RET", "HALT"]


def test_indirect_calls_and_tail_calls() -> None:
    program = code(("CALL_IND", 0, 1), ("HALT",), ("INC", 0), ("TAILCALL", 0, 0), ("RET",))
    assert run(program, {1: 4}).gp[0] == 1
    inside = run(program, {1: 5})
    assert (inside.trap, inside.gp[11], inside.pc) == (Trap.BAD_ADDRESS, 65536, 0)
    assert run(program, {1: -1}).trap == Trap.BAD_ADDRESS
    assert run(program, {1: len(program)}).halted


def test_the_stack_operations() -> None:
    push = [("PUSH", 1), ("PUSH", 2), ("PUSH", 3)]
    pop = [("POP", 4), ("POP", 5), ("POP", 6)]
    registers = {1: 10, 2: 20, 3: 30}
    assert run(code(*push, ("SWAP",), *pop), registers).gp[4:7] == (20, 30, 10)
    assert run(code(*push, ("ROT",), *pop), registers).gp[4:7] == (20, 10, 30)
    dup = run(code(*push, ("DUP",), *pop), registers)
    assert dup.gp[4:7] == (30, 30, 20) and dup.gp[11] == 65532
    taken = run(code(("ALLOCA", 1, 2)), {2: 5})
    assert taken.gp[1] == taken.gp[11] == 65516
    assert run(code(("PUSH", 11), ("POP", 11))).gp[11] == 65536


@pytest.mark.parametrize(
    ("lines", "gp", "trap"),
    [
        ([("PUSH", 0)], {11: 3}, Trap.STACK_OVERFLOW),
        ([("PUSH", 0)], {11: -(2**31)}, Trap.STACK_OVERFLOW),
        ([("PUSH", 0)], {11: 65537}, Trap.BAD_ADDRESS),
        ([("POP", 0)], {}, Trap.STACK_UNDERFLOW),
        ([("POP", 0)], {11: -4}, Trap.BAD_ADDRESS),
        ([("DUP",)], {}, Trap.STACK_UNDERFLOW),
        ([("SWAP",)], {11: 65532}, Trap.STACK_UNDERFLOW),
        ([("ROT",)], {11: 65528}, Trap.STACK_UNDERFLOW),
        ([("ENTER", 255)], {11: 1000}, Trap.STACK_OVERFLOW),
        ([("LEAVE", 0)], {14: 65533}, Trap.STACK_UNDERFLOW),
        ([("ALLOCA", 0, 1)], {1: -1}, Trap.STACK_OVERFLOW),
        ([("ALLOCA", 0, 1)], {1: 16385}, Trap.STACK_OVERFLOW),
        ([("RET",)], {11: 65534}, Trap.STACK_UNDERFLOW),
        ([("LOAD", 0, 1)], {1: 65533}, Trap.BAD_ADDRESS),
        ([("STORE", 0, 1)], {1: -1}, Trap.BAD_ADDRESS),
        ([("LOAD8", 0, 1)], {1: 65536}, Trap.BAD_ADDRESS),
        ([("STORE8", 0, 1)], {1: -1}, Trap.BAD_ADDRESS),
        ([("VLOAD", 0, 1)], {1: 65521}, Trap.BAD_ADDRESS),
        ([("CHECK_BOUNDS", 0, 1)], {0: 3, 1: 3}, Trap.OTHER),
        ([("JMP", 0, 1), ("JMP", 0, 0)], {}, Trap.BAD_ADDRESS),
        ([("PHY_ATTEN", 0, 1, 2)], {}, Trap.NOT_OFFERED),
        ([("MOV", 0, 16)], {}, Trap.OTHER),
        ([("SETCC", 0, 10)], {}, Trap.OTHER),
    ],
)
def test_traps(lines: list[tuple[object, ...]], gp: dict[int, int], trap: Trap) -> None:
    trace: list[Step] = []
    state = run(code(*lines), gp, trace=trace)
    assert (state.trap, state.halted, state.steps, state.pc) == (trap, False, 0, 0)
    assert state.gp == tuple({11: 65536, **gp}.get(i, 0) for i in range(16))
    assert trace[-1].trap == trap


def test_memory_words_bytes_and_alignment() -> None:
    program = code(("STORE", 1, 2), ("LOAD8", 3, 2), ("INC", 2), ("LOAD", 4, 2), ("STORE8", 5, 2), ("LOAD", 6, 7))
    state = run(program, {1: 0x44332211, 2: 1001, 5: -1, 7: 1001})
    assert (state.gp[3], state.gp[4], state.gp[6]) == (0x11, 0x443322, 0x4433FF11)


@pytest.mark.parametrize("address", [0, 252, 253, 255, 256, 65279, 65280, 65532])
def test_the_windows_of_a_gpu(address: int) -> None:
    """Only the first and the last 256 bytes exist; a word must lie inside one of them."""
    inside = address + 4 <= 256 or address >= 65280
    load, store, push = code(("LOAD", 0, 1)), code(("STORE", 0, 1)), code(("PUSH", 0))
    wanted = Trap.NONE if inside else Trap.BAD_ADDRESS
    assert run(load, {1: address}, memory="gpu").trap == wanted
    assert run(store, {1: address}, memory="gpu").trap == wanted
    pushed = run(push, {11: address + 4}, memory="gpu")
    assert pushed.trap == (Trap.NONE if inside else Trap.STACK_OVERFLOW)
    assert run(code(("POP", 0)), {11: address}, memory="gpu").trap == wanted
    byte = run(code(("LOAD8", 0, 1)), {1: address}, memory="gpu")
    assert byte.trap == (Trap.NONE if address < 256 or address >= 65280 else Trap.BAD_ADDRESS)
    assert run(load, {1: address}).trap == Trap.NONE


def test_operations_of_the_host_alone_trap_as_on_a_gpu() -> None:
    for op in OPCODES.values():
        operands = [b"" if kind.value == "data" else 0 for kind in op.operands]
        state = run(code((op.name, *operands)), memory="gpu")
        assert (state.trap == Trap.NOT_OFFERED) == (not op.gpu), op.name


def test_the_ends_of_a_program() -> None:
    off_the_end = run(code(("INC", 0)))
    assert (off_the_end.halted, off_the_end.trap, off_the_end.steps, off_the_end.pc) == (True, Trap.NONE, 1, 2)
    assert run(b"").halted and run(b"").steps == 0
    assert run(code(("RET",))).halted
    loop = run(code(("JMP", 0, -4)), max_steps=50)
    assert (loop.trap, loop.steps, loop.halted, loop.pc) == (Trap.STEP_LIMIT, 50, False, 0)
    exact = run(code(("INC", 0), ("HALT",)), max_steps=2)
    assert exact.halted and run(code(("INC", 0)), max_steps=1).halted
    assert run(code(("INC", 0), ("HALT",)), max_steps=1).trap == Trap.STEP_LIMIT
    assert run(b"\x0e\x00\xff").trap == Trap.BAD_OPCODE
    assert run(b"\x0e\x00\x2b\x00").trap == Trap.BAD_OPCODE  # cut short
    assert run(b"\x80\xff").halted


def test_registers_on_entry() -> None:
    program = Program(code(("HALT",)), gp={8: 5, 9: 6}, fp={8: 0.1})
    state = run(program, {9: 7}, {0: 1e39, 1: -0.1})
    assert state.gp[8:10] == (5, 7)
    assert state.fp[8] == float(np.float32(0.1)) and state.fp[0] == float("inf")
    for bad in ({16: 0}, {0: 2**31}, {0: 0.5}, {0: float("nan")}, {0: float("inf")}, {0: 10**400}):
        with pytest.raises(InputError):
            run(program, bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="F-1 does not exist"):
        run(program, fp={-1: 0.0})
    with pytest.raises(InputError, match="F0 = 1000"):
        run(program, fp={0: 10**400})
    with pytest.raises(InputError, match="expected 'full' or 'gpu'"):
        run(program, memory="tpu")


def test_programs_from_other_kinds_of_numbers() -> None:
    """NumPy's numbers are as good as Python's; a number alone is no code (bytes(7) would be seven of NOP)."""
    program = Program(memoryview(b"\x80"), gp={8: np.int32(5)}, fp={8: np.float32(0.5), 9: 3})  # type: ignore[arg-type,dict-item]
    assert program == Program(b"\x80", gp={8: 5}, fp={8: 0.5, 9: 3.0})
    assert type(program.code) is bytes and type(program.gp[8]) is int and type(program.fp[9]) is float
    for other in (7, "80", None):
        with pytest.raises(InputError, match="a program is bytes"):
            Program(other)  # type: ignore[arg-type]


def test_any_bytes_end_in_a_state(rng: np.random.Generator) -> None:
    """Thousands of random codes, legal and not: never an exception, and what is counted fits what is traced."""
    for _ in range(3000):
        program = rng.integers(0, 256, int(rng.integers(0, 60)), dtype=np.uint8).tobytes()
        trace: list[Step] = []
        state = run(program, max_steps=100, trace=trace, on_a2a=lambda name, data: len(data))
        assert state.halted == (state.trap == Trap.NONE)
        stopped_outside = state.trap in (Trap.NONE, Trap.STEP_LIMIT, Trap.BAD_OPCODE)
        assert len(trace) == state.steps + (not stopped_outside)
        assert all(-(2**31) <= value < 2**31 for value in state.gp)
        assert state.pc in {*decode(program).boundaries, decode(program).end}


def test_random_straight_programs_are_numpys(rng: np.random.Generator) -> None:
    """Thousands of instructions in random programs without jumps, against NumPy's int32 on all 16 registers."""
    names = [name for name in WIDE if name not in ("IDIV", "IMOD", "IREM")]
    for _ in range(300):
        start = rng.integers(-(2**31), 2**31, 16)
        registers = start.astype(np.int32)
        lines: list[tuple[object, ...]] = []
        for _ in range(20):
            name = names[int(rng.integers(len(names)))]
            d, a, b = (int(x) for x in rng.integers(0, 16, 3))
            lines.append((name, d, a, b))
            registers[d] = WIDE[name](registers[a : a + 1], registers[b : b + 1]).astype(np.int64).astype(np.int32)[0]
        state = run(code(*lines), dict(enumerate(start.tolist())))
        assert state.gp == tuple(registers.tolist()), lines


@pytest.mark.parametrize(("program", "said"), [("HALT", "found text; assemble it first"), (5, "found int")])
def test_what_is_no_program(program: object, said: str) -> None:
    for function in (run, verify, disassemble, embed):
        with pytest.raises(InputError, match=f"a program is bytes or a flux.Program, {said}"):
            function(program)  # type: ignore[operator]
