"""What a model said over a text, as agents see it: the best candidates at every position, and the token that came.

Recorded once; then populations are scored without the model. Not for: running a model (the command line does).
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import FluxError, InputError

U32 = npt.NDArray[np.uint32]
OUTSIDE = 0xFFFFFFFF
"""In `target`: the token that came is not among the candidates."""
VERSION = 1
_ARRAYS = ("row_info", "cand", "target", "base", "runs")


@dataclass(frozen=True)
class Recording:
    """T positions of C candidates, in the device's layout.

    row_info: u32 [T, 8]; cand: u32 [T, C, 4]; see docs/evolution.md. target: u32 [T], the place of the token that came
    among the candidates, or OUTSIDE. base: f32 [T], the logarithm of the model's probability of all candidates
    together, or, where the target is outside, of the target itself: the likelihood that no agent can change.
    runs: u32 [T], number of the stretch of text. about: where it comes from (JSON).
    """

    row_info: U32
    cand: U32
    target: U32
    base: npt.NDArray[np.float32]
    runs: U32
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def positions(self) -> int:
        """T."""
        return len(self.row_info)

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The candidates' logits, f32 [T, C]; minus infinity beyond a row's candidates."""
        inside = np.arange(self.cand.shape[1])[None] < self.row_info[:, :1]
        return np.where(inside, self.cand[:, :, 1].view(np.float32), np.float32(-np.inf))

    def save(self, path: Path) -> None:
        """Write as .npz, through a temporary file."""
        body = io.BytesIO()
        about = np.frombuffer(json.dumps({"version": VERSION, **self.about}).encode(), np.uint8)
        np.savez_compressed(body, about=about, **{name: getattr(self, name) for name in _ARRAYS})
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        partial.write_bytes(body.getvalue())
        partial.replace(path)


def load_recording(path: Path) -> Recording:
    """Read what `save` wrote. Raises InputError naming the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            arrays = {name: file[name] for name in _ARRAYS}
    except OSError as error:
        raise InputError(f"recording {path}: cannot be read ({error.strerror or error})") from error
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"recording {path}: is no recording of this program ({error}); record it again") from error
    if about.pop("version", None) != VERSION:
        raise InputError(f"recording {path}: of another version, expected {VERSION}; record it again")
    return Recording(**arrays, about=about)


@dataclass(frozen=True)
class Window:
    """A piece of the text that the model reads at once: tokens [start, stop), of which those from `scored` on count."""

    start: int
    scored: int
    stop: int


def windows(tokens: int, length: int, positions: int) -> list[Window]:
    """Which pieces of a text are read so that `positions` tokens are scored, spread evenly over it.

    Every piece but the text's first scores its second half, so that at least half a piece stands before each token.
    InputError where the text has fewer than 16 tokens.
    """
    if tokens < 16:
        raise InputError(f"the text has {tokens} tokens in this part, expected at least 16; give a longer text")
    step = max(length // 2, 1)
    length = 2 * step
    starts = list(range(0, max(tokens - step, 1), step))
    wanted = min(len(starts), -(-positions // step))
    chosen = sorted({round(x) for x in np.linspace(0, len(starts) - 1, wanted)})
    found, left = [], positions
    for start in (starts[i] for i in chosen):
        scored = start + step if start else 1
        stop = min(start + length, tokens, scored + left)
        if stop > scored:
            found.append(Window(start, scored, stop))
            left -= stop - scored
    return found


class Recorder:
    """Puts a recording together from logits, window by window; keeps the best `candidates` of each row."""

    def __init__(self, candidates: int, seed: int, history: int = 1024) -> None:
        self._candidates = candidates
        self._seed = seed
        self._history = history
        self._parts: list[tuple[U32, U32, U32, npt.NDArray[np.float32]]] = []

    def add(self, context: Sequence[int], first: int, logits: npt.NDArray[np.float32]) -> None:
        """One stretch: `context` are all its tokens from position 0 on, `logits` [n, V] those after context[first - 1],
        context[first] ...; row i predicts context[first + i]."""
        if not np.isfinite(logits).all():
            raise FluxError("the model gave logits that are no finite numbers; nothing can be learnt from them")
        rows = [self._row(context, first + i, row) for i, row in enumerate(logits)]
        info, cand, target, base = (np.stack(part) for part in zip(*rows, strict=True))
        self._parts.append((info, cand, target, base))

    def _row(
        self, context: Sequence[int], position: int, logits: npt.NDArray[np.float32]
    ) -> tuple[U32, U32, U32, npt.NDArray[np.float32]]:
        n = min(self._candidates, len(logits))
        ids = best(logits, n)
        x = logits.astype(np.float64)
        top = float(x.max())
        weights = np.exp(x - top)
        lse = top + float(np.log(weights.sum()))
        p = weights / weights.sum()
        entropy = float(-(p[p > 0] * np.log(p[p > 0])).sum())
        seen = np.asarray(context[max(0, position - self._history) : position], np.int64)
        cand = np.zeros((self._candidates, 4), np.uint32)
        cand[:n, 0] = ids
        cand[:n, 1] = logits[ids].astype(np.float32).view(np.uint32)
        cand[:n, 2:] = counts(seen, ids)
        token = int(context[position])
        place = np.flatnonzero(ids == token)
        inside = len(place) > 0
        base = np.log(weights[ids].sum() / weights.sum()) if inside else x[token] - lse
        floats = np.array([top, entropy, lse], np.float32).view(np.uint32)
        info = np.array([n, *floats, position, self._seed & 0xFFFFFFFF, self._seed >> 32, 0], np.uint32)
        target = np.array(place[0] if inside else OUTSIDE, np.uint32)
        return info, cand, target, np.array(base, np.float32)

    def finish(self, about: Mapping[str, Any]) -> Recording:
        """All stretches as one recording."""
        if not self._parts:
            raise InputError("nothing was recorded; give a longer text")
        info, cand, target, base = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        runs = np.repeat(np.arange(len(self._parts), dtype=np.uint32), [len(part[0]) for part in self._parts])
        return Recording(info, cand, target, base, runs, about)


def best(logits: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.int64]:
    """Ids of the n largest logits, descending, the lower id first among equals."""
    least = np.partition(logits, len(logits) - n)[len(logits) - n]
    ids = np.flatnonzero(logits >= least)
    return ids[np.lexsort((ids, -logits[ids]))][:n]


def counts(seen: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> U32:
    """u32 [n, 2]: how often each id occurs among the tokens seen, and how far back last (1 = the last; -1 never)."""
    never = np.zeros((len(ids), 1), bool)  # so that nothing seen is a row too
    hits = np.concatenate([seen[None, ::-1] == ids[:, None], never], axis=1)
    number = hits.sum(axis=1)
    distance = np.where(number > 0, hits.argmax(axis=1) + 1, -1)
    return np.stack([number.astype(np.uint32), distance.astype(np.int32).view(np.uint32)], axis=1)


def stretches(tokens: Sequence[int], length: int, positions: int) -> Iterator[tuple[list[int], int]]:
    """(tokens of a window, place of the first one that is scored) for each window of a text."""
    for w in windows(len(tokens), length, positions):
        yield list(tokens[w.start : w.stop]), w.scored - w.start
