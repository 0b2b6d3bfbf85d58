"""The steps of a chain as plain data: kernel dispatches and transfers, with the ranges they touch.

Not for: building them from arguments (arguments.py) or running them (record.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .buffer import Buffer
from .contract import Contract, Variant
from .hazards import Access


@dataclass(frozen=True)
class Dispatch:
    """One kernel launch: everything but memory that is still to be planned."""

    contract: Contract
    variant: Variant
    spec: tuple[int, ...]
    buffers: Mapping[str, Buffer]  # in binding order
    left_out: frozenset[str]  # optional bindings bound to the dummy
    push: bytes
    grid: tuple[int, int, int]
    bytes: float
    flops: float
    indirect: Buffer | None = None

    @property
    def name(self) -> str:
        return self.contract.name if self.variant.name == "default" else f"{self.contract.name}--{self.variant.name}"

    def accesses(self) -> list[Access]:
        found = []
        for b in self.contract.bindings:
            buffer = self.buffers[b.name]  # the dummy where it was left out: read by many, written by few
            found.append(Access(buffer.memory.id, buffer.offset, buffer.end, b.writes, b.reads, b.name))
        if self.indirect is not None:
            found.append(Access(self.indirect.memory.id, self.indirect.offset, self.indirect.end, False, True, "grid"))
        return found


@dataclass(frozen=True)
class Copy:
    """Byte-exact copy between two ranges of equal size."""

    source: Buffer
    target: Buffer
    name: str = "copy"
    flops: float = 0

    @property
    def bytes(self) -> float:
        return 2 * self.source.nbytes

    def accesses(self) -> list[Access]:
        s, t = self.source, self.target
        return [
            Access(s.memory.id, s.offset, s.end, False, True, "src"),
            Access(t.memory.id, t.offset, t.end, True, False, "dst"),
        ]


@dataclass(frozen=True)
class Fill:
    """Set a range to a repeated 32-bit word."""

    target: Buffer
    value: int
    name: str = "fill"
    flops: float = 0

    @property
    def bytes(self) -> float:
        return self.target.nbytes

    def accesses(self) -> list[Access]:
        t = self.target
        return [Access(t.memory.id, t.offset, t.end, True, False, "dst")]


Step = Dispatch | Copy | Fill


def buffers_of(step: Step) -> list[Buffer]:
    """Every buffer a step touches."""
    if isinstance(step, Dispatch):
        return [*step.buffers.values(), *([step.indirect] if step.indirect is not None else [])]
    if isinstance(step, Copy):
        return [step.source, step.target]
    return [step.target]


@dataclass
class Totals:
    """Bytes and operations of a list of steps, from the contracts' cost expressions."""

    bytes: float = 0.0
    flops: float = 0.0
    steps: int = 0
    by_name: dict[str, int] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        self.bytes += step.bytes
        self.flops += step.flops
        self.steps += 1
        self.by_name[step.name] = self.by_name.get(step.name, 0) + 1
