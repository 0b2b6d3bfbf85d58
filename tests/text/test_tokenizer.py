"""Tokenizers over tiny vocabularies made here: special tokens, round trips, streaming, refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.errors import GGUFError, TokenizerError
from flux_vk.text import Tokenizer
from flux_vk.text.pretokenizers import PATTERNS
from tests.text.vocabs import bpe_keys, spm_keys, write_gguf


def made(keys: dict[str, Any]) -> Tokenizer:
    """A tokenizer from keys as the reader gives them: number arrays as NumPy arrays."""
    meta = {}
    for key, value in keys.items():
        if isinstance(value, list) and value and not isinstance(value[0], str):
            value = np.array(value, np.float32 if isinstance(value[0], float) else np.int32)
        meta[key] = value
    return Tokenizer.from_gguf(SimpleNamespace(metadata=meta, path="tiny.gguf"))


SPM = made(spm_keys())
BPE = made(bpe_keys())
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MIXED = st.lists(st.sampled_from(["hello", " ", "  ", "\n", "123", "12345", "'s", "\u00e9", "\U0001f600", "a."]))


def test_from_a_path(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "spm.gguf", spm_keys())
    tokenizer = Tokenizer.from_gguf(path)
    assert tokenizer.encode(" hello") == SPM.encode(" hello")
    assert "spm.gguf" in repr(tokenizer)
    byte_pairs = Tokenizer.from_gguf(str(write_gguf(tmp_path / "bpe.gguf", bpe_keys())))
    assert byte_pairs.encode("say hello") == BPE.encode("say hello")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(GGUFError):
        Tokenizer.from_gguf(tmp_path / "broken.gguf")


def pieces(tokenizer: Tokenizer, text: str, **options: bool) -> list[str]:
    return [tokenizer.piece(i).decode("utf-8", "replace") for i in tokenizer.encode(text, **options)]


def test_merging() -> None:
    assert pieces(SPM, "hello he") == ["<s>", " hello", " he"]
    assert pieces(SPM, "\u00e9z", add_special=False) == [" ", "\u00e9", "z"]  # "z" only as a byte
    assert SPM.encode("z")[-1] == 3 + ord("z")
    assert pieces(BPE, "hello hello 123") == ["hello", " hello", " ", "123"]
    assert SPM.encode("") == [1] and BPE.encode("") == []


def test_digits_follow_the_pre_tokenizer() -> None:
    assert pieces(made(bpe_keys("qwen2")), "123") == ["1", "2", "3"]
    assert pieces(made(bpe_keys("llama-bpe")), "12123") == ["12", "1", "2", "3"]
    assert pieces(made(bpe_keys("starcoder")), "123") == ["1", "2", "3"]


@pytest.mark.parametrize("pre", sorted(PATTERNS))
def test_every_pre_tokenizer_keeps_the_text(pre: str) -> None:
    tokenizer = made(bpe_keys(pre))
    text = "It's  12345\u4e2d\u6587\u3002 \uff21\u00dcber\r\n\t x==y!! \ud55c\uad6d\u10d0 a\u0301 Hel"
    text += "loWorld \U0001f600 "
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_pre_tokenizer() -> None:
    with pytest.raises(TokenizerError, match=r"'martian'.*gpt-2.*qwen2"):
        made(bpe_keys("martian"))


def test_without_byte_tokens() -> None:
    tokenizer = made(spm_keys(with_bytes=False))
    ids = tokenizer.encode("hello z")
    assert 0 in ids and tokenizer.decode(ids) == "hello "
    assert tokenizer.decode(tokenizer.encode("hello he")) == "hello he"


def test_control_tokens_are_text_unless_asked_for() -> None:
    for tokenizer in (SPM, BPE):
        end = tokenizer.special_id("<|im_end|>")
        assert end is not None and tokenizer.is_special(end)
        text = "he<|im_end|>llo"
        assert end not in tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
        ids = tokenizer.encode(text, parse_special=True)
        assert ids.count(end) == 1
        assert "<|im_end|>" not in tokenizer.decode(ids)
        assert "<|im_end|>" in tokenizer.decode(ids, special=True)
    assert 1 not in SPM.encode("<s>", add_special=False)  # though "<" and "s>" could merge to it


def test_user_defined_tokens_always_count() -> None:
    tool, longer = BPE.special_id("<tool>"), BPE.special_id("<tool>>")
    assert BPE.encode("a<tool>>b<tool>") == [*BPE.encode("a"), longer, *BPE.encode("b"), tool]
    assert BPE.decode([tool, longer]) == "<tool><tool>>"
    assert SPM.special_id("<user>") in SPM.encode("he<user>")


def test_bos_eos_defaults() -> None:
    assert (SPM.add_bos, SPM.add_eos) == (True, False)
    assert (BPE.add_bos, BPE.bos_id) == (False, None)
    both = made(spm_keys(add_eos_token=True))
    assert both.encode("he")[0] == 1 and both.encode("he")[-1] == 2
    assert both.encode("he", add_special=False) == both.encode("he")[1:-1]
    llama3 = made(bpe_keys("llama-bpe", bos_token_id=5))
    assert llama3.encode("a")[0] == 5  # this family adds it without being told
    assert made(bpe_keys("llama-bpe", bos_token_id=5, add_bos_token=False)).encode("a")[0] != 5
    assert not made(bpe_keys("gpt-2", add_bos_token=True)).add_bos  # asked for, but there is none


def test_end_of_generation_ids() -> None:
    assert BPE.eog_ids == {BPE.special_id("<|endoftext|>"), BPE.special_id("<|im_end|>")}
    assert SPM.eog_ids == {2, SPM.special_id("<|im_end|>")}
    assert 7 in made(spm_keys(eot_token_id=7)).eog_ids


def test_end_of_turn_is_a_control_token_whatever_the_file_says() -> None:
    keys = bpe_keys()
    names, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    end = names.index("<|im_end|>")
    keys["tokenizer.ggml.token_type"] = [4 if i == end else kind for i, kind in enumerate(types)]
    tokenizer = made(keys)
    assert end not in tokenizer.encode("<|im_end|>")
    assert tokenizer.encode("<|im_end|>", parse_special=True) == [end]
    assert end in tokenizer.eog_ids and tokenizer.decode([end]) == ""


def test_leading_space() -> None:
    ids = SPM.encode("hello", add_special=False)
    assert SPM.decode(ids) == "hello"
    assert SPM.decode(ids, after=[1]) == "hello"  # BOS writes nothing: still the start of the text
    assert SPM.decode(ids, after=SPM.encode("he")) == " hello"
    assert SPM.decode(SPM.encode("  hello")) == "  hello"
    gemma = made(spm_keys(add_space_prefix=False))
    assert gemma.decode(gemma.encode(" hello")) == " hello"
    assert gemma.decode(gemma.encode("hello")) == "hello"
    assert gemma.encode("hello") != SPM.encode("hello")


def test_user_defined_runs_of_spaces() -> None:
    """Gemma: spaces in the spelling of SentencePiece are still spaces."""
    keys = spm_keys(add_space_prefix=False)
    keys["tokenizer.ggml.tokens"] = [*keys["tokenizer.ggml.tokens"], "\u2581\u2581\u2581"]
    keys["tokenizer.ggml.token_type"] = [*keys["tokenizer.ggml.token_type"], 4]
    keys["tokenizer.ggml.scores"] = [*keys["tokenizer.ggml.scores"], 0.0]
    gemma = made(keys)
    assert gemma.encode("he   he")[2] == gemma.vocab_size - 1
    assert gemma.decode(gemma.encode("he   he")) == "he   he"


@given(UNICODE)
def test_byte_pairs_round_trip(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text


@given(UNICODE)
def test_sentencepiece_round_trip(text: str) -> None:
    # "\u2581" is how a SentencePiece vocabulary spells a space, so it comes back as one;
    # a user-defined token takes a space of its own after it, as in llama.cpp.
    if "<user>" not in text:
        assert SPM.decode(SPM.encode(text)) == text.replace("\u2581", " ")


@given(MIXED)
def test_streaming_is_decoding(words: list[str]) -> None:
    text = "".join(words)
    for tokenizer in (SPM, BPE):
        stream, ids = tokenizer.stream(), tokenizer.encode(text)
        parts = [*map(stream.push, ids), stream.flush()]
        assert "".join(parts) == tokenizer.decode(ids) == text
        assert "\ufffd" not in "".join(parts)


@given(st.lists(st.integers(0, BPE.vocab_size - 1), max_size=40))
def test_streaming_arbitrary_ids(ids: list[int]) -> None:
    """Bytes in any order, whole characters or not: the same as decoding all the bytes at once."""
    stream = BPE.stream()
    whole = b"".join(map(BPE.rendered, ids)).decode("utf-8", "replace")
    assert "".join([*map(stream.push, ids), stream.flush()]) == whole == BPE.decode(ids)


def test_half_a_character_waits() -> None:
    ids = BPE.encode("\u20ac")  # three bytes, three tokens
    stream = BPE.stream()
    assert [stream.push(i) for i in ids] == ["", "", "\u20ac"]
    assert stream.flush() == ""
    stream = BPE.stream()
    assert stream.push(ids[0]) == "" and stream.flush() == "\ufffd"


def test_lone_surrogates_become_replacement_characters() -> None:
    for tokenizer in (SPM, BPE):
        assert tokenizer.decode(tokenizer.encode("he\ud800llo")) == "he\ufffdllo"


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_ids_out_of_range(wrong: int) -> None:
    with pytest.raises(TokenizerError, match=f"found token id {wrong}, expected 0 to"):
        BPE.decode([wrong])


def test_numpy_ids() -> None:
    assert BPE.decode(np.array(BPE.encode("hello"), np.uint32)) == "hello"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "'tokenizer.ggml.model': found nothing"),
        (spm_keys(model="rwkv"), "'rwkv', expected 'llama'"),
        (spm_keys(tokens=None), "'tokenizer.ggml.tokens': found nothing"),
        (spm_keys(tokens=[]), "0 tokens"),
        (spm_keys(scores=None), "'tokenizer.ggml.scores': found nothing"),
        (spm_keys(scores=[0.5, 1.5]), "found 2 values, expected"),
        (spm_keys(scores=[1, 2]), "expected an array of floats"),
        (spm_keys(scores=[float("nan")] * len(spm_keys()["tokenizer.ggml.tokens"])), "nan for token 0"),
        (spm_keys(token_type=[1]), "'tokenizer.ggml.token_type': found 1 values"),
        (spm_keys(bos_token_id=10**6), "'tokenizer.ggml.bos_token_id': found token 1000000"),
        (spm_keys(eos_token_id="2"), "found str '2', expected int"),
        (spm_keys(eot_token_id=10**6), "eot_token_id"),
        (spm_keys(add_bos_token=1), "found int '1', expected bool"),
        (bpe_keys(merges=None), "'tokenizer.ggml.merges': found nothing"),
        (bpe_keys(merges=["h e", "nospace"]), "entry 1 'nospace'"),
        (bpe_keys(pre=3), "expected str"),
    ],
)
def test_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        made(keys)
    assert message in str(caught.value) and "tiny.gguf" in str(caught.value)


def test_token_types_out_of_range() -> None:
    keys = spm_keys()
    keys["tokenizer.ggml.token_type"] = [9, *keys["tokenizer.ggml.token_type"][1:]]
    with pytest.raises(TokenizerError, match="found 9 for token 0, expected 0 to 6"):
        made(keys)


def test_merges_that_cannot_apply_are_left_out() -> None:
    tokenizer = made(bpe_keys(merges=["h e", "x nowhere", "he zz", "l l"]))
    assert pieces(tokenizer, "hell") == ["he", "ll"]


def test_tokens_that_are_not_utf8() -> None:
    keys = bpe_keys()
    keys["tokenizer.ggml.tokens"] = [*keys["tokenizer.ggml.tokens"], "\udcff"]
    keys["tokenizer.ggml.token_type"] = [*keys["tokenizer.ggml.token_type"], 1]
    tokenizer = made(keys)
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    assert tokenizer.piece(tokenizer.vocab_size - 1) == b"\xff"


def test_files_without_token_types() -> None:
    tokenizer = made(spm_keys(token_type=None))
    assert tokenizer.decode(tokenizer.encode("hello \U0001f600")) == "hello \U0001f600"
    assert tokenizer.encode("<s>") != [1, 1]


def test_duplicate_tokens_are_bearable() -> None:
    keys = spm_keys()
    keys["tokenizer.ggml.tokens"][-1] = "he"
    keys["tokenizer.ggml.token_type"][-1] = 1
    tokenizer = made(keys)
    assert tokenizer.decode(tokenizer.encode("hello he")) == "hello he"
