"""Files of training data to examples: JSON lines, a JSON list or plain text, with every bad line named.

Not for: the forms that a record may have (records.py) and for micro-batches (batches.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flux_vk.errors import InputError

from .batches import IGNORED, Example
from .records import BadRecord, Encoder, Tokens

__all__ = ["Data", "Example", "Skipped", "fingerprint", "read_data"]

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Skipped:
    """A bad line that was left out: its number, from 1, and what is wrong with it."""

    line: int
    why: str


@dataclass(frozen=True)
class Data:
    """A file's examples. truncated: how many were longer than max_length; skipped: bad lines, with skip_bad."""

    path: Path
    examples: list[Example]
    truncated: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Rows of all examples together."""
        return sum(len(example) for example in self.examples)

    @property
    def counted(self) -> int:
        """Labels to be learned of all examples together."""
        return sum(example.counted for example in self.examples)

    @property
    def summary(self) -> str:
        """One line for the reader."""
        said = f"{self.path.name}: {len(self.examples)} examples, {self.tokens} tokens, {self.counted} to be learned"
        if self.truncated:
            said += f", {self.truncated} cut to the greatest length"
        if self.skipped:
            said += f", {len(self.skipped)} bad lines left out (first: line {self.skipped[0].line})"
        return said


def read_data(
    path: Path, encoder: Encoder, max_length: int, skip_bad: bool = False, progress: Progress | None = None
) -> Data:
    """The examples of a file, each of at most max_length rows: JSON lines (.jsonl, .ndjson, .json; the last may also be
    one list of records, numbered from 1) or plain text.

    progress: called with bytes done and all. InputError naming file and line for what cannot be used; with skip_bad
    such lines are counted instead. InputError too where nothing is left.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file of training data") from None
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if path.suffix.lower() in JSON_SUFFIXES:
        data = _records(path, raw, encoder, max_length, skip_bad, progress or _silent)
    else:
        data = Data(path, list(_windows(_plain(path, raw), encoder, max_length)))
    if not data.examples:
        why = "expected text or records"
        if data.skipped:
            why = f"all {len(data.skipped)} lines are bad, first line {data.skipped[0].line}: {data.skipped[0].why}"
        raise InputError(f"{path}: holds nothing to learn from; {why}")
    return data


def fingerprint(examples: Sequence[Example]) -> str:
    """A hash of the examples and their order: what a training to be resumed must find again."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(len(example).to_bytes(4, "little"))
        digest.update(example.ids.astype("<u4").tobytes())
        digest.update(example.labels.astype("<u4").tobytes())
    return digest.hexdigest()


def _silent(done: int, total: int) -> None:
    pass


# -- records --------------------------------------------------------------------------------------------------------


def _records(path: Path, raw: bytes, encoder: Encoder, max_length: int, skip_bad: bool, progress: Progress) -> Data:
    examples: list[Example] = []
    skipped: list[Skipped] = []
    truncated = 0
    for number, done, line in _lines(path, raw):
        try:
            tokens = encoder.record(_parsed(line) if isinstance(line, bytes) else line)
            examples.append(_example(tokens, max_length))
            truncated += len(tokens.ids) - 1 > max_length
        except BadRecord as error:
            if not skip_bad:
                hint = "correct it, or leave such lines out: skip-bad"
                raise InputError(f"{path}:{number}: {error}; {hint}") from None
            skipped.append(Skipped(number, str(error)))
        progress(done, len(raw))
    return Data(path, examples, truncated, skipped)


def _lines(path: Path, raw: bytes) -> Iterator[tuple[int, int, Any]]:
    """(number from 1, bytes done, line as bytes) of all lines but empty ones.

    A .json file that is one list gives its elements, read, in place of lines.
    """
    if path.suffix.lower() == ".json" and raw.lstrip().startswith(b"["):
        records = _list(path, raw)
        for number, record in enumerate(records, 1):
            yield number, len(raw) * number // len(records), record
        return
    done = 0
    for number, line in enumerate(raw.split(b"\n"), 1):
        done = min(done + len(line) + 1, len(raw))
        if line.strip():
            yield number, done, line


def _list(path: Path, raw: bytes) -> list[Any]:
    try:
        found: list[Any] = json.loads(raw)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: is no JSON: {error.msg}; expected a list of records") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: is no JSON that can be read ({type(error).__name__})") from None
    return found


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRecord(f"is not UTF-8 (byte {error.start + 1} of the line)") from None
    except json.JSONDecodeError as error:
        raise BadRecord(f"is no JSON: {error.msg} at character {error.pos + 1}; expected one object a line") from None
    except (RecursionError, ValueError) as error:  # nested without end, or a number of thousands of digits
        raise BadRecord(f"is no JSON that can be read ({type(error).__name__})") from None


def _example(tokens: Tokens, max_length: int) -> Example:
    """Rows see one token and learn the next, so there is one fewer than tokens."""
    ids = np.array(tokens.ids[: max_length + 1], np.uint32)
    labels = np.where(np.array(tokens.learned[: len(ids)], bool), ids, np.uint32(IGNORED))[1:]
    example = Example(ids[:-1], np.ascontiguousarray(labels, np.uint32))
    if not example.counted:
        cut = len(tokens.ids) - 1 > max_length
        why = f"nothing to learn in its first {max_length} tokens; raise max-length" if cut else "nothing to learn"
        raise BadRecord(f"{why} ({len(tokens.ids)} tokens)")
    return example


# -- plain text -----------------------------------------------------------------------------------------------------


def _plain(path: Path, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: is not UTF-8 (byte {error.start + 1} of the file); expected plain text in UTF-8, or JSON "
            f"lines in a file that ends in {', '.join(JSON_SUFFIXES)}"
        ) from None
    return text if text.strip() else ""


def _windows(text: str, encoder: Encoder, max_length: int) -> Iterator[Example]:
    """A text as one document, cut into windows of max_length rows; every token of it is learned once.

    Each window begins with BOS where the model wants BOS in front of a text. Names of special tokens are plain text.
    """
    if not text:
        return
    t = encoder.tokenizer
    ids = t.encode(text, add_special=False)
    if t.eos_id is not None:
        ids.append(t.eos_id)
    begin = [t.bos_id] if t.add_bos and t.bos_id is not None else []
    seen = np.array(begin + ids, np.uint32)
    for at in range(0, len(seen) - 1, max_length):
        labels = seen[at + 1 : at + 1 + max_length]
        window = seen[at : at + len(labels)].copy()
        if begin:
            window[0] = begin[0]
        yield Example(window, labels.copy())
