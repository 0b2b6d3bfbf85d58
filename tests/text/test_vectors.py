"""Real vocabularies against ids that llama.cpp made, and the prompts and texts of the reference models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flux_vk.errors import TokenizerError
from flux_vk.text import Tokenizer

NAMES = ["deepseek-llm", "gpt-2", "llama-spm", "phi-3", "qwen2", "refact", "starcoder"]
SEPARATOR = "\n__ggml_vocab_test__\n"


def vocabulary(reference_dir: Path, name: str) -> Path:
    path = reference_dir / "tokenizer" / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, reference_dir: Path) -> tuple[Tokenizer, list[str], list[list[int]]]:
    path = vocabulary(reference_dir, request.param)
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split(SEPARATOR)
    lines = path.with_name(path.name + ".out").read_text().splitlines()
    assert texts.pop() == ""  # what follows the last separator
    return Tokenizer.from_gguf(path), texts, [[int(i) for i in line.split()] for line in lines]


def test_ids_are_those_of_llama_cpp(case: tuple[Tokenizer, list[str], list[list[int]]]) -> None:
    tokenizer, texts, expected = case
    assert len(texts) == len(expected) > 40
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, add_special=False) == ids, repr(text)


def test_texts_come_back(case: tuple[Tokenizer, list[str], list[list[int]]]) -> None:
    tokenizer, texts, expected = case
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.decode(ids) == text
        stream = tokenizer.stream()
        assert "".join([*map(stream.push, ids), stream.flush()]) == text


@pytest.mark.parametrize("name", ["stories260K", "babyllama105"])
def test_reference_models(reference_dir: Path, name: str) -> None:
    folder = reference_dir / "models" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    expected = json.loads((folder / f"{name}.expected.json").read_text())
    tokenizer = Tokenizer.from_gguf(folder / f"{name}.f32.gguf")
    for item in expected["cases"]:
        ids = tokenizer.encode(item["prompt"])
        assert ids == item["prompt_ids"]
        assert tokenizer.decode(ids + item["greedy_ids"]) == item["text"]
        assert item["prompt"] + tokenizer.decode(item["greedy_ids"], after=ids) == item["text"]


def test_scores_of_the_malformed_set(reference_dir: Path) -> None:
    path = reference_dir / "gguf-malformed" / "made" / "tok_scores_u8.gguf"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with pytest.raises(TokenizerError, match="scores.*found an array of uint8, expected an array of floats"):
        Tokenizer.from_gguf(path)


def test_real_special_tokens(reference_dir: Path) -> None:
    qwen = Tokenizer.from_gguf(vocabulary(reference_dir, "qwen2"))
    assert {151643, 151645} <= qwen.eog_ids  # <|endoftext|>, <|im_end|>
    assert qwen.encode("<|im_start|>user\nHi<|im_end|>", parse_special=True)[::4] == [151644, 151645]
    assert 151644 not in qwen.encode("<|im_start|>")
    phi = Tokenizer.from_gguf(vocabulary(reference_dir, "phi-3"))
    assert {32000, 32007} <= phi.eog_ids  # <|endoftext|>, <|end|>
    user, end = phi.special_id("<|user|>"), phi.special_id("<|end|>")
    # Phi-3's special tokens swallow the line break behind them.
    assert phi.encode("<|user|>\nHello<|end|>", parse_special=True) == [1, user, 15043, end]
    llama = Tokenizer.from_gguf(vocabulary(reference_dir, "llama-spm"))
    assert llama.encode("Hello") == [1, 15043]
    assert llama.encode("</s>Hello", parse_special=True) == [1, 2, 15043]
    assert 2 not in llama.encode("</s>")
