"""Dispatch chains: kernels listed once, recorded into one Kompute sequence, replayed with one submit.

A chain is data until `record()`; barriers and scratch memory are derived from it, never written by hand.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, ContractError
from . import arguments, hazards, kernels, planner
from .buffer import Buffer, Memory, bytes_of
from .steps import Copy, Dispatch, Fill, Step, Totals, buffers_of

if TYPE_CHECKING:
    from .device import BaseDevice
    from .profile import Profile
    from .record import Recorded


class Arena:
    """Scratch memory shared by chains of one device that never run at the same time. Grows to the largest."""

    def __init__(self, device: BaseDevice) -> None:
        self.device = device
        self._memory: Memory | None = None

    def memory(self, nbytes: int) -> Memory:
        """Memory of at least this size; chains recorded before a growth keep the one they have."""
        if self._memory is None or self._memory.nbytes < nbytes:
            self._memory = self.device.allocate(max(16, nbytes))
        return self._memory

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes if self._memory else 0


@dataclass(frozen=True)
class Planned:
    """A chain made ready: scratch placed, barriers found."""

    steps: tuple[Step, ...]
    barriers: dict[int, hazards.Barrier]
    arena: Memory | None
    arena_bytes: int


@dataclass(frozen=True, eq=False)
class Call:
    """One operation as it was asked for, whatever number of dispatches it takes."""

    kernel: str
    args: Mapping[str, Any]


class Chain:
    """A list of kernel dispatches on one device.

    Each kernel is a method: `chain.rms_norm(x=h, weight=w, y=n, eps=1e-6)`. Buffers and scalars go by keyword, as the
    kernel's contract names them; UPPERCASE keywords set specialization constants; `variant=` forces one; `indirect=`
    takes the grid from a u32[3] buffer. Raises ArgumentError naming kernel, argument, wanted and got.
    """

    def __init__(self, device: BaseDevice, arena: Arena | None = None, name: str = "chain") -> None:
        self.device = device
        self.arena = arena
        self.name = name
        self.steps: list[Step] = []
        self._scratch: dict[int, Memory] = {}
        self._tags: list[str] = []
        self._scope = ""
        self._calls: list[Call] = []  # what each step was made for
        self._call: Call | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def __getattr__(self, kernel: str) -> Callable[..., Chain]:
        if kernel.startswith("_"):
            raise AttributeError(kernel)
        try:
            kernels.contract(kernel)
        except ContractError as error:
            raise AttributeError(str(error)) from None
        return partial(self.dispatch, kernel)

    def dispatch(
        self, kernel: str, *, variant: str | None = None, indirect: Buffer | None = None, **args: Any
    ) -> Chain:
        """Append one kernel call (several dispatches where a binding exceeds what the device can bind at once)."""
        if indirect is not None and (indirect.dtype != "u32" or indirect.size < 3):
            raise ArgumentError(f"{kernel}: indirect is {indirect}, expected a u32 buffer of 3 elements")
        made = arguments.build(self.device, kernel, args, variant, indirect)
        with self.call(kernel, {**args, "variant": variant, "indirect": indirect}):
            for d in made:
                self._append(d)
        return self

    @contextlib.contextmanager
    def call(self, kernel: str, args: Mapping[str, Any]) -> Iterator[None]:
        """Steps appended inside belong to one operation, which passes over the chain (fusion.py) see as a whole.

        Inside another call it changes nothing.
        """
        outer = self._call
        self._call = outer or Call(kernel, args)
        try:
            yield
        finally:
            self._call = outer

    def copy(self, *, src: Buffer, dst: Buffer) -> Chain:
        """Append a byte-exact copy; both ranges must have the same number of bytes and may not overlap."""
        if src.nbytes != dst.nbytes:
            raise ArgumentError(f"copy: src has {src.nbytes} bytes, dst {dst.nbytes}; they must be equal")
        if src.memory is dst.memory and src.offset < dst.end and dst.offset < src.end:
            raise ArgumentError(f"copy: src {src} and dst {dst} overlap; copy through another buffer")
        if src.nbytes:
            self._append(Copy(src, dst))
        return self

    def fill(self, *, dst: Buffer, value: int = 0) -> Chain:
        """Append a fill with a 32-bit word; the range must be a multiple of 4 bytes."""
        if dst.nbytes % 4 or dst.offset % 4:
            raise ArgumentError(f"fill: {dst} is not made of whole 32-bit words")
        if not 0 <= value < 1 << 32:
            raise ArgumentError(f"fill: value is {value}, expected a 32-bit word (0 to 2^32 - 1)")
        if dst.nbytes:
            self._append(Fill(dst, value))
        return self

    def scratch(self, shape: tuple[int, ...], dtype: str = "f32") -> Buffer:
        """A buffer that lives only inside this chain; memory is shared with others by lifetime when recorded."""
        nbytes = bytes_of(shape, dtype)
        memory = Memory(nbytes)
        self._scratch[memory.id] = memory
        return Buffer(self.device, memory, 0, nbytes, dtype, tuple(shape))

    def scope(self, name: str) -> None:
        """Name what follows (a layer, a phase) for explain() and profile()."""
        self._scope = name

    def _append(self, step: Step) -> None:
        for b in buffers_of(step):
            if b.device is not self.device:
                raise ArgumentError(f"{step.name}: {b} belongs to another device than chain {self.name!r}")
            if b.memory.native is None and b.memory.id not in self._scratch:
                raise ArgumentError(f"{step.name}: {b} is scratch memory of another chain than {self.name!r}")
        self.steps.append(step)
        self._tags.append(self._scope)
        self._calls.append(self._call or Call(step.name, {}))

    # -- passes ---------------------------------------------------------------------------------------------------

    def entries(self, start: int = 0) -> list[tuple[Call, str, Step]]:
        """The steps from number `start` on, each with the call it was made for and its scope."""
        return list(zip(self._calls[start:], self._tags[start:], self.steps[start:], strict=True))

    def rewrite(self, start: int, entries: Sequence[tuple[Call, str, Step]]) -> None:
        """Put other steps in the place of those from number `start` on."""
        self._calls[start:] = [call for call, _, _ in entries]
        self._tags[start:] = [tag for _, tag, _ in entries]
        self.steps[start:] = [step for _, _, step in entries]

    def part(self) -> Chain:
        """An empty chain that may use the scratch buffers of this one; for steps that `rewrite` puts here."""
        part = Chain(self.device, self.arena, self.name)
        part._scratch = self._scratch
        return part

    def is_scratch(self, b: Buffer) -> bool:
        """Whether a buffer lives inside this chain only."""
        return b.memory.id in self._scratch

    # -- planning -------------------------------------------------------------------------------------------------

    def plan(self) -> Planned:
        """Place scratch memory and find the barriers."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for i, step in enumerate(self.steps):
            for b in buffers_of(step):
                if b.memory.id in self._scratch:
                    first.setdefault(b.memory.id, i)
                    last[b.memory.id] = i
        lives = [planner.Lifetime(m, self._scratch[m].nbytes, first[m], last[m]) for m in first]
        offsets, total = planner.plan(lives, self.device.alignment)
        arena = None
        if total:
            arena = (self.arena or Arena(self.device)).memory(total)
        steps = tuple(_resolve(s, offsets, arena) for s in self.steps) if arena else tuple(self.steps)
        found = hazards.place_barriers(s.accesses() for s in steps)
        return Planned(steps, {b.before: b for b in found}, arena, total)

    def totals(self) -> Totals:
        """Bytes, operations and dispatches of the chain, from the contracts."""
        totals = Totals()
        for step in self.steps:
            totals.add(step)
        return totals

    # -- running --------------------------------------------------------------------------------------------------

    def record(self, copies: int = 1, queue: int = 0) -> Recorded:
        """Record into `copies` Kompute sequences (as many submits can be in flight), ready to be replayed."""
        from .record import Recorded

        return Recorded(self, self.plan(), copies=copies, queue=queue)

    def run(self) -> None:
        """Record, submit and wait once."""
        step = self.record()
        step.submit()
        step.wait()

    def profile(self, repeat: int = 1) -> Profile:
        """Run with a timestamp around every step; a table of time, bytes/s and FLOP/s by kernel."""
        from .profile import profile

        return profile(self, repeat)

    # -- showing --------------------------------------------------------------------------------------------------

    def explain(self) -> str:
        """The list of steps with grids, ranges, and each barrier with its reason."""
        planned = self.plan()
        lines = []
        for i, (step, tag) in enumerate(zip(planned.steps, self._tags, strict=True)):
            if i in planned.barriers:
                lines.append(f"      -- barrier, {planned.barriers[i]}")
            lines.append(f"{i:4d}  {tag + ': ' if tag else ''}{step.name}{_shown(step)}")
        n_dispatch = sum(isinstance(s, Dispatch) for s in planned.steps)
        lines.append(
            f"{len(planned.steps)} steps ({n_dispatch} dispatches), {len(planned.barriers)} barriers, "
            f"{planned.arena_bytes} bytes of scratch, 1 submit"
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The chain as plain data: steps, accesses, barriers."""
        planned = self.plan()
        return {
            "name": self.name,
            "arena_bytes": planned.arena_bytes,
            "steps": [
                {
                    "index": i, "scope": tag, "kernel": s.name, "bytes": s.bytes, "flops": s.flops,
                    "grid": list(s.grid) if isinstance(s, Dispatch) else None,
                    "barrier": str(planned.barriers[i]) if i in planned.barriers else None,
                    "accesses": [a._asdict() for a in s.accesses()],
                }
                for i, (s, tag) in enumerate(zip(planned.steps, self._tags, strict=True))
            ],
        }  # fmt: skip

    @property
    def tags(self) -> list[str]:
        return self._tags


def _resolve(step: Step, offsets: dict[int, int], arena: Memory | None) -> Step:
    def real(b: Buffer) -> Buffer:
        if b.memory.id not in offsets or arena is None:
            return b
        return Buffer(b.device, arena, b.offset + offsets[b.memory.id], b.nbytes, b.dtype, b.shape, b.row_bytes)

    if isinstance(step, Dispatch):
        indirect = real(step.indirect) if step.indirect is not None else None
        s, buffers = step, {n: real(b) for n, b in step.buffers.items()}
        return Dispatch(s.contract, s.variant, s.spec, buffers, s.left_out, s.push, s.grid, s.bytes, s.flops, indirect)
    if isinstance(step, Copy):
        return replace(step, source=real(step.source), target=real(step.target))
    return replace(step, target=real(step.target))


def _shown(step: Step) -> str:
    parts = [f"{a.name}=m{a.memory}[{a.start}:{a.stop}]" for a in step.accesses()]
    grid = ""
    if isinstance(step, Dispatch):
        grid = " grid indirect" if step.indirect is not None else f" grid {'x'.join(str(n) for n in step.grid)}"
    return f"{grid} ({', '.join(itertools.islice(parts, 12))})"
