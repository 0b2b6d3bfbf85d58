"""The loop that writes streams: prompts, decode steps together, giving back what was taken.

A generation is a loop of one stream. The loop knows nothing of the `Generation` or `Many` that shows it: there is no
reference cycle, so one that nobody holds any more ends at once and gives its slots back.

Not for: running steps (runner.py, batch.py), the rules that end a text (stream.py) or opening models (model.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

from ..decode.drawing import Drawing
from ..errors import ContextFull, FluxError
from .batch import SIZES, Batch
from .pages import pages_for
from .stream import Stream, Token

if TYPE_CHECKING:
    from .runner import Runner
    from .sequence import Sequence
    from .session import Session

Drawn = tuple[Stream, Token]


class Loop:
    """Streams that are decoded together. Those that find no slot, or no pages, wait until others end.

    However streams come and go, each gets the tokens that it would get alone, to the last bit. session: keeps the
    sequence of a single stream.
    """

    def __init__(self, runner: Runner, streams: list[Stream], session: Session | None = None) -> None:
        self.runner = runner
        self.session = session
        self._streams = streams
        self._most = max(size for size in SIZES if size <= runner.max_logits)
        self._waiting: deque[Stream] = deque()
        self._live: list[Stream] = []
        self._ended: list[Stream] = []  # those that still have their slots, because steps are in flight
        self._batch: Batch | None = None
        self._stale = True  # the batch is not made of the streams that live
        self._left = 0  # steps that every stream of the batch still wants
        self._joint = True  # short prompts share a step

    def run(self) -> Generator[Drawn, None, None]:
        """The tokens as they come; everything is given back however it ends."""
        now = time.perf_counter()
        for stream in self._streams:
            stream.started = stream.begun = stream.first = stream.last = now
            if stream.max_tokens == 0:
                stream.finish_reason = "length"
            else:
                self._waiting.append(stream)
        try:
            while self._waiting or self._live:
                if not self._in_flight:
                    self._release()
                    yield from self._join()
                if self._live:
                    yield from self._step()
        finally:
            for stream in self._streams:
                stream.finish_reason = stream.finish_reason or "cancelled"
                if stream.swarm is not None:
                    stream.swarm.close()
            self._ended = [s for s in self._streams if s.sequence is not None]
            self._live.clear()
            self._release()

    @property
    def _in_flight(self) -> int:
        return self._batch.in_flight if self._batch is not None else 0

    # -- coming and going -----------------------------------------------------------------------------------------

    def _may_join(self, joining: Seq[Stream] = ()) -> bool:
        """Whether somebody waits who could begin now beside those who are `joining`; the first may wait for a slot."""
        others = len(self._live) + len(joining)
        if not self._waiting or not others:
            return bool(self._waiting)
        runner, stream = self.runner, self._waiting[0]
        if others >= self._most or runner.slots.in_use >= runner.slots.n:
            return stream.cancelled
        pages = sum(min(pages_for(s.length + 1), runner.slots.max_entries) for s in (stream, *joining))
        return pages + others <= runner.pool.n_free or stream.cancelled

    def _join(self) -> Iterator[Drawn]:
        """Give slots to those who wait, run their prompts and draw their first tokens. Nothing is in flight."""
        while not self._in_flight and self._may_join():
            joining = self._open_some()
            if not joining:
                return
            try:
                drawn = self._prefill(joining[0]) if len(joining) == 1 else self._prefill_jointly(joining)
            except ContextFull:  # other threads took pages meanwhile
                if not self._live and len(joining) == 1:
                    raise
                self._joint = False
                self._put_back(joining)
                if self._live:
                    return
                continue
            self._stale = True
            self._live += [s for s in joining if s.finish_reason is None]
            self._ended += [s for s in joining if s.finish_reason is not None]
            self._release()
            if not self._may_join():
                self._start()
            yield from drawn

    def _open_some(self) -> list[Stream]:
        """The next stream, or several whose prompts fit into one step, with their slots; none where it must wait."""
        joining: list[Stream] = []
        rows, most = 0, self.runner.limits.max_rows
        while self._may_join(joining):
            stream = self._waiting[0]
            rows += stream.length
            if joining and not stream.cancelled and (rows > most or not self._joint):
                break
            if self._open(stream, wait=not self._live and not joining):
                joining.append(self._waiting.popleft())
            elif stream.cancelled:
                self._waiting.popleft().finish_reason = "cancelled"
            else:  # somebody else was faster
                break
        return joining

    def _open(self, stream: Stream, wait: bool) -> bool:
        if stream.cancelled:
            return False
        if self.session is not None:
            stream.sequence = self.session.begin(stream)
        else:
            stream.sequence = self.runner.try_open(lambda: stream.cancelled, wait)
        if stream.sequence is not None and self._batch is None:
            self._batch = self.runner.open_batch()
        return stream.sequence is not None

    def _put_back(self, streams: list[Stream]) -> None:
        """Let streams wait, first of all, until there are pages for them; their tokens are then run again."""
        self._ended += streams
        self._release()
        self._waiting.extendleft(reversed(streams))

    def _release(self) -> None:
        """Give back the slots of streams that have ended, and the batch where none is left."""
        if self._batch is not None and not self._live:
            self._batch.close()
            self._batch = None
        while self._ended:
            stream = self._ended.pop()
            sequence, stream.sequence = stream.sequence, None
            if self.session is not None:
                self.session.end()
            elif sequence is not None:
                self.runner.close_sequence(sequence)

    # -- steps ----------------------------------------------------------------------------------------------------

    def _prefill(self, stream: Stream) -> list[Drawn]:
        """Run what is new of a stream's tokens and draw the next one; none when cancelled before that."""
        runner = self.runner
        sequence, ids, done = self._begin(stream)
        total = len(ids)
        while done < total:
            if stream.cancelled:
                stream.finish_reason = "cancelled"
                return []
            n = runner.chunk(sequence, total - done, runner.limits.max_rows)
            runner.prefill(sequence, ids[done : done + n], sample=done + n == total, drawing=stream.drawing)
            done += n
            stream.tell(n, done, total)
        return [(stream, self._take(stream, time.perf_counter()))]

    def _prefill_jointly(self, streams: list[Stream]) -> list[Drawn]:
        """The same for several whose prompts fit into one step."""
        parts = [self._begin(stream)[:2] for stream in streams]
        self.runner.prefill_jointly(parts, Drawing.joined(s.drawing for s in streams))
        now = time.perf_counter()
        for stream, (_, ids) in zip(streams, parts, strict=True):
            stream.tell(len(ids), len(ids), len(ids))
        return [(stream, self._take(stream, now)) for stream in streams]

    def _begin(self, stream: Stream) -> tuple[Sequence, list[int], int]:
        """Make a slot ready for a stream: its sequence, its tokens and how many of them are cached already."""
        sequence, ids = stream.sequence, stream.ids()
        assert sequence is not None, "a stream that begins has a slot"
        if not stream.tokens:
            stream.begun, stream.prefilled = time.perf_counter(), 0
        with self.runner.lock:
            done = sequence.keep_prefix(ids)
        self.runner.set_sampling(sequence, stream.params, ids, stream.carry, stream.breakers)
        self._write_mask(stream)
        self._set_agents(stream)
        return sequence, ids, done

    def _start(self) -> None:
        """Submit as many steps ahead as the device likes and every stream wants; of a stale batch none is in flight.

        Where the pages do not suffice, the youngest stream waits until others end. Raises ContextFull for a single one.
        """
        while self._live:
            assert self._batch is not None, "streams that live have a batch"
            if self._stale:
                sequences = [s.sequence for s in self._live if s.sequence is not None]
                self._batch.compose(sequences, Drawing.joined(s.drawing for s in self._live))
                limits = self.runner.limits
                self._left = min(s.may_run(limits, s.sequence.length) for s in self._live if s.sequence is not None)
                self._stale = False
            try:
                while self._left and self._batch.may_start:
                    self._batch.start()
                    self._left -= 1
                return
            except ContextFull:
                self._stale = True
                if self._batch.in_flight:
                    return  # perhaps somebody ends meanwhile
                if len(self._live) == 1:
                    raise
                self._put_back([self._live.pop()])

    def _step(self) -> Iterator[Drawn]:
        """The tokens of the oldest step in flight. The next steps run while these are looked at."""
        if any(s.swarm is not None and s.swarm.stale for s in self._live):
            self._rewind()
        if not self._in_flight:
            self._start()
        assert self._batch is not None, "streams that live have a batch"
        if self._batch.split:
            self._draw()
        self._batch.finish()
        now = time.perf_counter()
        drawn = []
        for stream in self._live:
            assert stream.sequence is not None
            stream.sequence.cached.append(stream.tokens[-1])
            drawn.append((stream, self._take(stream, now)))
        if any(s.finish_reason is not None for s in self._live):
            self._ended += [s for s in self._live if s.finish_reason is not None]
            self._live = [s for s in self._live if s.finish_reason is None]
            self._stale = True
        if not self._live:
            self._batch.settle()  # steps behind the last tokens were for nothing; their results are forgotten
        if not self._in_flight:
            self._release()
        if not self._may_join() and not (self._stale and self._in_flight):
            self._start()
        yield from drawn

    def _rewind(self) -> None:
        """Throw away steps that ran ahead of a change to a swarm: the next token is drawn with it."""
        assert self._batch is not None, "streams that live have a batch"
        self._batch.settle()
        for stream in self._live:
            assert stream.sequence is not None
            self.runner.rewind(stream.sequence, stream.params, stream.ids(), stream.carry, stream.breakers)
            self._write_mask(stream)
            self._set_agents(stream)
        self._stale = True

    def _set_agents(self, stream: Stream) -> None:
        """Give a stream's slot to its swarm, or to nobody. No step of the slot is in flight."""
        assert stream.sequence is not None
        with self.runner.lock:
            if stream.swarm is None:
                self.runner.buffers.clear_agents(stream.sequence.slot)
            else:
                stream.swarm.begin(self.runner.buffers.agents, stream.sequence.slot)

    def _draw(self) -> None:
        """Work out what may come next, while the forward pass runs; draw from it, with the next forward pass behind."""
        assert self._batch is not None, "streams that live have a batch"
        for stream in self._live:
            self._write_mask(stream)
        for stream in self._ended:  # their rows are still drawn, and nobody looks at what
            if stream.sequence is not None:
                self.runner.sampler.masks.clear(stream.sequence.slot)
        self._batch.draw()
        if not self._stale and not self._may_join():
            self._start()

    def _write_mask(self, stream: Stream) -> None:
        """Let the sampler know which tokens a stream's grammar allows next. Raises GrammarError where there is none."""
        if stream.matcher is not None and stream.sequence is not None:
            self.runner.sampler.masks.write(stream.sequence.slot, stream.matcher.mask())

    def _take(self, stream: Stream, now: float) -> Token:
        """The token drawn behind what is cached of a stream, as its user gets it."""
        sequence, sampler = stream.sequence, self.runner.sampler
        assert sequence is not None
        position = sequence.length
        try:
            token = sampler.token(sequence.slot, position)
        except FluxError as error:
            raise error if stream.matcher is None else stream.matcher.nothing_to_draw(error) from None
        if stream.params.carries:
            stream.carry = sampler.carry(sequence.slot, position)
        shown = stream.take(token, self.runner.limits, position, now)
        vote = None
        if stream.swarm is not None:
            agents, index = self.runner.buffers.agents, len(stream.tokens) - 1
            vote = stream.swarm.take(agents, sequence.slot, position, index)
        if not stream.logprobs:
            return Token(token, shown, vote=vote)
        found = sampler.logprobs(sequence.slot, position)
        return Token(token, shown, found.logprob, list(found.top), vote)
