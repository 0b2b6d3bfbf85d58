"""Writes GGUF files (version 3): metadata of every type, tensors of every type as the bytes they are stored in.

A file appears under its name only when it is whole. Not for: what the keys and tensors mean, nor for quantising them.
Format: the GGUF specification of ggml (docs/gguf.md), little-endian.
"""

from __future__ import annotations

import math
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flux_vk.errors import GGUFError
from flux_vk.formats import blocks
from flux_vk.formats import gguf_types as gt
from flux_vk.formats.gguf_types import GGUFValue, bad

Chunk: TypeAlias = "bytes | bytearray | memoryview | npt.NDArray[Any]"
Data: TypeAlias = "Chunk | Callable[[], Chunk | Iterable[Chunk]]"

VERSION = 3
_BY_NAME = {form.name: form for form in gt.SCALARS.values()}
_HINT = "nothing was written; give what GGUF can hold"


@dataclass(frozen=True)
class Value:
    """A metadata value. type: in the reader's words, "u8" ... "f64", "bool", "str", "array[u32]", "array[str]" ...

    value: a number, bool or str, or for arrays a list or a NumPy array of them.
    """

    type: str
    value: GGUFValue | list[int] | list[float] | list[bool]


@dataclass(frozen=True)
class TensorOut:
    """A tensor to be written. shape in NumPy order (rows first), as in TensorInfo; type as in `blocks`.

    data: the stored bytes (bytes, or an array whose bytes they are), or a function that gives them when it is their
    turn, whole or in pieces, so that no more than one piece is in memory.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: Data

    @property
    def nbytes(self) -> int:
        """Bytes of the data; the tensor must have passed `write_gguf`'s checks."""
        kind = blocks.BY_NAME[self.type]
        return math.prod(self.shape) // kind.weights * kind.nbytes


def typed(metadata: Mapping[str, GGUFValue], types: Mapping[str, str]) -> dict[str, Value]:
    """The metadata of an open file (`GGUFFile.metadata`, `.types`) as it goes into `write_gguf`, types and all."""
    return {key: Value(types[key], value) for key, value in metadata.items()}


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Value],
    tensors: Iterable[TensorOut],
    alignment: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a file under a temporary name beside `path`, then renames it; on an error nothing is left.

    alignment of tensors in bytes; None = what `general.alignment` says, or 32. progress gets (bytes of tensors written,
    bytes in all). Raises GGUFError for what GGUF (or the bounded reader here) does not allow, or where a tensor's data
    are not as long as its shape says; OSError from the disk.
    """
    target, outs, keys = Path(path), list(tensors), dict(metadata)
    step = _alignment(target, keys, alignment)
    offsets = _plan(target, outs, step)
    head = _header(target, keys, outs, offsets)
    total, done = sum(out.nbytes for out in outs), 0
    with replacing(target) as file:
        file.write(head + bytes(-len(head) % step))
        for out in outs:
            for piece in _pieces(target, out):
                file.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, total)
            file.write(bytes(-out.nbytes % step))


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when the block ends well and vanishes when it does not."""
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)) and error.errno is not None:  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _alignment(path: Path, keys: dict[str, Value], wanted: int | None) -> int:
    """The alignment, after checking it; the key is added where it is needed and missing."""
    key = "general.alignment"
    stated = keys[key].value if key in keys else gt.DEFAULT_ALIGNMENT
    step = stated if wanted is None else wanted
    if not isinstance(step, int) or step & (step - 1) or not gt.MIN_ALIGNMENT <= step <= gt.MAX_ALIGNMENT:
        limits = f"a power of two from {gt.MIN_ALIGNMENT} to {gt.MAX_ALIGNMENT}"
        raise bad(path, f"key {key!r}", step, limits, _HINT)
    if key in keys or step != gt.DEFAULT_ALIGNMENT:
        keys[key] = Value("u32", step)
    return step


def _plan(path: Path, outs: list[TensorOut], step: int) -> list[int]:
    """Offsets of the tensors in the data section, after checking names, types and shapes."""
    names = {out.name for out in outs}
    if len(names) != len(outs):
        raise bad(path, "tensors", "a name twice", "each once", _HINT)
    offsets, position = [], 0
    for out in outs:
        _check(path, out)
        offsets.append(position)
        position += -(-out.nbytes // step) * step
    return offsets


def _check(path: Path, out: TensorOut) -> None:
    what = f"tensor {out.name!r}"
    if not 1 <= len(out.name.encode()) <= gt.MAX_NAME_BYTES:
        raise bad(path, what, f"a name of {len(out.name.encode())} bytes", f"1 to {gt.MAX_NAME_BYTES}", _HINT)
    kind = blocks.BY_NAME.get(out.type)
    if kind is None:
        raise bad(path, what, f"type {out.type!r}", f"one of {', '.join(blocks.BY_NAME)}", _HINT)
    if not 1 <= len(out.shape) <= gt.MAX_DIMS or min(out.shape) < 1:
        raise bad(path, what, f"shape {out.shape}", f"1 to {gt.MAX_DIMS} dimensions, all >= 1", _HINT)
    if out.shape[-1] % kind.weights:
        raise bad(path, what, f"rows of {out.shape[-1]} in {out.type}", f"a multiple of {kind.weights}", _HINT)


def _header(path: Path, keys: dict[str, Value], outs: list[TensorOut], offsets: list[int]) -> bytes:
    parts = [gt.MAGIC, struct.pack("<IQQ", VERSION, len(outs), len(keys))]
    for key, value in keys.items():
        parts += [_text(key), _value(path, key, value)]
    for out, offset in zip(outs, offsets, strict=True):
        dims = tuple(reversed(out.shape))
        parts.append(_text(out.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        parts.append(struct.pack("<IQ", blocks.BY_NAME[out.type].id, offset))
    return b"".join(parts)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _value(path: Path, key: str, value: Value) -> bytes:
    """Type number and payload. Numbers that the type cannot hold are errors, not wrapped around."""
    try:
        if value.type.startswith("array[") and value.type.endswith("]"):
            return struct.pack("<I", gt.ARRAY) + _array(value.type[6:-1], value.value)
        if value.type == "str":
            if not isinstance(value.value, str):
                raise TypeError(value.value)
            return struct.pack("<I", gt.STRING) + _text(value.value)
        form = _BY_NAME[value.type]
        return struct.pack("<I", form.id) + struct.pack(form.code, value.value)
    except KeyError:
        known = f"str, array[str], {', '.join(_BY_NAME)} or array[...] of them"
        raise bad(path, f"key {key!r}", f"type {value.type!r}", known, _HINT) from None
    except (struct.error, OverflowError, TypeError, ValueError) as error:
        raise bad(path, f"key {key!r}", f"{value.value!r:.80} ({error})", f"type {value.type}", _HINT) from None


def _array(element: str, values: Any) -> bytes:
    if element == "str":
        if isinstance(values, str) or not all(isinstance(v, str) for v in values):
            raise TypeError("not all strings")
        return struct.pack("<IQ", gt.STRING, len(values)) + b"".join(map(_text, values))
    form = _BY_NAME[element]
    numbers = np.asarray(values) if len(values) else np.empty(0, form.dtype)
    if numbers.ndim != 1 or numbers.dtype.kind not in "biuf":
        raise TypeError("not a list of numbers")
    stored = numbers.astype(form.dtype)
    if not np.array_equal(stored, numbers, equal_nan=True) and np.dtype(form.dtype).kind != "f":
        raise ValueError("not all fit")
    return struct.pack("<IQ", form.id, len(stored)) + stored.tobytes()


def _pieces(path: Path, out: TensorOut) -> Iterator[memoryview]:
    """The bytes of a tensor, piece by piece; GGUFError where they are not as many as its shape needs."""
    data = out.data() if callable(out.data) else out.data
    single = isinstance(data, (bytes, bytearray, memoryview, np.ndarray))
    chunks: Iterable[Any] = [data] if single else data
    found = 0
    for chunk in chunks:
        plain: Any = np.ascontiguousarray(chunk) if isinstance(chunk, np.ndarray) else chunk
        piece = memoryview(plain).cast("B")
        found += len(piece)
        if found > out.nbytes:
            break
        yield piece
    if found != out.nbytes:
        raise _length(path, out, found)


def _length(path: Path, out: TensorOut, found: int) -> GGUFError:
    many = "more bytes than that" if found > out.nbytes else f"{found} bytes"
    return bad(path, f"tensor {out.name!r}", many, f"{out.nbytes} for {out.shape} in {out.type}", _HINT)
