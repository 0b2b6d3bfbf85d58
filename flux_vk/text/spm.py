"""SentencePiece vocabularies (`tokenizer.ggml.model` = "llama"): plain text to ids through `sentencepiece`.

The library wants a serialized ModelProto; GGUF keeps its parts, so the few fields needed are written here
by hand (protobuf wire format). Not for: special tokens and the space in front (tokenizer.py).
"""

from __future__ import annotations

import struct

from flux_vk.errors import TokenizerError
from flux_vk.text.vocab import BYTE_TOKEN, TokenType, Vocab

SPACE = "\u2581"
"""Stands for a space inside the vocabulary."""

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # ModelProto.SentencePiece.Type


def byte_of(token: str) -> int | None:
    """The byte that a token of the form <0x0A> stands for, else None."""
    match = BYTE_TOKEN.fullmatch(token)
    return int(match[1], 16) if match else None


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _length_delimited(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _kinds(vocab: Vocab) -> list[tuple[bytes, int]]:
    """Text and SentencePiece type of every token.

    Only normal and byte tokens take part; all others get a name that no text can match. Of tokens with the
    same text the last one counts, as in llama.cpp.
    """
    last = {token: i for i, token in enumerate(vocab.tokens)}
    byte_ids = {byte_of(vocab.tokens[i]): i for i in vocab.ids_of(TokenType.BYTE)}
    byte_ids.pop(None, None)
    all_bytes = set(byte_ids.values()) if len(byte_ids) == 256 else set()
    out = []
    types = vocab.types.tolist()
    for i, token in enumerate(vocab.tokens):
        if i in all_bytes:
            out.append((b"<0x%02X>" % int(token[3:5], 16), _BYTE))
        elif types[i] == TokenType.NORMAL and token and last[token] == i and "\0" not in token:
            out.append((token.encode("utf-8", "surrogateescape"), _NORMAL))
        else:
            out.append((b"\x01%d" % i, _CONTROL))
    return out


def model_proto(vocab: Vocab) -> bytes:
    """A serialized SentencePiece model: BPE by score, no normalisation, byte fallback if all 256 bytes are
    there.

    One more piece than the vocabulary has: the last one is the library's "unknown".
    """
    kinds = _kinds(vocab)
    has_bytes = any(kind == _BYTE for _, kind in kinds)
    parts = []
    scores = vocab.scores.tolist()
    unknown = (b"\x01unknown", _UNKNOWN)
    for (text, kind), score in zip([*kinds, unknown], [*scores, 0.0], strict=True):
        piece = _length_delimited(1, text) + b"\x15" + struct.pack("<f", score) + _number(3, kind)
        parts.append(_length_delimited(1, piece))
    trainer = _number(3, 2) + _number(4, len(kinds) + 1) + _number(35, int(has_bytes))
    normalizer = _length_delimited(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)
    return b"".join([*parts, _length_delimited(2, trainer), _length_delimited(3, normalizer)])


class SentencePieceEncoder:
    """Encodes text without special tokens. What the vocabulary cannot spell becomes its unknown token."""

    def __init__(self, vocab: Vocab, file: str) -> None:
        """Raises TokenizerError if the library refuses the vocabulary."""
        import sentencepiece  # only vocabularies of this kind pay for it

        self._unknown = len(vocab.tokens)
        self._unk_id = vocab.unk_id
        try:
            self._library = sentencepiece.SentencePieceProcessor(model_proto=model_proto(vocab))
        except Exception as error:
            raise TokenizerError(
                f"{file}: key 'tokenizer.ggml.tokens': the SentencePiece library refuses the vocabulary "
                f"({error}); convert the model again"
            ) from error

    def encode(self, text: str) -> list[int]:
        """Ids of `text` (valid Unicode: no lone surrogates)."""
        ids: list[int] = self._library.encode(text, out_type=int)
        if self._unknown not in ids:
            return ids
        unknown = [] if self._unk_id is None else [self._unk_id]
        return [out for i in ids for out in (unknown if i == self._unknown else [i])]
