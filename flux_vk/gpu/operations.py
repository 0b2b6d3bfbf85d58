"""The steps of a chain grouped into operations, as passes see them. Not for: the passes (fusion.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .buffer import Buffer
from .chain import Call, Chain
from .steps import Step


@dataclass
class Operation:
    """One call with the steps it takes."""

    call: Call
    tag: str
    steps: list[Step]

    def __getitem__(self, name: str) -> Any:
        return self.call.args.get(name)

    def touches(self, b: Buffer, writes: bool = False) -> bool:
        """Whether a step reads or writes (`writes`: writes) a byte of the buffer."""
        return any(
            a.memory == b.memory.id and a.start < b.end and b.offset < a.stop and (a.writes or not writes)
            for step in self.steps
            for a in step.accesses()
        )


def same(a: Buffer, b: Buffer) -> bool:
    """Whether two buffers are the same view of the same bytes."""
    return (a.memory.id, a.offset, a.dtype, a.shape) == (b.memory.id, b.offset, b.dtype, b.shape)


def operations_of(chain: Chain, start: int = 0) -> list[Operation]:
    """The steps from `start` on, grouped by the call they were made for."""
    found: list[Operation] = []
    for call, tag, step in chain.entries(start):
        if found and found[-1].call is call:
            found[-1].steps.append(step)
        else:
            found.append(Operation(call, tag, [step]))
    return found
