"""Models with random weights: mixtures as in real files, sane numbers, same seed same bytes, and they run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from bench import make_model, synthetic_vocab
from flux_vk.cli import random_blocks
from flux_vk.errors import InputError
from flux_vk.formats import blocks
from flux_vk.formats.gguf import open_gguf
from flux_vk.models import read_config
from flux_vk.text import ChatTemplate, Tokenizer


def counts(shape: str, file_type: str, **more: bool) -> dict[str, int]:
    """Matrices by type, as the plan for a file has them."""
    found: dict[str, int] = {}
    for kind in make_model.matrix_types(make_model.SHAPES[shape], file_type, **more).values():
        found[kind] = found.get(kind, 0) + 1
    return found


def test_mixtures_of_the_published_files() -> None:
    """Types by number as llama.cpp lists them when it loads the files that are published under these names."""
    assert counts("qwen2.5-0.5b", "Q4_K_M") == {"q5_0": 132, "q8_0": 13, "q4_k": 12, "q6_k": 12}
    assert counts("llama-3.2-1b", "Q4_K_M") == {"q4_k": 96, "q6_k": 17}
    assert counts("llama-3.2-1b", "Q8_0") == {"q8_0": 113}
    assert counts("llama-3.2-1b", "Q4_0") == {"q4_0": 112, "q6_k": 1}
    assert counts("llama-3.2-1b", "Q4_K_M", pure=True) == {"q4_k": 113}
    assert counts("qwen2.5-0.5b", "F16") == {"f16": 169}


@pytest.mark.parametrize("name", blocks.RUNNABLE)
def test_blocks_are_sane_weights(rng: np.random.Generator, name: str) -> None:
    shape = (64, 4096)
    raw = np.concatenate([c.reshape(-1) for c in random_blocks.chunks(rng, name, shape)])
    weights = blocks.dequantize(raw, name, shape)
    assert np.isfinite(weights).all()
    assert abs(weights.mean()) < 1e-3 and 0.019 < weights.std() < 0.021
    with pytest.raises(InputError) if blocks.BY_NAME[name].weights > 1 else pytest.MonkeyPatch.context():
        list(random_blocks.chunks(rng, name, (1, 33)))


def test_large_tensors_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_blocks, "CHUNK", 34 * 10)
    parts = list(random_blocks.chunks(np.random.default_rng(0), "q8_0", (25, 32)))
    assert [p.size for p in parts] == [340, 340, 170]


def test_vocabulary() -> None:
    vocab = synthetic_vocab.make(2000, ["<|a|>", "<|b|>"])
    assert len(vocab.tokens) == len(vocab.types) == len(set(vocab.tokens)) == 2000
    known = set(vocab.tokens[:256])
    for merge in vocab.merges:
        left, right = merge.split(" ")
        assert left in known and right in known
        known.add(left + right)
    assert vocab.types[vocab.id("<|b|>")] == synthetic_vocab.CONTROL
    assert len(set(synthetic_vocab.byte_letters())) == 256


def test_largest_vocabulary_has_no_repeats() -> None:
    vocab = synthetic_vocab.make(151_936, ["<|a|>"])
    assert len(set(vocab.tokens)) == 151_936 and len(vocab.merges) == 151_936 - 257


def test_llama3_factors() -> None:
    """The published rope_freqs of Llama 3.2: 1 for the fastest, 32 for the slowest pairs, blended between."""
    factors = make_model.llama3_factors(64, 5e5)
    assert factors.shape == (32,) and (factors[:13] == 1).all() and (factors[-12:] == 32).all()
    assert (np.diff(factors) >= 0).all()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_file_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf")]
    for path, seed in zip(files, ("1", "1", "2"), strict=True):
        assert make_model.main(["tiny", "--type", "q4_k_m", "--untied", "--seed", seed, "-o", str(path)]) == 0
    assert digest(files[0]) == digest(files[1]) != digest(files[2])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "b.gguf", "c.gguf"]
    with open_gguf(files[0]) as f:
        config = read_config(f)
        assert (config.arch, config.n_layers, config.dim, config.vocab_size) == ("llama", 2, 256, 1024)
        assert f.metadata["general.file_type"] == 15 and f.tensors["output.weight"].type == "q6_k"
        tokenizer = Tokenizer.from_gguf(f)
        for text in ("the other thing 123", "Größe \n\t"):
            assert tokenizer.decode(tokenizer.encode(text)) == text
        rendered = ChatTemplate.from_gguf(f).render([{"role": "user", "content": "hi"}])
        assert rendered.endswith("assistant<|end_header_id|>\n\n")
        ids = tokenizer.encode(rendered, add_special=False, parse_special=True)
        assert ids[0] == tokenizer.bos_id and tokenizer.special_id("<|eot_id|>") in ids


@pytest.mark.kernel
@pytest.mark.parametrize(("shape", "file_type"), [("tiny", "Q2_K"), ("tiny", "IQ4_XS"), ("qwen2.5-0.5b", "Q4_K_M")])
def test_files_run(tmp_path: Path, shape: str, file_type: str) -> None:
    from flux_vk.engine import load

    path = tmp_path / "m.gguf"
    argv = [shape, "--type", file_type, "--vocab", "512", "--layers", "2", "-o", str(path)]
    assert make_model.main(argv) == 0
    with load(path, context=64, sequences=1) as model:
        logits = model.logits(model.tokenizer.encode("the other"))
        assert np.isfinite(logits).all() and 0.05 < logits.std() < 50


@pytest.mark.parametrize("argv", [["tiny", "--vocab", "100"], ["tiny", "--layers", "0"]])
def test_sizes_that_make_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert make_model.main([*argv, "-o", str(tmp_path / "m.gguf")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())
