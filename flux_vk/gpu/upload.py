"""Filling device memory from several threads: one piece is read and packed while others are on their way.

Where the host sees device memory a piece is written in place; else into a staging buffer, whose copy runs on the
second queue while the next buffer is filled. Not for: single arrays (Device.upload) and what is in the pieces.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import native
from .buffer import Buffer, Memory

if TYPE_CHECKING:
    from .device import Device

U8Array = npt.NDArray[np.uint8]

PIECE = 4 << 20  # bytes of a tensor that one thread takes at a time
SLOT = 8 << 20  # bytes of a staging buffer; every thread has two
THREADS = 4  # more do not help a disk, and each brings its staging buffers


@dataclass(frozen=True)
class Piece:
    """A range of device memory and what fills it: `write` gets its bytes as an array, to be written front to back.

    before: called when a thread takes the piece, `after` when the piece is written; in that thread, not the caller's.
    """

    target: Buffer
    write: Callable[[U8Array], None]
    nbytes: int = 0  # what the caller wants told of it
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None


def weight_pieces(
    buffer: Buffer, raw: U8Array, most: int = PIECE
) -> Iterator[tuple[Buffer, Callable[[U8Array], None], int, int]]:
    """A tensor's GGUF blocks in runs of rows: (rows of the buffer, what writes them, start and stop in `raw`)."""
    from ..formats import layout

    encoder = native.module().pack_rows
    n, k = buffer.shape
    if n == 0:
        return
    row, dtype = raw.nbytes // n, buffer.dtype
    step = max(1, most // max(buffer.row_bytes, 1))
    for first in range(0, n, step):
        last = min(first + step, n)
        part = raw[first * row : last * row]

        def write(view: U8Array, part: U8Array = part, shape: tuple[int, int] = (last - first, k)) -> None:
            layout.pack_into(part, dtype, shape, view, encoder)

        yield buffer.rows(first, last), write, first * row, last * row


def fill(
    device: Device, pieces: Sequence[Piece], done: Callable[[Piece], None] | None = None, threads: int | None = None
) -> None:
    """Fill all pieces; when it returns the device has them. No submit may be using their memory.

    done: called in this thread for each piece that was written, in no fixed order. threads: default one a core, at most
    four. What a thread raises is raised here, and so is Ctrl-C; either way all threads have ended and nothing is copied
    any more.
    """
    pieces = [p for p in pieces if p.target.nbytes]
    count = max(1, min(threads or min(THREADS, os.cpu_count() or 1), len(pieces)))
    work = _Work(device, pieces)
    workers: list[threading.Thread] = []
    failure: BaseException | None = None
    try:
        for i in range(count):
            workers.append(threading.Thread(target=work.run, name=f"flux_vk upload {i}", daemon=True))
            workers[-1].start()
        left = count
        while left:
            said = work.said.get()
            if isinstance(said, Piece):
                if done is not None and failure is None:
                    done(said)
            else:
                left -= 1
                if said is not None:
                    failure = failure or said
    finally:
        work.stop.set()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
    if failure is not None:
        raise failure


class _Work:
    """What the threads share: the pieces still to be taken, what they say, and whether to stop."""

    def __init__(self, device: Device, pieces: list[Piece]) -> None:
        self.device = device
        self.stop = threading.Event()
        self.said: queue.SimpleQueue[Piece | BaseException | None] = queue.SimpleQueue()
        self._pieces = iter(pieces)
        self._lock = threading.Lock()
        self._slot = max(SLOT, max((p.target.nbytes for p in pieces), default=0))

    def take(self) -> Piece | None:
        with self._lock:
            return None if self.stop.is_set() else next(self._pieces, None)

    def run(self) -> None:
        lane = _Lane(self.device, self._slot)
        result: BaseException | None = None
        try:
            while (piece := self.take()) is not None:
                if piece.before is not None:
                    piece.before()
                host = piece.target.memory.host
                if host is not None:
                    piece.write(host[piece.target.offset : piece.target.end])
                else:
                    lane.put(piece)
                if piece.after is not None:
                    piece.after()
                self.said.put(piece)
            if not self.stop.is_set():
                lane.flush()
        except BaseException as error:  # it is raised again by the thread that waits
            self.stop.set()
            result = error
        try:
            lane.wait()
        except BaseException as error:
            result = result or error
        self.said.put(result)


class _Lane:
    """One thread's staging buffers: while the copies out of one run, the other is filled."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self._device = device
        self._nbytes = nbytes
        self._slots: list[Memory] = []
        self._running: list[Any] = [None, None]
        self._now = 0
        self._used = 0
        self._copies: list[tuple[int, int, Buffer]] = []

    def put(self, piece: Piece) -> None:
        """Write the piece into the buffer at hand; the copy follows when that is full, or with `flush`."""
        n = piece.target.nbytes
        if self._used + n > self._nbytes:
            self.flush()
        if not self._slots:
            self._slots = [self._device.allocate(self._nbytes, "host") for _ in range(2)]
        if not self._copies:
            self._wait(self._now)
        slot = self._slots[self._now]
        assert slot.host is not None
        piece.write(slot.host[self._used : self._used + n])
        self._copies.append((self._used, n, piece.target))
        self._used += -(-n // 64) * 64

    def flush(self) -> None:
        """Start the copies of what was written; the other buffer is next."""
        if not self._copies:
            return
        recording = self._device.native.recording(1, 0)
        slot = self._slots[self._now].native
        for at, n, target in self._copies:
            recording.copy((slot, at, n), (target.memory.native, target.offset, n))
        self._copies = []
        recording.submit()
        self._running[self._now] = recording
        self._now, self._used = 1 - self._now, 0

    def wait(self) -> None:
        """Until no copy runs any more."""
        for i in range(2):
            self._wait(i)

    def _wait(self, i: int) -> None:
        recording, self._running[i] = self._running[i], None
        if recording is not None:
            recording.wait()
