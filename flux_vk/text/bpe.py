"""Byte-pair vocabularies (`tokenizer.ggml.model` = "gpt2"): plain text to ids through `tokenizers`.

Not for: special tokens (tokenizer.py cuts them out first).
"""

from __future__ import annotations

from flux_vk.errors import TokenizerError
from flux_vk.text.pretokenizers import IGNORE_MERGES, patterns
from flux_vk.text.vocab import TokenType, Vocab


def byte_letters() -> list[str]:
    """The letter that stands for each byte 0..255 in byte-level vocabularies (GPT-2's table).

    Printable Latin-1 bytes stand for themselves; the others take the letters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 0x100
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return letters


_BYTE_OF = {letter: byte for byte, letter in enumerate(byte_letters())}


def token_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for; letters outside the table stand for themselves in
    UTF-8.
    """
    try:
        return bytes([_BYTE_OF[letter] for letter in token])
    except KeyError:
        return b"".join(
            bytes([_BYTE_OF[letter]]) if letter in _BYTE_OF else letter.encode("utf-8", "surrogateescape")
            for letter in token
        )


class BytePairEncoder:
    """Encodes text without special tokens. Bytes for which the vocabulary has no token are left out."""

    def __init__(self, vocab: Vocab, file: str) -> None:
        """Raises TokenizerError for an unknown `tokenizer.ggml.pre` or merges that the library refuses."""
        from tokenizers import Regex, models, pre_tokenizers  # only vocabularies of this kind pay for it
        from tokenizers import Tokenizer as Library

        cuts = patterns(vocab.pre, file)
        words = {token: i for i, token in enumerate(vocab.tokens)}
        # Special tokens are not text: only their own ids, cut out beforehand, may stand for them.
        for i in vocab.ids_of(TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED, TokenType.UNKNOWN):
            if words.get(vocab.tokens[i]) == i:
                del words[vocab.tokens[i]]
        merges = vocab.merges
        ignore_merges = vocab.pre in IGNORE_MERGES
        try:
            model = models.BPE(words, merges, ignore_merges=ignore_merges)
        except Exception:  # what the library raises if a part or the result is no token: drop such merges
            words = {token: i for token, i in words.items() if _is_text(token)}
            merges = list(dict.fromkeys(m for m in merges if {*m, m[0] + m[1]} <= words.keys()))
            try:
                model = models.BPE(words, merges, ignore_merges=ignore_merges)
            except Exception as error:
                raise TokenizerError(
                    f"{file}: key 'tokenizer.ggml.merges': {error}; convert the model again"
                ) from error
        self._library = Library(model)
        self._library.pre_tokenizer = pre_tokenizers.Sequence(
            [
                *(pre_tokenizers.Split(Regex(cut), "isolated") for cut in cuts),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text` (valid Unicode: no lone surrogates)."""
        ids: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return ids


def _is_text(token: str) -> bool:
    """Whether the token came from valid UTF-8."""
    try:
        token.encode()
    except UnicodeEncodeError:
        return False
    return True
