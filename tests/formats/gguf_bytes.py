"""Builds GGUF files byte by byte, right or wrong, for the reader's tests. Not for writing real models."""

from __future__ import annotations

import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


def u32(n: int) -> bytes:
    return struct.pack("<I", n)


def u64(n: int) -> bytes:
    return struct.pack("<Q", n)


def text(s: str | bytes) -> bytes:
    raw = s.encode() if isinstance(s, str) else s
    return u64(len(raw)) + raw


def pair(key: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(key) + u32(kind) + payload


def array(kind: int, n: int, payload: bytes = b"") -> bytes:
    return u32(kind) + u64(n) + payload


ARCH = pair("general.architecture", STRING, text("llama"))


def tensor(
    name: str | bytes = "t",
    dims: tuple[int, ...] = (32,),
    kind: int = 0,
    offset: int = 0,
    n_dims: int | None = None,
) -> bytes:
    head = text(name) + u32(len(dims) if n_dims is None else n_dims)
    return head + b"".join(u64(d) for d in dims) + u32(kind) + u64(offset)


def gguf(
    pairs: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = bytes(128),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_pairs: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A whole file: one architecture key and one F32 tensor [32] unless told otherwise."""
    pairs = [ARCH] if pairs is None else pairs
    tensors = [tensor()] if tensors is None else tensors
    head = magic + u32(version)
    head += u64(len(tensors) if n_tensors is None else n_tensors) + u64(
        len(pairs) if n_pairs is None else n_pairs
    )
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data
