"""The vocabulary keys of a GGUF file, read and checked once: tokens, types, scores, merges, special ids.

Not for: encoding or decoding (spm.py, bpe.py, tokenizer.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from flux_vk.errors import TokenizerError

PREFIX = "tokenizer.ggml."
CHAT_TEMPLATE = "tokenizer.chat_template"
MAX_TOKENS = 1 << 21
"""No published vocabulary has more than about 260,000 tokens."""

# Tokens that end a turn or a text under these names, whichever id the file calls "eos".
EOG_NAMES = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|return|>", "<|call|>",
    "<|endoftext|>", "<|end_of_text|>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<end_of_utterance>",
    "</s>", "<EOT>", "_<EOT>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip

# Pre-tokenizer names whose models put a beginning-of-sequence token first when the file does not say.
_BOS_BY_DEFAULT = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken"}

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How SentencePiece vocabularies write the token of one byte."""

Model = Literal["spm", "bpe"]


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class HasMetadata(Protocol):
    """What is needed of a GGUF file here: flux_vk.formats.gguf.GGUFFile is one."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Vocab:
    """A checked vocabulary: `scores` is empty for byte pairs, `merges` for SentencePiece; no type
    UNDEFINED.
    """

    model: Model
    pre: str
    tokens: list[str]
    types: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    merges: list[tuple[str, str]]
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    eog_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    strip_after: frozenset[int]
    """Special tokens that swallow the white space after them (Phi-3)."""

    def ids_of(self, *types: TokenType) -> list[int]:
        """Ids of all tokens of these types, ascending."""
        return [int(i) for i in np.flatnonzero(np.isin(self.types, types))]


def file_name(file: HasMetadata) -> str:
    """The file's name for messages."""
    return str(getattr(file, "path", "GGUF file"))


def read_vocab(file: HasMetadata) -> Vocab:
    """Read and check `tokenizer.ggml.*`. Raises TokenizerError naming file, key, found and expected."""
    return _Reader(file).read()


class _Reader:
    def __init__(self, file: HasMetadata) -> None:
        self.meta = file.metadata
        self.name = file_name(file)

    def fail(self, key: str, found: object, expected: str, hint: str = "convert the model again") -> NoReturn:
        raise TokenizerError(f"{self.name}: key {key!r}: found {found}, expected {expected}; {hint}")

    def read(self) -> Vocab:
        model = self.model()
        tokens = self.strings("tokens")
        if not tokens or len(tokens) > MAX_TOKENS:
            self.fail(PREFIX + "tokens", f"{len(tokens)} tokens", f"1 to {MAX_TOKENS}")
        n = len(tokens)
        pre = self.value("pre", str, "default")
        spm = model == "spm"
        bos = self.token("bos_token_id", n, 1 if spm else None)
        eos = self.token("eos_token_id", n, 2 if spm else None)
        unk = self.token("unknown_token_id", n, 0 if spm else None)
        types = self.types(tokens, (bos, eos), unk)
        for i in np.flatnonzero(types == TokenType.USER_DEFINED):
            if tokens[i] in EOG_NAMES:  # some converters say "user-defined", but text from outside must not end a turn
                types[i] = TokenType.CONTROL
        add_bos = self.value("add_bos_token", bool, spm or pre in _BOS_BY_DEFAULT)
        add_eos = self.value("add_eos_token", bool, False)
        return Vocab(
            model=model,
            pre=pre,
            tokens=tokens,
            types=types,
            scores=self.scores(n) if spm else np.zeros(0, np.float32),
            merges=[] if spm else self.merges(),
            bos_id=bos,
            eos_id=eos,
            unk_id=unk,
            eog_ids=self.eog(tokens, types, eos),
            add_bos=add_bos and bos is not None,
            add_eos=add_eos and eos is not None,
            add_space_prefix=self.value("add_space_prefix", bool, spm),
            strip_after=self.strip_after(tokens, types),
        )

    def model(self) -> Model:
        key = PREFIX + "model"
        known: dict[str, Model] = {"llama": "spm", "gpt2": "bpe"}
        name = self.value("model", str, None)
        if name not in known:
            self.fail(
                key,
                "nothing" if name is None else repr(name),
                "'llama' (SentencePiece) or 'gpt2' (byte pairs)",
                "the file has no vocabulary that can be used here",
            )
        return known[name]

    def value(self, key: str, kind: type[Any], default: Any) -> Any:
        got = self.meta.get(PREFIX + key, default)
        if got is not default and (not isinstance(got, kind) or (kind is int and isinstance(got, bool))):
            self.fail(PREFIX + key, f"{type(got).__name__} {str(got)[:40]!r}", kind.__name__)
        return got

    def token(self, key: str, n: int, default: int | None) -> int | None:
        got: int | None = self.value(key, int, None)
        if got is None:
            return default if default is not None and default < n else None
        if got == 0xFFFFFFFF or got == -1:  # how some converters write "none"
            return None
        if not 0 <= got < n:
            self.fail(PREFIX + key, f"token {got}", f"0 to {n - 1} (the file has {n} tokens)")
        return got

    def strings(self, key: str) -> list[str]:
        got = self.meta.get(PREFIX + key)
        if not isinstance(got, list) or (got and not isinstance(got[0], str)):
            found = "nothing" if got is None else type(got).__name__
            self.fail(PREFIX + key, found, "an array of strings")
        return got

    def merges(self) -> list[tuple[str, str]]:
        pairs = [tuple(merge.split(" ")) for merge in self.strings("merges")]
        for i, pair in enumerate(pairs):
            if len(pair) != 2 or not pair[0] or not pair[1]:
                found = " ".join(pair)[:40]
                self.fail(PREFIX + "merges", f"entry {i} {found!r}", "two parts with a space between them")
        return pairs  # type: ignore[return-value]  # the loop above has checked it

    def numbers(self, key: str, n: int, kinds: str) -> npt.NDArray[Any] | None:
        got = self.meta.get(PREFIX + key)
        if got is None:
            return None
        word = "integers" if kinds == "iu" else "floats"
        if not isinstance(got, np.ndarray) or got.dtype.kind not in kinds:
            found = got.dtype if isinstance(got, np.ndarray) else type(got).__name__
            self.fail(PREFIX + key, f"an array of {found}", f"an array of {word}")
        if got.shape != (n,):
            self.fail(PREFIX + key, f"{got.size} values", f"{n} values, one for each token")
        return got

    def scores(self, n: int) -> npt.NDArray[np.float32]:
        got = self.numbers("scores", n, "f")
        if got is None:
            self.fail(PREFIX + "scores", "nothing", f"{n} floats: a SentencePiece vocabulary merges by score")
        if not np.isfinite(got).all():
            where = int(np.flatnonzero(~np.isfinite(got))[0])
            self.fail(PREFIX + "scores", f"{got[where]} for token {where}", "finite numbers")
        return got.astype(np.float32)

    def types(self, tokens: list[str], special: tuple[int | None, ...], unk: int | None) -> npt.NDArray[np.int32]:
        got = self.numbers("token_type", len(tokens), "iu")
        if got is None:  # very old files: what can be told from texts and ids
            out: npt.NDArray[np.int32] = np.full(len(tokens), TokenType.NORMAL, np.int32)
            for i in special:
                if i is not None:
                    out[i] = TokenType.CONTROL
            if unk is not None:
                out[unk] = TokenType.UNKNOWN
                out[[i for i, token in enumerate(tokens) if BYTE_TOKEN.fullmatch(token)]] = TokenType.BYTE
            return out
        wrong = np.flatnonzero((got < 0) | (got > max(TokenType)))
        if wrong.size:
            at = int(wrong[0])
            self.fail(PREFIX + "token_type", f"{got[at]} for token {at}", f"0 to {int(max(TokenType))}")
        out = got.astype(np.int32)
        out[out == TokenType.UNDEFINED] = TokenType.NORMAL
        return out

    def eog(self, tokens: list[str], types: npt.NDArray[np.int32], eos: int | None) -> frozenset[int]:
        found = {eos} if eos is not None else set()
        for key in ("eot_token_id", "eom_token_id"):
            got = self.token(key, len(tokens), None)
            if got is not None:
                found.add(got)
        names: dict[str, int] = {}
        for i in np.flatnonzero((types == TokenType.CONTROL) | (types == TokenType.USER_DEFINED)):
            if tokens[i] in EOG_NAMES:
                names[tokens[i]] = int(i)
        if "<|return|>" in names and "<|call|>" in names:
            names.pop("<|end|>", None)  # gpt-oss: there "<|end|>" closes a message, and the turn goes on
        return frozenset(found | set(names.values()))

    def strip_after(self, tokens: list[str], types: npt.NDArray[np.int32]) -> frozenset[int]:
        """Phi-3's special tokens take the white space after them; the file says so only by its name."""
        name = str(self.meta.get("general.name", "")).lower()
        if "phi-3" not in name and "phi3" not in name:
            return frozenset()
        keep = {"<unk>", "<s>", "<|endoftext|>"}
        special = np.flatnonzero((types == TokenType.CONTROL) | (types == TokenType.USER_DEFINED))
        return frozenset(int(i) for i in special if tokens[i] not in keep)
