"""What the operations of the host alone do on the reference VM: vectors, boxes, regions, agents, resources.

Not for: operations that the GPU offers too (handlers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType

from ..errors import InputError
from .handlers import handler
from .machine import Fault, Machine, wrap
from .opcodes import BY_NAME, OPCODES
from .program import Trap

MAX_REGIONS = 256
MAX_REGION_BYTES = 1 << 24
"""Of all regions together."""
MAX_BOXES = 65536


# --- vectors ---------------------------------------------------------------------------------------------------------


@handler("VLOAD")
def _vload(m: Machine, vd: int, rs: int) -> None:
    at = m.place(m.gp[rs], 16)
    m.vectors[vd] = bytes(m.memory[at : at + 16])


@handler("VSTORE")
def _vstore(m: Machine, vs: int, rs: int) -> None:
    at = m.place(m.gp[rs], 16)
    m.memory[at : at + 16] = m.vectors[vs]


def _bytes_of(values: list[int]) -> bytes:
    if not all(0 <= value <= 255 for value in values):
        raise Fault(Trap.OTHER)
    return bytes(values)


def _lanes(function: Callable[[int, int], int]) -> Callable[..., None]:
    def run(m: Machine, vx: int, vs: int) -> None:
        m.vectors[vx] = _bytes_of([function(a, b) for a, b in zip(m.vectors[vx], m.vectors[vs], strict=True)])

    return run


handler("VADD")(_lanes(lambda a, b: a + b))
handler("VSUB")(_lanes(lambda a, b: a - b))
handler("VMUL")(_lanes(lambda a, b: a * b))


@handler("VDIV")
def _vdiv(m: Machine, vx: int, vs: int) -> None:
    if 0 in m.vectors[vs]:
        raise Fault(Trap.DIVIDE_BY_ZERO)
    m.vectors[vx] = bytes(a // b for a, b in zip(m.vectors[vx], m.vectors[vs], strict=True))


@handler("VFMA")
def _vfma(m: Machine, vx: int, a: int, b: int) -> None:
    lanes = zip(m.vectors[vx], m.vectors[a], m.vectors[b], strict=True)
    m.vectors[vx] = _bytes_of([x + y * z for x, y, z in lanes])


# --- boxes -----------------------------------------------------------------------------------------------------------


def _box_of(m: Machine, r: int) -> tuple[int, int]:
    if not 0 <= m.gp[r] < len(m.boxes):
        raise Fault(Trap.OTHER)
    return m.boxes[m.gp[r]]


@handler("BOX")
def _box(m: Machine, rd: int, kind: int, value: int) -> None:
    if len(m.boxes) >= MAX_BOXES:
        raise Fault(Trap.OTHER)
    m.gp[rd] = len(m.boxes)
    m.boxes.append((kind, value))


@handler("UNBOX")
def _unbox(m: Machine, rd: int, rs: int) -> None:
    m.gp[rd] = _box_of(m, rs)[1]


@handler("CHECK_TYPE")
def _check_type(m: Machine, r: int, kind: int) -> None:
    if _box_of(m, r)[0] != kind:
        raise Fault(Trap.OTHER)


# --- regions ---------------------------------------------------------------------------------------------------------


class _Payload:
    """Reads fields from a payload. Fault where it is too short."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise Fault(Trap.OTHER)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int = 4) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> bytes:
        return self.take(self.number(1)).rstrip(b"\0")


def _region(m: Machine, name: bytes) -> bytearray:
    if name not in m.regions:
        raise Fault(Trap.OTHER)
    return m.regions[name]


def _span(region: bytearray, start: int, size: int) -> slice:
    if start + size > len(region):
        raise Fault(Trap.BAD_ADDRESS)
    return slice(start, start + size)


@handler("REGION_CREATE")
def _region_create(m: Machine, data: bytes) -> None:
    payload = _Payload(data)
    name, size, _ = payload.text(), payload.number(), payload.text()
    full = sum(map(len, m.regions.values())) + size > MAX_REGION_BYTES
    if name in m.regions or len(m.regions) >= MAX_REGIONS or full:
        raise Fault(Trap.OTHER)
    m.regions[name] = bytearray(size)
    m.gp[0] = 0


@handler("REGION_DESTROY")
def _region_destroy(m: Machine, data: bytes) -> None:
    name = data.rstrip(b"\0")
    _region(m, name)
    if name == b"stack":
        raise Fault(Trap.OTHER)
    del m.regions[name]


@handler("REGION_TRANSFER")
def _region_transfer(m: Machine, data: bytes) -> None:
    payload = _Payload(data)
    name, _ = payload.text(), payload.text()
    _region(m, name)


@handler("MEMCOPY")
def _memcopy(m: Machine, data: bytes) -> None:
    payload = _Payload(data)
    region, source, target, size = _region(m, payload.text()), payload.number(), payload.number(), payload.number()
    region[_span(region, target, size)] = bytes(region[_span(region, source, size)])


@handler("MEMSET")
def _memset(m: Machine, data: bytes) -> None:
    payload = _Payload(data)
    region, start, value, size = _region(m, payload.text()), payload.number(), payload.take(1), payload.number()
    span = _span(region, start, size)  # before as many bytes are made
    region[span] = value * size


@handler("MEMCMP")
def _memcmp(m: Machine, data: bytes) -> None:
    payload = _Payload(data)
    region, first, second, size = _region(m, payload.text()), payload.number(), payload.number(), payload.number()
    a, b = region[_span(region, first, size)], region[_span(region, second, size)]
    m.gp[0] = (a > b) - (a < b)


# --- agents, resources, the rest -------------------------------------------------------------------------------------


def _tell(name: str) -> Callable[..., None]:
    def run(m: Machine, data: bytes = b"") -> None:
        if m.on_a2a is not None:
            answer = m.on_a2a(name, data)
            if not isinstance(answer, (int, NoneType)):
                raise InputError(f"on_a2a answered {answer!r} to {name}, expected a whole number or None")
            if answer is not None:
                m.gp[0] = wrap(answer)

    return run


def _identified(function: Callable[[Machine, int], None]) -> Callable[..., None]:
    """An operation on the number (u32) that its payload begins with: R0 = 0, or 1 without a number."""

    def run(m: Machine, data: bytes) -> None:
        if len(data) >= 4:
            function(m, int.from_bytes(data[:4], "little"))
        m.gp[0] = int(len(data) < 4)

    return run


def _require(m: Machine, number: int) -> None:
    if number not in m.capabilities:
        raise Fault(Trap.OTHER)


handler("CAP_REQUIRE")(_identified(_require))
handler("CAP_GRANT")(_identified(lambda m, number: m.capabilities.add(number)))
handler("CAP_REVOKE")(_identified(lambda m, number: m.capabilities.discard(number)))
handler("RESOURCE_ACQUIRE")(_identified(lambda m, number: m.resources.add(number)))
handler("RESOURCE_RELEASE")(_identified(lambda m, number: m.resources.discard(number)))
_CAPABILITIES = ("CAP_REQUIRE", "CAP_GRANT", "CAP_REVOKE")
for _op in OPCODES.values():
    if _op.group == "agents" and _op.name not in _CAPABILITIES and _op.name != "EMERGENCY_STOP":
        handler(_op.name)(_tell(_op.name))


@handler("EMERGENCY_STOP")
def _emergency_stop(m: Machine) -> None:
    m.halted = True
    _tell("EMERGENCY_STOP")(m)


@handler("CONF", "RESTORE", "SNAPSHOT", "DEBUG_BREAK")
def _nothing(m: Machine, *_: int) -> None:
    pass


@handler("MERGE")
def _merge(m: Machine, rd: int, a: int, b: int) -> None:
    m.gp[rd] = (m.gp[a] + m.gp[b]) // 2


@handler("EVOLVE")
def _evolve(m: Machine, rd: int, _: int) -> None:
    m.generation += 1
    m.gp[rd] = wrap(m.generation)


@handler("INSTINCT")
def _instinct(m: Machine, rd: int, number: int) -> None:
    m.gp[rd] = number


@handler("WITNESS")
def _witness(m: Machine, rd: int, _: int) -> None:
    m.notes += 1
    m.gp[rd] = wrap(m.notes)


def not_offered(m: Machine, *_: int | bytes) -> None:
    """The handler of what this machine does not do."""
    raise Fault(Trap.NOT_OFFERED)


handler(*(name for name, op in BY_NAME.items() if op.group == "physics"))(not_offered)
