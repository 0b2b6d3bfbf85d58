"""Opens GGUF models: metadata, tensor records, raw bytes from the memory map; follows split files.

Not for writing GGUF, and not for what the metadata means: text, models and adapters read that for themselves.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from flux_vk.errors import GGUFError
from flux_vk.formats import split
from flux_vk.formats.gguf_reader import Header, read_header
from flux_vk.formats.gguf_types import BROKEN, GGUFValue, TensorInfo, bad

__all__ = ["GGUFError", "GGUFFile", "GGUFValue", "TensorInfo", "open_gguf"]

T = TypeVar("T")
D = TypeVar("D")


def open_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Opens a GGUF file; any part of a split model (`NAME-00001-of-00004.gguf`) opens the whole model.

    Only the header is read; tensor data stays in the file until `raw` is used. Raises GGUFError.
    """
    first = Path(path)
    parts = [_Part(first, 0)]
    try:
        count = split.count(first, parts[0].header)
        if count > 1:
            names = split.siblings(first, count)
            own = split.number(first, parts[0].header, count)
            opened = parts.pop()
            opened.close()
            for i, name in enumerate(names):
                parts.append(_Part(name, i))
                split.check(name, parts[i].header, i, count)
            split.check_total(first, names[own], [p.header for p in parts])
        return GGUFFile(first, parts)
    except BaseException:
        for part in parts:
            part.close()
        raise


class _Part:
    """One file on disk: its memory map and its header."""

    def __init__(self, path: Path, index: int) -> None:
        self.path = path
        self.map = _map(path)
        try:
            self.header: Header = read_header(path, self.map, index)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        try:
            self.map.close()
        except BufferError:
            pass  # arrays from raw() still use the map; it goes with the last of them


def _map(path: Path) -> mmap.mmap:
    """A read-only map of the whole file. What is not a regular file is not opened (a pipe would hang)."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise bad(path, "file", kind, "a GGUF file", "give the path of the .gguf file itself")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise bad(path, "file", f"{size} bytes", "at least the 24 bytes of a GGUF header", BROKEN)
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if isinstance(error, GGUFError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        absent = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR)
        hint = "check the path" if absent else "check its permissions and the memory limits"
        raise bad(path, "file", f"an error on opening it ({reason})", "a readable GGUF file", hint) from None


class GGUFFile:
    """An open GGUF model. Use it as a context manager, or call `close`.

    path: the file that was opened. parts: all files of the model, in order. version, alignment: of the first.
    metadata: key -> int, float, bool, str, list[str] (string arrays) or a read-only NumPy array (numbers).
        Bytes of a string that are not UTF-8 appear as surrogate escapes: the exact bytes of the file are
        `s.encode("utf-8", "surrogateescape")`.
    types: key -> its GGUF type in words, "u32", "str", "array[f32]" ...
    tensors: name -> TensorInfo, in file order.
    """

    def __init__(self, path: Path, parts: list[_Part]) -> None:
        first = parts[0].header
        self._parts = parts
        self._closed = False
        self.path = path
        self.parts: tuple[Path, ...] = tuple(p.path for p in parts)
        self.version = first.version
        self.alignment = first.alignment
        self.metadata: dict[str, GGUFValue] = first.metadata
        self.types: dict[str, str] = first.types
        self.tensors: dict[str, TensorInfo] = {}
        for part in parts:
            self.tensors.update(part.header.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, without headers and padding."""
        return sum(t.nbytes for t in self.tensors.values())

    def tensor(self, name: str) -> TensorInfo:
        """The record of a tensor; GGUFError if the file has none of that name."""
        found = self.tensors.get(name)
        if found is None:
            raise bad(
                self.path, f"tensor {name!r}", "no such tensor", f"it among the {len(self.tensors)} tensors",
                "the model is incomplete or of another architecture",
            )  # fmt: skip
        return found

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The stored bytes of a tensor, uint8 [nbytes]: a read-only view of the memory map, no copy."""
        info = self.tensor(name)
        self._check_open()
        source = self._parts[info.part].map
        return np.frombuffer(source, dtype=np.uint8, count=info.nbytes, offset=info.offset)

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Gives the pages of a tensor's bytes start..stop back; reading them again reads the file again."""
        self._advise("MADV_DONTNEED", name, start, stop)

    def prefetch(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Asks the system to begin reading a tensor's bytes start..stop into its file cache."""
        self._advise("MADV_WILLNEED", name, start, stop)

    def _advise(self, advice: str, name: str, start: int, stop: int | None) -> None:
        info = self.tensor(name)
        self._check_open()
        if hasattr(mmap, advice):
            first, last = info.offset + start, info.offset + (info.nbytes if stop is None else stop)
            page = first // mmap.PAGESIZE * mmap.PAGESIZE
            self._parts[info.part].map.madvise(getattr(mmap, advice), page, last - page)

    @overload
    def get(self, key: str, kind: type[T]) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: EllipsisType) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: D) -> T | D: ...
    def get(self, key: str, kind: type[Any], default: Any = ...) -> Any:
        """The value of `key`, which must be of Python type `kind`; if missing, `default` where one is given.

        kind: int, float (an integer is taken too), bool, str, list (of str) or np.ndarray (of numbers).
        Raises GGUFError naming file and key if a required key is missing or the type is another.
        """
        if key not in self.metadata:
            if default is not ...:
                return default
            raise bad(
                self.path, f"key {key!r}", "no such key", f"a value of type {_word(kind)}",
                "the file lacks what is needed here: convert the model again",
            )  # fmt: skip
        value = self.metadata[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise bad(
                self.path, f"key {key!r}", f"type {self.types.get(key, type(value).__name__)}",
                f"type {_word(kind)}", "convert the model again",
            )  # fmt: skip
        return value

    def _check_open(self) -> None:
        if self._closed:
            raise bad(self.path, "file", "it closed", "it open", "open it again before reading tensors")

    def close(self) -> None:
        """Closes the files. Arrays that `raw` gave stay valid; the map goes with the last of them."""
        self._closed = True
        for part in self._parts:
            part.close()

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r}, {len(self.metadata)} keys, {len(self.tensors)} tensors)"


def _word(kind: type[Any]) -> str:
    words = {int: "integer", float: "float", bool: "bool", str: "string", list: "array of strings"}
    return words.get(kind, "array of numbers" if kind is np.ndarray else kind.__name__)
