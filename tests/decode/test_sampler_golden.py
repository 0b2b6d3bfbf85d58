"""Probabilities that llama.cpp left of a step of the demo model; llama_cpp_samplers.json says which build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.decode import Breakers, SamplingParams, find_breakers
from flux_vk.decode.words import pack_order, pack_params
from flux_vk.gpu.reference import samplers as do
from flux_vk.gpu.reference.sampling_order import run_order
from flux_vk.text import Tokenizer
from tests.gpu.complete_rows import OFF

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("llama_cpp_samplers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    return Tokenizer.from_gguf(demo_model)


@pytest.mark.parametrize("i", range(len(GOLDEN["cases"])))
def test_llama_cpp(tokenizer: Tokenizer, i: int) -> None:
    """The same tokens are left, with the same probabilities, from llama.cpp's log-probabilities (4 decimals)."""
    case, ids = GOLDEN["cases"][i], GOLDEN["ids"]
    assert tokenizer.encode(GOLDEN["prompt"]) == ids
    params = SamplingParams(**{**OFF, "seed": 1, **case["settings"]})
    left = do.candidates(GOLDEN["logprobs"])
    counts = {t: ids[-params.repeat_last_n :].count(t) for t in ids[-params.repeat_last_n :]}
    less = penalties_of_dry(params, ids, find_breakers(tokenizer, params.dry_sequence_breakers))
    first = params.effective_order[0]
    if first == "penalties":
        left = do.penalties(left, counts, 1.0, params.frequency_penalty, params.presence_penalty)
    if first == "dry":
        assert less or i == 9, "nothing repeats in the prompt"
        left = do.subtract(left, less)
    logits = np.full(len(GOLDEN["logprobs"]), -np.inf)
    logits[left.ids] = left.x
    if params.complete:
        words = pack_order(params)
    else:  # the kernels of every chain do these
        names = [*case["settings"]["samplers"], "adaptive_p"]
        words = pack_order(SamplingParams(**{**OFF, **case["settings"], "samplers": names, "adaptive_target": 0.5}))
    law = run_order(logits.astype(np.float32), words, pack_params(params), 1, 1, (counts, less)).law(len(logits))
    want = np.zeros(len(logits))
    for token, p in case["probs"].items():
        want[int(token)] = p
    assert set(np.flatnonzero(law)) == set(np.flatnonzero(want))
    np.testing.assert_allclose(law, want, atol=2e-4)


def penalties_of_dry(params: SamplingParams, ids: list[int], broken: Breakers) -> dict[int, float]:
    return do.dry_penalties(
        ids, multiplier=params.dry_multiplier, base=params.dry_base, allowed_length=params.dry_allowed_length,
        alone=broken.alone, sequences=broken.sequences,
    )  # fmt: skip


def test_breakers_of_a_tokenizer(tokenizer: Tokenizer) -> None:
    """Tokens that hold the text break alone; others with the tokens of what is missing."""
    found = find_breakers(tokenizer, ["\n", "said"])
    pieces = [tokenizer.rendered(i, special=True) for i in range(tokenizer.vocab_size)]
    assert found.alone == {i for i, piece in enumerate(pieces) if b"\n" in piece or b"said" in piece}
    assert found.sequences and all(pieces[s[0]][-1:] in (b"s", b"a", b"i") for s in found.sequences)
    # As in llama.cpp, a SentencePiece vocabulary may put a space before what is missing.
    assert all("said" in tokenizer.decode(s).replace(" ", "") for s in found.sequences)
    assert find_breakers(tokenizer, []) == Breakers()
    bits = found.bits(tokenizer.vocab_size)
    assert set(np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()) == found.alone
    words = found.words()
    assert words[0, 0] + 1 == len(found.sequences[0]) and words[0, 1] == found.sequences[0][0]
