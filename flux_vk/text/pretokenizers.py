"""How byte-pair models cut text into words before merging, by the name in `tokenizer.ggml.pre`.

Each entry is the published pattern of a model family (its tokenizer.json); the patterns of a list are
applied one after the other, each inside the pieces that the ones before it left. Not for: the merging
itself (bpe.py).
"""

from __future__ import annotations

from flux_vk.errors import TokenizerError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

# GPT-2: words, numbers and runs of other characters, each with at most one space in front.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _cl100k(digits: str) -> str:
    """The GPT-4 family's pattern; `digits` is how many figures stay together."""
    words = rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    return rf"{_CONTRACTIONS}|{words}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


def _cased(ending: str, digits: str) -> str:
    """The GPT-4o family's pattern: a word ends where a small letter is followed by a capital one."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    front = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{front}{upper}*{lower}+{ending}|{front}{upper}+{lower}*{ending}|\p{{N}}{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


# DeepSeek LLM takes runs of cased letters, as far as the Unicode tables of its makers knew them: without
# Georgian and Armenian small letters, late Latin and Cyrillic extensions, mathematical alphabets and some
# rare scripts.
_LATE_LETTERS = (
    r"\x{560}-\x{588}\x{10C7}-\x{10FF}\x{1C80}-\x{1C8F}\x{2D00}-\x{2D2D}\x{A790}-\x{A7FF}\x{AB30}-\x{AB6F}"
    r"\x{10570}-\x{105BF}\x{16E40}-\x{16E7F}\x{1D400}-\x{1D7FF}\x{1DF00}-\x{1DFFF}"
)
_DEEPSEEK_LETTERS = rf"\s?(?:(?![{_LATE_LETTERS}])[\p{{Lu}}\p{{Ll}}\p{{Lt}}])+"
# ASCII and full-width signs; its range of ASCII goes on from ":" through the letters.
_DEEPSEEK_SIGNS = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+"
_DEEPSEEK_CJK = r"[\x{800}-\x{9FA5}\x{AC00}-\x{D7FF}]+"

_DIGIT_THEN_GPT2 = (r"\p{N}", _GPT2)
_LLAMA3 = (_cl100k("{1,3}"),)
_QWEN2 = (_cl100k(""),)
_PLAIN_GPT2 = (_GPT2,)

PATTERNS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "gpt-2": _PLAIN_GPT2,
    "phi-2": _PLAIN_GPT2,
    "mpt": _PLAIN_GPT2,
    "olmo": _PLAIN_GPT2,
    "jais": _PLAIN_GPT2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "pixtral": _LLAMA3,
    "dbrx": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "glm4": _LLAMA3,
    "chatglm-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "stablelm2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": (_cased("", ""),),
    "gpt-4o": (_cased(_CONTRACTIONS + "?", "{1,3}"),),
    "llama4": (_cased(_CONTRACTIONS + "?", "{1,3}"),),
    "deepseek-llm": (r"[\r\n]", _DEEPSEEK_LETTERS, _DEEPSEEK_SIGNS, r"\s+$", _DEEPSEEK_CJK, r"\p{N}+"),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"),
    "starcoder": _DIGIT_THEN_GPT2,
    "refact": _DIGIT_THEN_GPT2,
    "command-r": _DIGIT_THEN_GPT2,
    "smollm": _DIGIT_THEN_GPT2,
    "codeshell": _DIGIT_THEN_GPT2,
    "exaone": _DIGIT_THEN_GPT2,
    "minerva-7b": _DIGIT_THEN_GPT2,
}

# Here a word that is a token as it stands is taken whole, whatever the merges would make of it.
IGNORE_MERGES = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken"})


def patterns(pre: str, file: str) -> tuple[str, ...]:
    """The patterns of `pre`. Raises TokenizerError naming it and those known."""
    if pre not in PATTERNS:
        known = ", ".join(sorted(PATTERNS))
        raise TokenizerError(
            f"{file}: key 'tokenizer.ggml.pre': found {pre!r}, expected one of {known}; "
            "this model cuts text into words in a way that is not known here"
        )
    return PATTERNS[pre]
