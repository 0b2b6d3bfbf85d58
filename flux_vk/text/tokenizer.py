"""The tokenizer of a GGUF file: text to ids and back, with special tokens, as llama.cpp does it.

Not for: chat templates (template.py) and the two algorithms themselves (spm.py, bpe.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from operator import index

from flux_vk.errors import TokenizerError
from flux_vk.text import bpe, spm
from flux_vk.text.stream import StreamDecoder
from flux_vk.text.vocab import HasMetadata, TokenType, Vocab, file_name, read_vocab

_C_SPACES = " \t\n\v\f\r"


class Tokenizer:
    """Encodes and decodes text. Immutable; may be shared by threads.

    bos_id, eos_id, unk_id: token id or None. eog_ids: all ids that end a text or a turn. add_bos, add_eos:
    whether `encode` adds them by default. vocab_size: number of tokens.
    """

    def __init__(self, vocab: Vocab, name: str = "vocabulary") -> None:
        """Raises TokenizerError for a vocabulary that cannot be used; `name` appears in messages."""
        self.vocab = vocab
        self.name = name
        self.bos_id = vocab.bos_id
        self.eos_id = vocab.eos_id
        self.unk_id = vocab.unk_id
        self.eog_ids = vocab.eog_ids
        self.add_bos = vocab.add_bos
        self.add_eos = vocab.add_eos
        self.vocab_size = len(vocab.tokens)
        self._spm = vocab.model == "spm"
        encoder = spm.SentencePieceEncoder if self._spm else bpe.BytePairEncoder
        self._encode_text = encoder(vocab, name).encode
        self._types: list[int] = vocab.types.tolist()
        self._special = self._special_texts((TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED))
        self._user_defined = self._special_texts((TokenType.USER_DEFINED,))
        self._pieces: dict[int, bytes] = {}

    @classmethod
    def from_gguf(cls, file: str | os.PathLike[str] | HasMetadata) -> Tokenizer:
        """The tokenizer of a GGUF file, given its path or the file opened.

        Raises GGUFError for a broken file, TokenizerError for missing keys, wrong types or lengths, ids out
        of range, a vocabulary of another kind or an unknown pre-tokenizer.
        """
        if isinstance(file, (str, os.PathLike)):
            from flux_vk.formats.gguf import open_gguf

            with open_gguf(file) as opened:
                return cls(read_vocab(opened), file_name(opened))
        return cls(read_vocab(file), file_name(file))

    # --- text to ids ---

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of `text`.

        add_special: put BOS in front and EOS behind where the file asks for it. parse_special: the names of
        control tokens in the text ("<|im_end|>") become these tokens; otherwise they are spelled out like
        any other text, so text from outside cannot forge them. User-defined tokens are always taken. Lone
        surrogates become U+FFFD.
        """
        ids: list[int] = []
        if add_special and self.add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        after_special = True
        for part in self._cut(_valid(text), self._special if parse_special else self._user_defined):
            if isinstance(part, int):
                ids.append(part)
                after_special = True
            else:
                space = self.vocab.add_space_prefix and after_special and self._spm
                ids += self._encode_text(" " + part if space else part)
                after_special = False
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def encode_inside(self, text: str, parse_special: bool = False) -> list[int]:
        """Ids of `text` as it stands in the middle of a text: nothing is put in front of it. parse_special: as in
        `encode`.
        """
        parts = self._cut(_valid(text), self._special if parse_special else self._user_defined)
        return [i for part in parts for i in ([part] if isinstance(part, int) else self._encode_text(part))]

    def _special_texts(self, types: tuple[TokenType, ...]) -> list[tuple[str, int]]:
        """(text, id) of the tokens of these types, longest text first."""
        found = [(self._literal(i), i) for i in self.vocab.ids_of(*types)]
        return sorted((pair for pair in found if pair[0]), key=lambda pair: -len(pair[0]))

    def _literal(self, token_id: int) -> str:
        """A special token's text as it stands in a text."""
        text = self.vocab.tokens[token_id]
        # Gemma has user-defined runs of spaces; some converters leave them in SentencePiece's spelling.
        return text.replace(spm.SPACE, " ") if self._spm and text.strip(spm.SPACE) == "" else text

    def _cut(self, text: str, special: list[tuple[str, int]]) -> list[str | int]:
        """`text` in parts: ids of special tokens and the non-empty texts between. A longer token goes
        before a shorter one wherever they stand.
        """
        parts: list[str | int] = [text] if text else []
        for name, token_id in special:
            if name not in text:
                continue
            strip = token_id in self.vocab.strip_after
            cut: list[str | int] = []
            for part in parts:
                if isinstance(part, int) or name not in part:
                    cut.append(part)
                    continue
                first, *rest = part.split(name)
                cut.append(first)
                for piece in rest:
                    cut += [token_id, piece.lstrip(_C_SPACES) if strip else piece]
            parts = [part for part in cut if part != ""]
        return parts

    # --- ids to text ---

    def piece(self, token_id: int) -> bytes:
        """The bytes of one token; a special token's are its name. Raises TokenizerError for an unknown id."""
        i = index(token_id)
        if not 0 <= i < self.vocab_size:
            raise TokenizerError(
                f"{self.name}: found token id {i}, expected 0 to {self.vocab_size - 1}; "
                "these ids come from another vocabulary"
            )
        piece = self._pieces.get(i)
        if piece is None:
            piece = self._pieces[i] = self._bytes(i)
        return piece

    def _bytes(self, i: int) -> bytes:
        token, kind = self.vocab.tokens[i], self._types[i]
        if kind == TokenType.NORMAL:
            return _spm_bytes(token) if self._spm else bpe.token_bytes(token)
        if kind == TokenType.BYTE and (byte := spm.byte_of(token)) is not None:
            return bytes([byte])
        return self._literal(i).encode("utf-8", "surrogateescape")

    def rendered(self, token_id: int, special: bool = False) -> bytes:
        """The bytes that `decode` writes for a token: none for control, unknown and unused ones unless
        `special`.
        """
        piece = self.piece(token_id)
        hidden = self._types[token_id] in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED)
        return b"" if hidden and not special else piece

    def leading_space(self, token_id: int) -> bool:
        """Whether this token, standing first, begins with the space that `encode` put before the text."""
        return (
            self.vocab.add_space_prefix
            and self._types[token_id] in (TokenType.NORMAL, TokenType.BYTE)
            and self.piece(token_id).startswith(b" ")
        )

    def stream(self, special: bool = False, after: Iterable[int] = (), first_space: bool = False) -> StreamDecoder:
        """A decoder for ids that arrive one by one; see StreamDecoder. For text that continues a prompt
        give the prompt's ids as `after`.
        """
        return StreamDecoder(self, special, after, first_space)

    def decode(self, ids: Iterable[int], special: bool = False, after: Iterable[int] = ()) -> str:
        """The text of `ids`; bytes that are no valid UTF-8 become U+FFFD.

        special: write control tokens by name instead of leaving them out. after: ids in front of these;
        without any that write text, the space that starts a SentencePiece text is removed.
        """
        stream = self.stream(special, after)
        return "".join([*map(stream.push, ids), stream.flush()])

    # --- tokens by name ---

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a control token (BOS, end of turn ...)."""
        return 0 <= token_id < self.vocab_size and self._types[token_id] == TokenType.CONTROL

    def special_id(self, name: str) -> int | None:
        """The id of the special token with this text, or None."""
        return next((i for text, i in self._special if text == name), None)

    def __repr__(self) -> str:
        return f"<Tokenizer {self.vocab.model} {self.vocab.pre} of {self.vocab_size} tokens, {self.name}>"


def _spm_bytes(token: str) -> bytes:
    return token.replace(spm.SPACE, " ").encode("utf-8", "surrogateescape")


def _valid(text: str) -> str:
    """`text` without lone surrogates, which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
