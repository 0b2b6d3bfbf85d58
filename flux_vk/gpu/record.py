"""Recorded chains: submitted as often as wanted, several in flight, waited for without the GIL.

Not for: deciding what is recorded (chain.py).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from ..errors import DeviceLost, WaitTimeout
from ..settings import settings
from .pipelines import keys_of, make_all
from .steps import Copy, Dispatch, Fill

if TYPE_CHECKING:
    from .chain import Chain, Planned
    from .device import Device


@dataclass
class Counts:
    """What was recorded and submitted on a device so far; differences of it say what something took."""

    recordings: int = 0
    submits: int = 0
    dispatches: int = 0
    barriers: int = 0

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(
            self.recordings - earlier.recordings, self.submits - earlier.submits,
            self.dispatches - earlier.dispatches, self.barriers - earlier.barriers,
        )  # fmt: skip


class Recorded:
    """A chain in `copies` command buffers. `submit()` starts the next one; `wait()` waits for all that are running.

    May be used from several threads; a waiting thread holds this recording, not the others of the device.
    timestamps: True: around every step, with a barrier after each; "ends": only in front of the first and behind the
    last, which leaves the steps as they are.
    """

    def __init__(
        self,
        chain: Chain,
        planned: Planned,
        copies: int = 1,
        queue: int = 0,
        timestamps: bool | Literal["ends"] = False,
    ) -> None:
        self.name = chain.name
        self.device = chain.device
        self.planned = planned
        self.submits = 0
        self._markers = chain.device.host((1,), "u32") if settings().markers else None
        if hasattr(self.device, "pipelines"):
            make_all(cast("Device", self.device), keys_of(planned.steps))
        self._dispatches = sum(isinstance(step, Dispatch) for step in planned.steps)
        self._natives = [self._record(queue, timestamps) for _ in range(max(1, copies))]
        self._running: list[Any] = []
        self._lock = threading.RLock()

    def _record(self, queue: int, timestamps: bool | Literal["ends"]) -> Any:
        steps = self.planned.steps
        device: Any = self.device
        every = timestamps is True
        native = device.native.recording(queue, len(steps) + 1 if every else 2 if timestamps else 0)
        native.barrier()  # what an earlier submit wrote is visible to the first step
        if timestamps:
            native.timestamp(0)
        for i, step in enumerate(steps):
            if i and (i in self.planned.barriers or every or self._markers):
                native.barrier()
            if self._markers:
                m = self._markers
                native.fill((m.memory.native, m.offset, 4), i)
                native.barrier()
            if isinstance(step, Dispatch):
                self._dispatch(native, step)
            elif isinstance(step, Copy):
                s, t = step.source, step.target
                native.copy((s.memory.native, s.offset, s.nbytes), (t.memory.native, t.offset, t.nbytes))
            elif isinstance(step, Fill):
                t = step.target
                native.fill((t.memory.native, t.offset, t.nbytes), step.value)
            if every:
                native.timestamp(i + 1)
        if timestamps == "ends":
            native.timestamp(1)
        native.end()
        device.counts.recordings += 1
        return native

    def _dispatch(self, native: Any, step: Dispatch) -> None:
        device: Any = self.device
        pipeline = device.pipeline(step.contract.name, step.variant.name, step.spec)
        ranges = [(b.memory.native, b.offset, b.nbytes) for b in step.buffers.values()]
        if step.indirect is not None:
            where = (step.indirect.memory.native, step.indirect.offset, 12)
            native.dispatch_indirect(pipeline, ranges, step.push, where)
        else:
            native.dispatch(pipeline, ranges, step.push, *step.grid)

    def submit(self) -> int:
        """Start one replay; its number, from 1, for `wait_for`. Where all copies run, waits for the oldest first.

        Raises DeviceLost.
        """
        with self._lock:
            if len(self._running) == len(self._natives):
                self._wait_oldest(None)
            native = self._natives[self.submits % len(self._natives)]
            try:
                native.submit()
            except DeviceLost as error:
                raise self._lost(error) from None
            self.submits += 1
            self._count()
            self._running.append(native)
            return self.submits

    def _count(self) -> None:
        device: Any = self.device
        counts = device.counts
        counts.submits += 1
        counts.dispatches += self._dispatches
        counts.barriers += len(self.planned.barriers)

    def poll(self) -> bool:
        """True when nothing of this recording is running."""
        with self._lock:
            try:
                self._running = [n for n in self._running if not n.poll()]
            except DeviceLost as error:
                raise self._lost(error) from None
            return not self._running

    def wait(self, timeout: float | None = None) -> None:
        """Wait for every submit in flight; other Python threads run meanwhile.

        timeout: seconds; WaitTimeout when they are over (the work goes on). Raises DeviceLost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self._running:
                self._wait_oldest(deadline)

    def wait_oldest(self) -> None:
        """Wait for the first of the submits in flight."""
        with self._lock:
            if self._running:
                self._wait_oldest(None)

    def wait_for(self, number: int) -> None:
        """Wait until the submit of that number is done. They end in their order."""
        with self._lock:
            while self._running and self.submits - len(self._running) < number:
                self._wait_oldest(None)

    def _wait_oldest(self, deadline: float | None) -> None:
        left = 2**64 - 1 if deadline is None else max(0, int((deadline - time.monotonic()) * 1e9))
        try:
            done = self._running[0].wait(left)
        except DeviceLost as error:
            raise self._lost(error) from None
        if not done:
            raise WaitTimeout(f"chain {self.name!r} is still running after the time given", "VK_TIMEOUT")
        self._running.pop(0)

    def timestamps(self) -> list[int]:
        """Raw timestamps of the last replay (only where recorded with them)."""
        found: list[int] = self._natives[0].timestamps()
        return found

    def _lost(self, error: DeviceLost) -> DeviceLost:
        return DeviceLost(lost_message(self.name, self.planned.steps, self._marker(), str(error)), error.result)

    def _marker(self) -> int | None:
        return None if self._markers is None else int(self._markers.view()[0])


def lost_message(chain: str, steps: tuple[Any, ...], marker: int | None, cause: str) -> str:
    """What DeviceLost says: the kernel in flight where markers were on, else the chain's kernels."""
    if marker is not None and marker < len(steps):
        where = f"in kernel {steps[marker].name} (step {marker} of {len(steps)} of chain {chain!r})"
    else:
        names = ", ".join(dict.fromkeys(s.name for s in steps))
        where = f"in chain {chain!r} (kernels: {names}); FLUX_VK_MARKERS=1 finds the very one"
    return f"the device was lost {where}: {cause}; close everything on this device and open it again"
