"""The interpreter kernel beside the reference VM: every register, flag, trap, step count and pc, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.flux.instructions import decode, encode
from flux_vk.flux.interpreter import interpret as add_interpreter
from flux_vk.flux.lower import lower
from flux_vk.flux.opcodes import BY_NAME
from flux_vk.flux.program import Program, Trap
from flux_vk.flux.reference import U32, exp_bits, flux_interpret, state_words
from flux_vk.flux.vm import run
from flux_vk.gpu import Chain, Device
from tests.flux.program_maker import OFFERED, loop_program, random_program
from tests.flux.rows import UNTOUCHED, bits, code_of, interpret, one_nan, some_rows
from tests.gpu.harness import run_kernel

pytestmark = pytest.mark.kernel
FLAVOURS = ("", "stack", "calls", "floats", "loop")


def program(*lines: tuple[str | int, ...], result: str = "R0", **registers: dict[int, float]) -> Program:
    """Mnemonics with the numbers of their operands."""
    code = b"".join(encode(BY_NAME[str(name)], [int(x) for x in operands]) for name, *operands in lines)
    gp = {n: int(v) for n, v in registers.get("gp", {}).items()}
    return Program(code, result=result, gp=gp, fp=registers.get("fp", {}))


HALT = program(("HALT",))


def same(device: Device, info: U32, cand: U32, programs: list[list[Program | None]], max_steps: int = 1024) -> U32:
    """Kernel and reference agree in everything; returns the states."""
    score, traps, state = interpret(device, info, cand, code_of(programs), max_steps=max_steps)
    want = flux_interpret(info, cand, programs, max_steps)
    wrong = np.argwhere((one_nan(state) != one_nan(want[2])).any(-1))
    for row, agent, i in wrong[:1]:
        slot = programs[info[row, 7]]
        listing = [(x.offset, x.op.name, x.operands) for x in decode(slot[agent].code).instructions]  # type: ignore[union-attr]
        at = np.flatnonzero(state[row, agent, i] != want[2][row, agent, i])
        got, expected = state[row, agent, i], want[2][row, agent, i]
        pytest.fail(f"{len(wrong)} differ; words {at}: {got[at]}, expected {expected[at]}: {slot[agent]} {listing}")
    np.testing.assert_array_equal(score, want[0])  # equal NaN
    np.testing.assert_array_equal(traps, want[1])
    return state


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_random_programs(device: Device, rng: np.random.Generator, flavour: str) -> None:
    """Five hundred programs of each flavour, as agents of one dispatch, for two rows of three candidates."""
    agents: list[Program | None] = [random_program(rng, flavour=flavour) for _ in range(500)]
    info, cand = some_rows(rng, 2, 3)
    state = same(device, info, cand, [agents], max_steps=200)
    used = {i.op.name for p in agents if p for i in decode(p.code).instructions}
    assert used == {op.name for op in OFFERED}
    kinds = set(np.unique(state[..., 33]).tolist())
    assert {Trap.NONE, Trap.DIVIDE_BY_ZERO, Trap.BAD_ADDRESS, Trap.STEP_LIMIT} <= kinds


@pytest.mark.parametrize("most", [1, 7, 8, 33, 255, 257])
def test_sizes(device: Device, rng: np.random.Generator, most: int) -> None:
    """Rows with fewer candidates than there is room for, rows that are left out, slots without agents."""
    info, cand = some_rows(rng, 5, most, slots=2)
    info[1, 0], info[2, 0], info[3, 7] = most // 2, 0, 2
    programs: list[list[Program | None]] = [[random_program(rng), None], [None, loop_program(rng)]]
    state = same(device, info, cand, programs, max_steps=100)
    assert (state[2:4] == UNTOUCHED).all() and (state[0, 1] == UNTOUCHED).all()
    assert (state[0, 0] != UNTOUCHED).any(axis=-1).all()


@pytest.mark.parametrize("workgroup", [8, 32, 64])
@pytest.mark.parametrize("waves", [1, 2, 4])
def test_choices(device: Device, rng: np.random.Generator, workgroup: int, waves: int) -> None:
    info, cand = some_rows(rng, 2, 150)
    code = code_of([[random_program(rng, flavour=f) for f in FLAVOURS[:4]]])
    want = interpret(device, info, cand, code)
    got = interpret(device, info, cand, code, WG=workgroup, WAVES=waves)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_scores_without_the_state(device: Device, rng: np.random.Generator) -> None:
    """As a swarm runs it: nothing but scores and traps, which are added to what is there."""
    info, cand = some_rows(rng, 2, 40)
    divide = program(("IDIV", 0, 0, 2), ("HALT",))
    buffers = {"row_info": info, "cand": cand, "code": code_of([[divide]])}
    given = {name: device.array(a) for name, a in buffers.items()}
    score, traps = device.filled((2, 1, 40), "f32", 0xFF), device.array(np.full((2, 1, 2), 5, np.uint32))
    chain = Chain(device)
    add_interpreter(chain, **given, score=score, traps=traps).run()
    want = flux_interpret(info, cand, [[divide]])
    np.testing.assert_array_equal(score.numpy(), want[0])
    assert (traps.numpy()[..., 0] == 5 + (cand[..., 2] == 0).sum(1)[:, None]).all()
    assert (traps.numpy()[..., 1] == 5).all(), "5 is larger than the trap of a division"
    assert (score.numpy()[:, 0][cand[..., 2] == 0] == cand[..., 1].view(np.float32)[cand[..., 2] == 0]).all()


def test_lanes_part_and_meet(device: Device, rng: np.random.Generator) -> None:
    """A jump on the token: neighbouring candidates take different ways and loop differently often."""
    info, cand = some_rows(rng, 1, 64)
    cand[0, :, 0] = np.arange(64)
    part = program(
        ("MOVI", 8, 7), ("IMOD", 9, 3, 8), ("JZ", 9, 14), ("IADD", 12, 12, 9), ("DEC", 9), ("JNZ", 9, -10),
        ("JMP", 0, 4), ("MOVI", 12, -1), ("IMUL", 0, 12, 12), ("HALT",),
    )  # fmt: skip
    state = same(device, info, cand, [[part]])
    turns = np.arange(64) % 7
    np.testing.assert_array_equal(state[0, 0, :, 0], np.where(turns == 0, 1, (turns * (turns + 1) // 2) ** 2))


def test_calls_return_and_run_out_of_stack(device: Device, rng: np.random.Generator) -> None:
    """A factorial by recursion; and calls without end, which fill the upper window of 64 words."""
    info, cand = some_rows(rng, 1, 9)
    cand[0, :, 2] = np.arange(9)
    factorial = program(
        ("MOV", 8, 2), ("MOVI", 9, 1), ("CALL", 0, 4), ("MOV", 0, 9), ("HALT",),
        ("JZ", 8, 13), ("IMUL", 9, 9, 8), ("DEC", 8), ("CALL", 0, -14), ("NOP",), ("NOP",), ("NOP",), ("RET",),
    )  # fmt: skip
    recursion = program(("CALL", 0, -4))
    state = same(device, info, cand, [[factorial, recursion]])
    np.testing.assert_array_equal(state[0, 0, :, 0], [1, 1, 2, 6, 24, 120, 720, 5040, 40320])
    assert (state[0, 1, :, 33:35] == [Trap.STACK_OVERFLOW, 64]).all()


@pytest.mark.parametrize("limit", [0, 1, 5, 6, 7, 1000, 5000])
def test_step_limits(device: Device, rng: np.random.Generator, limit: int) -> None:
    """An endless loop, and programs of exactly six steps that stop, run off their end, or draw random bits."""
    info, cand = some_rows(rng, 1, 3)
    endless = program(("INC", 0), ("JMP", 0, -6))
    six = [("INC", 10)] * 5
    agents: list[Program | None] = [endless, program(*six, ("HALT",)), program(*six, ("NOP",)), program(*six, ("RET",))]
    state = same(device, info, cand, [agents], max_steps=limit)
    assert (state[0, 0, :, 33:35] == [Trap.STEP_LIMIT, limit]).all()
    assert (state[0, 1:, :, 33] == (Trap.NONE if limit >= 6 else Trap.STEP_LIMIT)).all()


def test_long_loops(device: Device, rng: np.random.Generator) -> None:
    """Twelve thousand steps to the end. Two hundred thousand are more than llvmpipe lets a loop turn: they may trap."""
    info, cand = some_rows(rng, 1, 70)
    count = program(("IMUL", 8, 8, 9), ("DEC", 8), ("INC", 0), ("JNZ", 8, -8), ("HALT",), gp={8: 63, 9: 63})
    _, traps, state = interpret(device, info, cand, code_of([[count]]), max_steps=1 << 14)
    assert (state[0, 0, :, 34] == 3 * 63**2 + 2).all() and not traps.any()
    longer = program(("IMUL", 8, 8, 9), ("DEC", 8), ("INC", 0), ("JNZ", 8, -8), ("HALT",), gp={8: 258, 9: 258})
    score, traps, _ = interpret(device, info, cand, code_of([[longer]]), max_steps=1 << 20)
    own = cand[0, :, 1].view(np.float32)
    ended = (cand[0, :, 1].view(np.float32) * 65536).round() / 65536 + 258**2 / 65536
    assert traps[0, 0, 0] == (score[0, 0] == own).sum() and traps[0, 0, 1] in (Trap.NONE, Trap.STEP_LIMIT)
    np.testing.assert_allclose(score[0, 0], np.where(score[0, 0] == own, own, ended), atol=1e-5)


WILD = [0, 1, 3, 4, 5, 248, 250, 252, 253, 256, 257, 65276, 65279, 65280, 65281, 65527, 65528, 65529, 65530, 65532,
        65533, 65535, 65536, 65537, 65540, -1, -4, -5, 2**31 - 1, 2**31 - 4, -(2**31)]  # fmt: skip


def test_memory_and_stack_at_every_edge(device: Device, rng: np.random.Generator) -> None:
    """Each operation with stack pointer, frame pointer and addresses around the edges of memory and its windows."""
    info, cand = some_rows(rng, 1, len(WILD))
    cand[0, :, 3] = np.array(WILD, np.int64).astype(np.uint32)
    fill = [("MOVI", 8, 4), ("MOVI", 9, 64), ("STORE", 10, 9)]
    each: list[tuple[tuple[str | int, ...], ...]] = [
        (("PUSH", 3),), (("POP", 8),), (("POP", 11),), (("DUP",),), (("SWAP",),), (("ROT",),), (("ENTER", 3),),
        (("ENTER", 255),), (("LEAVE", 0),), (("ALLOCA", 9, 8),), (("ALLOCA", 11, 7),), (("RET",),), (("CALL", 0, 0),),
        (("CALL_IND", 0, 7),), (("LOAD", 12, 7),), (("STORE", 3, 7),), (("LOAD8", 12, 7),), (("STORE8", 3, 7),),
        (("STORE", 3, 7), ("INC", 7), ("STORE8", 0, 7), ("DEC", 7), ("LOAD", 12, 7), ("INC", 7), ("LOAD8", 13, 7)),
        (("PUSH", 3), ("PUSH", 0), ("PUSH", 10), ("ROT",), ("SWAP",), ("DUP",), ("POP", 12), ("POP", 13), ("POP", 15)),
    ]  # fmt: skip
    agents: list[Program | None] = []
    for lines in each:
        agents.append(program(*fill, ("MOV", 11, 7), ("MOV", 14, 7), *lines, ("HALT",)))
        agents.append(program(*fill, *lines, ("HALT",)))
    same(device, info, cand, [agents])


def test_division(device: Device, rng: np.random.Generator) -> None:
    """Quotients and remainders of four thousand pairs, of all magnitudes, as integers have them."""
    size = 4096
    info, cand = some_rows(rng, 1, size)
    pairs = (rng.integers(-(2**31), 2**31, (size, 2)) >> rng.integers(0, 32, (size, 2))).astype(np.int64)
    pairs[:9] = [(-(2**31), -1), (-(2**31), 1), (2**31 - 1, 1), (-(2**31), -(2**31)), (7, -(2**31)), (-7, 2), (7, -2),
                 (2**31 - 1, 2), (-(2**31), 3)]  # fmt: skip
    near = pairs[100:2000, 1] * rng.integers(-50, 50, 1900) + rng.integers(-1, 2, 1900)  # quotients at a whole number
    pairs[100:2000, 0] = np.where(abs(near) < 2**31, near, pairs[100:2000, 0])
    pairs[pairs[:, 1] == 0, 1] = 3
    cand[0, :, 2:] = pairs.astype(np.uint32)
    divide = program(("IDIV", 0, 2, 7), ("IREM", 1, 2, 7), ("HALT",))
    state = interpret(device, info, cand, code_of([[divide]]))[2][0, 0]
    quotient = np.abs(pairs[:, 0]) // np.abs(pairs[:, 1]) * np.sign(pairs[:, 0]) * np.sign(pairs[:, 1])
    np.testing.assert_array_equal(state[:, 0], quotient.astype(np.uint32))
    np.testing.assert_array_equal(state[:, 1], (pairs[:, 0] - quotient * pairs[:, 1]).astype(np.uint32))


def test_float_division_is_within_its_bound(device: Device, rng: np.random.Generator) -> None:
    """Vulkan asks for 2.5 units in the last place; a CPU driver rounds correctly."""
    info, cand = some_rows(rng, 1, 2048)
    logits = (rng.standard_normal(2048) * 10.0 ** rng.integers(-20, 20, 2048)).astype(np.float32)
    counts = rng.integers(1, 1 << 24, 2048)
    cand[0, :, 1], cand[0, :, 2] = bits(logits), counts
    score = interpret(device, info, cand, code_of([[program(("FDIV", 0, 0, 3), result="F0")]]))[0][0, 0]
    want = logits / counts.astype(np.float32)
    allowed = 0 if device.kind == "cpu" else 3
    assert (np.abs(score.view(np.int32).astype(np.int64) - want.view(np.int32)) <= allowed).all()


def test_facts_at_their_limits(device: Device, rng: np.random.Generator) -> None:
    """Fixed point rounds half to even and saturates; probabilities reach 0; NaN and infinities stay where they are."""
    logits = [0.0, -0.0, 1.5 / 65536, 2.5 / 65536, -0.5 / 65536, -1.5 / 65536, 32767.998, 32768.0, -32768.0, -32769.0,
              1e30, -1e30, np.inf, -np.inf, np.nan, 1e-42, 3.0000001]  # fmt: skip
    info, cand = some_rows(rng, 2, len(logits))
    cand[:, :, 1] = bits(logits)
    cand[0, :4, 2] = [2**24 + 1, 2**31, 2**32 - 1, 16777217]
    info[0, 4] = 2**31 + 1
    info[1, 3] = bits(-40.0)
    by_float = program(("HALT",), result="F0")
    state = same(device, info, cand, [[HALT, by_float]])
    numbers = state[0, 0, :12, 0].view(np.int32)
    assert numbers[:8].tolist() == [0, 0, 2, 2, 0, -2, 2147483520, 2**31 - 1]
    assert numbers[8:].tolist() == [-(2**31), -(2**31), 2**31 - 1, -(2**31)]
    assert (state[0, 1, 12:15, 33] == Trap.OTHER).all()


def test_exp_is_within_its_bound() -> None:
    x = -np.geomspace(1e-8, 86.9, 100_000).astype(np.float32)
    assert np.abs(exp_bits(x) / np.exp(x.astype(np.float64)) - 1).max() < 2.5e-7
    assert exp_bits([0, -0.0, 1e-6, -88, -np.inf, np.nan]).tolist() == [1, 1, 1, 0, 0, 0]


def test_an_agent_is_swapped_between_two_submits(device: Device, rng: np.random.Generator) -> None:
    """A small upload, and the chain that was recorded once runs the other program."""
    info, cand = some_rows(rng, 1, 50)
    first, second = program(("MOVI", 0, 3)), loop_program(rng)
    code = device.array(code_of([[first]]))
    score, traps = device.filled((1, 1, 50), "f32", 0xFF), device.zeros((1, 1, 2), "u32")
    chain = Chain(device)
    chain.fill(dst=traps)
    chain.flux_interpret(row_info=device.array(info), cand=device.array(cand), code=code, score=score, traps=traps)
    step = chain.record()
    for chosen in (first, second, first):
        device.upload(code, lower(chosen)[None, None])
        step.submit()
        step.wait()
        want = flux_interpret(info, cand, [[chosen]])
        np.testing.assert_array_equal(score.numpy(), want[0])
        np.testing.assert_array_equal(traps.numpy(), want[1])


def test_the_reference_is_the_vm(rng: np.random.Generator) -> None:
    """The kernel's reference adds nothing to the VM but the registers on entry."""
    info, cand = some_rows(rng, 1, 2)
    scored = program(("MOV", 0, 3), ("IADD", 0, 0, 8), gp={8: 65536})
    score, traps, state = flux_interpret(info, cand, [[scored]])
    assert score[0, 0].tolist() == [(int(t) + 65536) / 65536 for t in cand[0, :, 0]] and not traps.any()
    assert state[0, 0, 0, 8] == 65536 and state[0, 0, 0, 5] == 2
    last = run(HALT, {0: 5}, {0: 1.5}, memory="gpu")
    words = state_words(last, last.trap)
    assert words[0] == 5 and words[16] == bits(1.5) and words[11] == 65536 and words[34] == 1


def test_room_for_more_or_fewer_programs_than_the_chain_has_agents(device: Device, rng: np.random.Generator) -> None:
    """A slot's programs are found by its own room; an agent without one is left alone."""
    info, cand = some_rows(rng, 3, 9, slots=3)
    agents = [[random_program(rng), random_program(rng), None, random_program(rng)] for _ in range(3)]
    want = interpret(device, info, cand, code_of(agents))
    for most in (1, 2, 6):
        shape = (3, most, 9)
        given = {"row_info": info, "cand": cand, "code": code_of(agents), "traps": np.zeros((3, most, 2), np.uint32)}
        got = run_kernel(device, "flux_interpret", given, {"score": (shape, "f32")})
        both = min(most, 4)
        np.testing.assert_array_equal(bits(got["score"][:, :both]), bits(want[0][:, :both]))
        np.testing.assert_array_equal(got["traps"][:, :both], want[1][:, :both])
        assert np.isnan(got["score"][:, both:]).all() and not got["traps"][:, both:].any()
