"""The gradients of a step's buffers while its tape runs backwards. Not for: the kernels that make them (step.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import ArgumentError

if TYPE_CHECKING:
    from ..gpu import Buffer, Chain


class Gradients:
    """The gradients of a step's buffers while they are summed up, and which buffers need one.

    A gradient may be handed on as it is (a residual's is its sum's), so one buffer may stand for several; it is copied
    before one of them is added to.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._held: dict[int, Buffer] = {}
        self._needed: dict[int, Buffer] = {}  # keeps the buffers alive, so that an id means one of them
        self._read: Buffer | None = None  # being gone back from

    def need(self, x: Buffer) -> None:
        self._needed[id(x)] = x

    def needed(self, x: Buffer) -> bool:
        return id(x) in self._needed

    def take(self, y: Buffer) -> Buffer | None:
        """The gradient of y, whose sum is complete; None where nothing reached it."""
        return self._held.pop(id(y), None)

    @contextmanager
    def taken(self, y: Buffer) -> Iterator[Buffer | None]:
        """The same; inside, it is not added to, whatever else it stands for."""
        self._read = self.take(y)
        try:
            yield self._read
        finally:
            self._read = None

    def into(self, x: Buffer) -> tuple[Buffer, bool]:
        """Where to put a contribution to the gradient of x, and whether to add it to what is there."""
        held = self._held.get(id(x))
        if held is None:
            self._held[id(x)] = new = self.chain.scratch(x.shape, "f32")
            return new, False
        if held is self._read or sum(other is held for other in self._held.values()) > 1:
            own = self.chain.scratch(x.shape, "f32")
            self.chain.copy(src=held, dst=own)
            self._held[id(x)] = held = own
        return held, True

    def give(self, x: Buffer, g: Buffer) -> None:
        """A whole contribution to the gradient of x, in a buffer that may be kept and changed."""
        if not self.needed(x):
            return
        if g.shape != x.shape:
            raise ArgumentError(f"the gradient of {x} has shape {list(g.shape)}")
        if id(x) not in self._held:
            self._held[id(x)] = g
            return
        held, _ = self.into(x)
        self.chain.add(a=held, b=g, y=held)
