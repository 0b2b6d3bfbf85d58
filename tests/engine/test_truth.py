"""Generated ids, logits and perplexities against float64 figures that nobody here produced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flux_vk as fx
from flux_vk.engine.model import Model
from flux_vk.gpu import Device

TRAINED = ("stories260K", "babyllama105")
KINDS = ("f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1")


def expected(reference_dir: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((reference_dir / "models" / name / f"{name}.expected.json").read_text())
    return found


@contextmanager
def opened(device: Device, path: Path) -> Iterator[Model]:
    with fx.load(path, device=device, kv_type="f32", context=256) as model:
        yield model


def greedy(model: Model, prompt: str | list[int], n: int) -> tuple[list[int], str]:
    g = model.start(prompt, fx.SamplingParams(temperature=0), max_tokens=n)
    for _ in g:
        pass
    return g.tokens, g.text


def assert_same_where_clear(got: list[int], want: list[int], gaps: list[float], least: float) -> None:
    """Equal up to the first token whose top-two gap is below `least`; there the two may part."""
    unclear = next((i for i, gap in enumerate(gaps) if gap < least), len(want))
    assert got[:unclear] == want[:unclear]


def test_demo_model(device: Device, reference_dir: Path, demo_model: Path) -> None:
    """The F32 file: all ids. The Q8_0 file that ships: as long as the choice is clearer than its rounding."""
    folder = reference_dir.parent / "models"
    if not (folder / "expected.json").is_file():
        pytest.skip(f"no expected.json of the demo model in {folder}")
    cases = json.loads((folder / "expected.json").read_text())["cases"]
    with opened(device, folder / "flux-demo-5m-f32.gguf") as exact, opened(device, demo_model) as shipped:
        for case in cases:
            assert exact.tokenizer.encode(case["prompt"]) == case["prompt_ids"]
            ids, text = greedy(exact, case["prompt"], len(case["greedy_ids"]))
            assert ids == case["greedy_ids"]
            assert text.strip() == case["text"].strip()
            ids, _ = greedy(shipped, case["prompt_ids"], len(case["greedy_ids"]))
            assert_same_where_clear(ids, case["greedy_ids"], case["gaps"], 0.1)


@pytest.mark.parametrize("variant", ["", "as-qwen2."])
@pytest.mark.parametrize("name", TRAINED)
def test_trained_models(device: Device, reference_dir: Path, name: str, variant: str) -> None:
    """Ids and text of every prompt, and the logits behind it; llama and its twin with the other rope layout."""
    want = expected(reference_dir, name)
    folder = reference_dir / "models" / name
    with (
        opened(device, folder / f"{name}.{variant}f32.gguf") as model,
        np.load(folder / f"{name}.expected_logits.npz") as logits,
    ):
        for i, case in enumerate(want["cases"]):
            ids, text = greedy(model, case["prompt_ids"], len(case["greedy_ids"]))
            assert ids == case["greedy_ids"], f"top-two gaps are at least {case['min_top1_top2_gap']}"
            last = model.logits(case["prompt_ids"])[-1]
            np.testing.assert_allclose(last, logits[f"p{i}_last_prompt_logits"], atol=1e-3, rtol=0)
            if variant == "":
                assert (case["prompt"] + text).strip() == case["text"].strip()
                assert model.prompt_ids(case["prompt"]) == case["prompt_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRAINED)
def test_quantised_files(device: Device, reference_dir: Path, name: str, kind: str) -> None:
    """float64 arithmetic on the dequantised weights: the same ids while the smallest gap is not below 1e-3."""
    case = expected(reference_dir, name)["quantised"][kind]
    with opened(device, reference_dir / "models" / name / case["file"]) as model:
        ids, _ = greedy(model, case["prompt"], len(case["greedy_ids"]))
    assert case["min_gap"] > 1e-3
    assert ids == case["greedy_ids"]


def test_long_text(device: Device, reference_dir: Path) -> None:
    """Two hundred tokens over many pages."""
    want = expected(reference_dir, "stories260K")["long"]
    with opened(device, reference_dir / "models" / "stories260K" / "stories260K.f32.gguf") as model:
        assert greedy(model, want["prompt"], 200)[0] == want["greedy_ids"]


def one_unknown_a_character(ids: list[int], text: str, model: Model) -> list[int]:
    """SentencePiece joins neighbouring unknown characters in one token; the recorded figures count each."""
    known = {model.tokenizer.piece(i) for i in range(model.config.vocab_size)}
    marks = "".join("." if c == " " or c.encode() in known else "x" for c in text)
    runs = [len(run) for run in re.findall("x+", marks)]
    assert ids.count(0) == len(runs)
    lengths = iter(runs)
    return [i for token in ids for i in ([0] * next(lengths) if token == 0 else [token])]


@pytest.mark.parametrize("text_file", ["text/tinystories-excerpt.txt", "text/tinyshakespeare.txt"])
@pytest.mark.parametrize("name", TRAINED)
def test_perplexity(device: Device, reference_dir: Path, name: str, text_file: str) -> None:
    """Chunks of 127 ids, each behind a BOS of its own, every token counted."""
    results = json.loads((reference_dir / "models" / "perplexity.expected.json").read_text())["results"]
    file = f"models/{name}/{name}.f32.gguf"
    want = next(r for r in results if (r["model"], r["text"]) == (file, text_file))
    text = (reference_dir / text_file).read_bytes().decode().replace("\r\n", "\n")[:4000]
    with opened(device, reference_dir / file) as model:
        ids = model.tokenizer.encode(text, add_special=False)
        ids = one_unknown_a_character(ids, text, model) if want["unk"] else ids
        assert (len(ids), ids.count(0), ids[:16]) == (want["n_ids"], want["unk"], want["first_ids"])
        chunks = [ids[i : i + 127] for i in range(0, len(ids) - 126, 127)]
        assert len(chunks) == want["chunks"]
        nll = [float(np.log(model.perplexity([1, *chunk]))) for chunk in chunks]
    np.testing.assert_allclose(nll, want["chunk_nll"], rtol=1e-4)
    assert np.exp(np.mean(nll)) == pytest.approx(want["ppl"], rel=1e-4)


def test_perplexity_is_that_of_the_logits_and_windows_do_not_touch(model: Model) -> None:
    ids = [1, *range(100, 400)]
    logits = model.logits(ids[:256]).astype(np.float64), model.logits(ids[256:]).astype(np.float64)
    total, count = 0.0, 0
    for rows, window in zip(logits, (ids[:256], ids[256:]), strict=True):
        p = np.log(np.exp(rows).sum(1)) - rows[np.arange(len(rows)), [*window[1:], 0]]
        total, count = total + p[:-1].sum(), count + len(rows) - 1
    assert model.perplexity(ids) == pytest.approx(np.exp(total / count), rel=1e-6)
