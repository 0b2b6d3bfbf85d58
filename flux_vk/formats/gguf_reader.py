"""Reads the header of one GGUF file: metadata and tensor records, every number checked before it is used.

Not for: tensor data, split models and typed access, which are `gguf.py`.
Format: the GGUF specification of ggml (docs/gguf.md), versions 2 and 3, little-endian.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flux_vk.errors import GGUFError
from flux_vk.formats import blocks
from flux_vk.formats import gguf_types as gt
from flux_vk.formats.gguf_types import GGUFValue, TensorInfo, bad

_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from
_MIN_KEY_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class Header:
    """What the front of one file says. `types` has each key's GGUF type in words, "u32" or "array[f32]"."""

    version: int
    alignment: int
    metadata: dict[str, GGUFValue]
    types: dict[str, str]
    tensors: dict[str, TensorInfo]
    data_offset: int


def read_header(path: Path, data: mmap.mmap | bytes, part: int = 0) -> Header:
    """Parses and checks the header of the mapped file `data`; GGUFError on anything that is not right.

    `path` is for messages; `part` is stored in each TensorInfo.
    """
    return _Reader(path, data, part).read()


class _Reader:
    """A cursor over the mapped file that refuses to step past its end."""

    def __init__(self, path: Path, data: mmap.mmap | bytes, part: int) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.pos = 0
        self.part = part
        self.metadata: dict[str, GGUFValue] = {}
        self.types: dict[str, str] = {}

    def bad(self, what: str, found: object, expected: object, hint: str) -> GGUFError:
        return bad(self.path, what, found, expected, hint)

    # --- small steps ---

    def need(self, n: int, what: str) -> None:
        """GGUFError unless `n` more bytes are there for `what`."""
        if n > self.size - self.pos:
            raise self.bad(
                what, f"the end of the file ({self.size - self.pos} bytes left at byte {self.pos})",
                f"{n} more bytes", gt.TRUNCATED,
            )  # fmt: skip

    def u32(self, what: str) -> int:
        self.need(4, what)
        value: int = _U32(self.data, self.pos)[0]
        self.pos += 4
        return value

    def u64(self, what: str) -> int:
        self.need(8, what)
        value: int = _U64(self.data, self.pos)[0]
        self.pos += 8
        return value

    def count(self, what: str, limit: int, min_bytes: int) -> int:
        """A number of things of at least `min_bytes` each, which the rest of the file can hold."""
        n = self.u64(what)
        fits = (self.size - self.pos) // min_bytes
        if n > min(limit, fits):
            raise self.bad(
                what, n, f"at most {min(limit, fits)} in a file of {self.size} bytes", gt.TRUNCATED
            )
        return n

    def blob(self, what: str, limit: int) -> bytes:
        """A length and that many bytes."""
        n = self.u64(f"length of {what}")
        if n > limit:
            raise self.bad(f"length of {what}", f"{n} bytes", f"at most {limit}", gt.BROKEN)
        self.need(n, what)
        raw = self.data[self.pos : self.pos + n]
        self.pos += n
        return raw

    def identifier(self, what: str, limit: int) -> str:
        """A key or a tensor name: UTF-8, not empty."""
        raw = self.blob(what, limit)
        if not raw:
            raise self.bad(what, "an empty name", f"1 to {limit} bytes", gt.BROKEN)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.bad(what, f"bytes that are not UTF-8 ({raw[:40]!r})", "UTF-8", gt.BROKEN) from None

    # --- the file ---

    def read(self) -> Header:
        version = self.preamble()
        n_tensors = self.count("number of tensors", gt.MAX_TENSORS, _MIN_TENSOR_BYTES)
        n_keys = self.count("number of metadata keys", gt.MAX_KEYS, _MIN_KEY_BYTES)
        for i in range(n_keys):
            self.key_value(i)
        alignment = self.alignment()
        found = self.tensor_infos(n_tensors, alignment)
        data_offset = -(-self.pos // alignment) * alignment
        tensors = {t.name: self.placed(t, data_offset) for t in found}
        self.no_overlap(tensors)
        return Header(version, alignment, self.metadata, self.types, tensors, data_offset)

    def preamble(self) -> int:
        """Checks magic, byte order and version; returns the version."""
        magic = self.data[:4]
        if magic == gt.MAGIC[::-1]:
            raise self.big_endian("the magic is reversed")
        if magic != gt.MAGIC:
            raise self.bad("magic", repr(bytes(magic)), repr(gt.MAGIC), "this is not a GGUF file")
        self.pos = 4
        version = self.u32("version")
        if version and version & 0xFFFF == 0:
            raise self.big_endian(f"version {version:#010x}")
        if version not in gt.VERSIONS:
            hint = {0: gt.BROKEN, 1: gt.REWRITE}.get(version, "update flux_vk, or convert the model again")
            raise self.bad("GGUF version", version, "2 or 3", hint)
        return version

    def big_endian(self, sign: str) -> GGUFError:
        return self.bad(
            "byte order", f"a big-endian file ({sign})", "little-endian",
            "convert it with gguf-convert-endian",
        )  # fmt: skip

    def key_value(self, index: int) -> None:
        key = self.identifier(f"metadata key number {index}", gt.MAX_KEY_BYTES)
        what = f"key {key!r}"
        if key in self.metadata:
            raise self.bad(what, "the key twice", "once", gt.REWRITE)
        kind = self.u32(f"type of {what}")
        if kind == gt.ARRAY:
            self.metadata[key], self.types[key] = self.array(what)
        elif kind == gt.STRING:
            self.metadata[key] = self.blob(what, gt.MAX_STRING_BYTES).decode("utf-8", "surrogateescape")
            self.types[key] = "str"
        else:
            self.metadata[key], self.types[key] = self.scalar(kind, what)

    def value_type(self, kind: int, what: str) -> gt.ValueType:
        found = gt.SCALARS.get(kind)
        if found is None:
            raise self.bad(what, f"value type {kind}", "a value type from 0 to 12", gt.BROKEN)
        return found

    def scalar(self, kind: int, what: str) -> tuple[int | float | bool, str]:
        form = self.value_type(kind, what)
        self.need(form.size, what)
        value: int | float = struct.unpack_from(form.code, self.data, self.pos)[0]
        self.pos += form.size
        if form.id == gt.BOOL:
            if value not in (0, 1):
                raise self.bad(what, f"the byte {value} as a bool", "0 or 1", gt.BROKEN)
            return bool(value), form.name
        return value, form.name

    def array(self, what: str) -> tuple[GGUFValue, str]:
        kind = self.u32(f"element type of {what}")
        if kind == gt.ARRAY:
            raise self.bad(what, "an array of arrays", "an array of numbers or strings", gt.REWRITE)
        if kind == gt.STRING:
            return self.strings(self.count(f"length of {what}", gt.MAX_ARRAY_STRINGS, 8), what), "array[str]"
        form = self.value_type(kind, what)
        n = self.count(f"length of {what}", gt.MAX_ARRAY_BYTES // form.size, form.size)
        raw = self.data[self.pos : self.pos + n * form.size]
        self.pos += n * form.size
        values = np.frombuffer(raw, dtype=form.dtype)
        if form.id == gt.BOOL:
            if n and values.max() > 1:
                raise self.bad(what, f"the byte {values.max()} as a bool", "0 or 1", gt.BROKEN)
            values = values.view(np.bool_)
        elif not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        values.flags.writeable = False
        return values, f"array[{form.name}]"

    def strings(self, n: int, what: str) -> list[str]:
        """`n` strings. A vocabulary has hundreds of thousands, so this loop is kept tight."""
        data, size, pos, unpack = self.data, self.size, self.pos, _U64
        out: list[str] = []
        add = out.append
        for i in range(n):
            start = pos + 8
            if start > size:
                self.pos = pos
                self.need(8, f"string {i} of {what}")
            pos = start + unpack(data, pos)[0]
            if pos > size:
                self.pos = start
                self.need(pos - start, f"string {i} of {what}")
            add(str(data[start:pos], "utf-8", "surrogateescape"))
        self.pos = pos
        return out

    def alignment(self) -> int:
        value = self.metadata.get("general.alignment", gt.DEFAULT_ALIGNMENT)
        kind = self.types.get("general.alignment", "u32")
        if kind != "u32" or not isinstance(value, int):
            raise self.bad("key 'general.alignment'", f"type {kind}", "type u32", gt.REWRITE)
        if value & (value - 1) or not gt.MIN_ALIGNMENT <= value <= gt.MAX_ALIGNMENT:
            raise self.bad(
                "key 'general.alignment'", value,
                f"a power of two from {gt.MIN_ALIGNMENT} to {gt.MAX_ALIGNMENT}", gt.REWRITE,
            )  # fmt: skip
        return value

    # --- tensors ---

    def tensor_infos(self, n: int, alignment: int) -> list[TensorInfo]:
        """The tensor records in file order; their `offset` is still relative to the data section."""
        seen: set[str] = set()
        out = []
        for i in range(n):
            info = self.tensor_info(i, alignment)
            if info.name in seen:
                raise self.bad(f"tensor {info.name!r}", "the name twice", "once", gt.REWRITE)
            seen.add(info.name)
            out.append(info)
        return out

    def tensor_info(self, index: int, alignment: int) -> TensorInfo:
        name = self.identifier(f"name of tensor number {index}", gt.MAX_NAME_BYTES)
        what = f"tensor {name!r}"
        n_dims = self.u32(f"number of dimensions of {what}")
        if not 1 <= n_dims <= gt.MAX_DIMS:
            raise self.bad(what, f"{n_dims} dimensions", f"1 to {gt.MAX_DIMS}", gt.BROKEN)
        dims = [self.u64(f"dimensions of {what}") for _ in range(n_dims)]
        if min(dims) < 1:
            raise self.bad(what, f"a dimension of 0 in {dims}", "all dimensions >= 1", gt.BROKEN)
        n_elements = math.prod(dims)
        if n_elements > gt.MAX_ELEMENTS:
            raise self.bad(what, f"dimensions {dims}", f"at most {gt.MAX_ELEMENTS} elements", gt.BROKEN)
        type_id = self.u32(f"type of {what}")
        kind = blocks.BY_ID.get(type_id)
        if kind is None:
            raise self.unknown_type(what, type_id)
        if dims[0] % kind.weights:
            raise self.bad(
                what, f"rows of {dims[0]} in type {kind.name}", f"a multiple of {kind.weights}", gt.REWRITE
            )
        offset = self.u64(f"offset of {what}")
        if offset % alignment:
            raise self.bad(what, f"offset {offset}", f"a multiple of the alignment {alignment}", gt.BROKEN)
        nbytes = n_elements // kind.weights * kind.nbytes
        return TensorInfo(name, kind.name, tuple(reversed(dims)), nbytes, offset, n_elements, self.part)

    def unknown_type(self, what: str, type_id: int) -> GGUFError:
        removed = blocks.REMOVED.get(type_id)
        found = f"tensor type {type_id}" + (f" ({removed}, removed from ggml)" if removed else "")
        hint = "quantise the model again" if removed else "update flux_vk, or use another quantisation"
        return self.bad(what, found, f"a known ggml type (0 to {max(blocks.BY_ID)})", hint)

    def placed(self, info: TensorInfo, data_offset: int) -> TensorInfo:
        """The record with its absolute offset, once its data is known to lie inside the file."""
        start = data_offset + info.offset
        if start + info.nbytes > self.size:
            raise self.bad(
                f"tensor {info.name!r}", f"data up to byte {start + info.nbytes}",
                f"data inside the file of {self.size} bytes", gt.TRUNCATED,
            )  # fmt: skip
        return TensorInfo(info.name, info.type, info.shape, info.nbytes, start, info.n_elements, info.part)

    def no_overlap(self, tensors: dict[str, TensorInfo]) -> None:
        ordered = sorted(tensors.values(), key=lambda t: t.offset)
        for before, after in itertools.pairwise(ordered):
            if after.offset < before.offset + before.nbytes:
                raise self.bad(
                    f"tensor {after.name!r}", f"data from byte {after.offset}, inside {before.name!r}",
                    f"byte {before.offset + before.nbytes} or later", gt.BROKEN,
                )  # fmt: skip
