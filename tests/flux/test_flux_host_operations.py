"""Operations that only the host offers: agents, capabilities, resources, regions, boxes, vectors."""

from __future__ import annotations

import struct

import pytest

from flux_vk.errors import InputError
from flux_vk.flux import OPCODES, Trap, run
from tests.flux.programs import code


def test_agent_operations_reach_the_host() -> None:
    heard: list[tuple[str, bytes]] = []

    def handler(name: str, payload: bytes) -> int | None:
        heard.append((name, payload))
        return 2**31 if name == "ASK" else None

    program = code(("MOVI", 0, 5), ("TELL", b"hello"), ("ASK", b""), ("MOV", 1, 0), ("EMERGENCY_STOP",))
    state = run(program, on_a2a=handler)
    assert heard == [("TELL", b"hello"), ("ASK", b""), ("EMERGENCY_STOP", b"")]
    assert state.halted and state.gp[1] == -(2**31)
    alone = run(program)
    assert alone.halted and alone.gp[1] == 5
    told = [op.name for op in OPCODES.values() if op.group == "agents" and not op.name.startswith("CAP_R")]
    for name in told:
        if name not in ("CAP_GRANT", "EMERGENCY_STOP"):
            assert run(code((name, b"x")), on_a2a=lambda said, _: len(said)).gp[0] == len(name)


def test_handlers_answer_with_whole_numbers() -> None:
    with pytest.raises(InputError, match="on_a2a answered 'yes' to ASK, expected a whole number or None"):
        run(code(("ASK", b"")), on_a2a=lambda name, payload: "yes")  # type: ignore[arg-type,return-value]


def test_capabilities_and_resources() -> None:
    number = struct.pack("<I", 42)
    refused = run(code(("CAP_REQUIRE", number)))
    assert refused.trap == Trap.OTHER
    granted = run(code(("CAP_GRANT", number), ("CAP_REQUIRE", number + b"more"), ("HALT",)), {0: 9})
    assert granted.halted and granted.gp[0] == 0
    revoked = run(code(("CAP_GRANT", number), ("CAP_REVOKE", number), ("CAP_REQUIRE", number)))
    assert (revoked.trap, revoked.steps) == (Trap.OTHER, 2)
    for name in ("CAP_REQUIRE", "CAP_GRANT", "RESOURCE_ACQUIRE", "RESOURCE_RELEASE"):
        assert run(code((name, b"abc"))).gp[0] == 1
    assert run(code(("RESOURCE_ACQUIRE", number)), {0: 9}).gp[0] == 0


def created(name: bytes, size: int) -> bytes:
    return bytes([len(name)]) + name + struct.pack("<I", size) + b"\x03gen"


def span(name: bytes, *numbers: int) -> bytes:
    return bytes([len(name)]) + name + struct.pack(f"<{len(numbers)}I", *numbers)


def test_regions() -> None:
    fill = span(b"r", 2)[:6] + b"\x07" + struct.pack("<I", 3)  # r[2:5] = 7
    lines = [("REGION_CREATE", created(b"r", 8)), ("MEMSET", fill), ("MEMCOPY", span(b"r", 2, 5, 3))]
    for a, b, size, wanted in ((2, 5, 3, 0), (0, 2, 1, -1), (2, 0, 1, 1), (0, 0, 0, 0)):
        state = run(code(*lines, ("MEMCMP", span(b"r", a, b, size))), {0: 99})
        assert (state.trap, state.gp[0]) == (Trap.NONE, wanted)
    stack = run(code(("MEMSET", span(b"stack", 4)[:10] + b"\x01" + struct.pack("<I", 4)), ("LOAD", 1, 2)), {2: 4})
    assert stack.gp[1] == 0x01010101


@pytest.mark.parametrize(
    ("name", "payload", "trap"),
    [
        ("REGION_CREATE", created(b"heap", 8), Trap.OTHER),
        ("REGION_CREATE", created(b"big", 1 << 24), Trap.OTHER),
        ("REGION_CREATE", b"\x04ab", Trap.OTHER),
        ("REGION_CREATE", b"", Trap.OTHER),
        ("REGION_DESTROY", b"none", Trap.OTHER),
        ("REGION_DESTROY", b"stack", Trap.OTHER),
        ("REGION_TRANSFER", b"\x04heap\x01x", Trap.NONE),
        ("REGION_TRANSFER", b"\x04hoop\x01x", Trap.OTHER),
        ("MEMCOPY", span(b"heap", 65530, 0, 7), Trap.BAD_ADDRESS),
        ("MEMCMP", span(b"heap", 0, 2**32 - 1, 2), Trap.BAD_ADDRESS),
        ("MEMSET", span(b"heap", 0)[:9] + b"\x01\xff\xff\xff\xff", Trap.BAD_ADDRESS),
        ("MEMSET", span(b"none", 0)[:9] + b"\x01\x01\0\0\0", Trap.OTHER),
        ("REGION_DESTROY", b"heap\0", Trap.NONE),
    ],
)
def test_what_regions_refuse(name: str, payload: bytes, trap: Trap) -> None:
    assert run(code((name, payload))).trap == trap


def test_boxes() -> None:
    lines = [("BOX", 1, 7, -99), ("BOX", 2, 8, 5), ("UNBOX", 3, 1), ("CHECK_TYPE", 1, 7)]
    state = run(code(*lines))
    assert (state.gp[1], state.gp[2], state.gp[3], state.halted) == (0, 1, -99, True)
    assert run(code(*lines, ("CHECK_TYPE", 1, 8))).trap == Trap.OTHER
    assert run(code(("UNBOX", 0, 1))).trap == Trap.OTHER
    assert run(code(("BOX", 1, 0, 3), ("UNBOX", 0, 5)), {5: -1}).trap == Trap.OTHER


def test_vectors() -> None:
    load = [("STORE", 1, 2), ("VLOAD", 0, 2), ("VLOAD", 1, 2)]
    registers = {1: 0x04030201, 2: 64}
    assert run(code(*load, ("VADD", 0, 1)), registers).vectors[0] == bytes([2, 4, 6, 8]) + bytes(12)
    assert run(code(*load, ("VMUL", 0, 1)), registers).vectors[0] == bytes([1, 4, 9, 16]) + bytes(12)
    assert run(code(*load, ("VSUB", 0, 1)), registers).vectors[0] == bytes(16)
    assert run(code(*load, ("VFMA", 0, 1, 1)), registers).vectors[0] == bytes([2, 6, 12, 20]) + bytes(12)
    assert run(code(*load, ("VSUB", 2, 1)), registers).trap == Trap.OTHER
    assert run(code(*load, ("VADD", 0, 0), ("VADD", 0, 0)), {1: 128, 2: 64}).trap == Trap.OTHER
    assert run(code(*load, ("VDIV", 0, 1)), registers).trap == Trap.DIVIDE_BY_ZERO
    stored = run(code(*load, ("VADD", 0, 1), ("VSTORE", 0, 3), ("LOAD", 4, 3)), {**registers, 3: 65520})
    assert stored.gp[4] == 0x08060402


def test_stubs_and_counters() -> None:
    lines = [("CONF", 0, 1), ("SNAPSHOT", 0, 1), ("RESTORE", 0, 1), ("DEBUG_BREAK",), ("YIELD",), ("NOP",)]
    assert run(code(*lines)).gp == run(b"").gp
    state = run(code(("EVOLVE", 1, 3), ("EVOLVE", 2, 3), ("WITNESS", 3, 0), ("WITNESS", 4, 0), ("INSTINCT", 5, -7)))
    assert state.gp[1:6] == (1, 2, 1, 2, -7)
    assert run(code(("MERGE", 0, 1, 2)), {1: 2**31 - 1, 2: 2**31 - 1}).gp[0] == 2**31 - 1
    assert run(code(("MERGE", 0, 1, 2)), {1: -3, 2: 0}).gp[0] == -2
