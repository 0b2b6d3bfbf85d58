"""Recordings: candidates, counts and what is left of the whole vocabulary's likelihoods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flux_vk.errors import FluxError, InputError
from flux_vk.flux.evolution.consensus import likelihood
from flux_vk.flux.evolution.recording import (
    OUTSIDE,
    Recorder,
    Recording,
    best,
    counts,
    load_recording,
    stretches,
    windows,
)


def recorded(
    rng: np.random.Generator, rows: int = 30, vocab: int = 50, candidates: int = 8
) -> tuple[Recording, list[int], np.ndarray]:
    context = rng.integers(0, vocab, rows + 1).tolist()
    logits = (2 * rng.standard_normal((rows, vocab))).astype(np.float32)
    logits[0, context[1]] = 9.0  # so that both cases of a target are there whatever is drawn
    logits[1, context[2]] = -9.0
    recorder = Recorder(candidates, seed=(3 << 32) | 9)
    recorder.add(context, 1, logits)
    return recorder.finish({"model": "none"}), context, logits


def test_the_models_own_scores_give_the_models_own_likelihoods(rng: np.random.Generator) -> None:
    """Candidates share what the model gives them together, others keep their own: so nothing of it is lost."""
    found, context, logits = recorded(rng)
    x = logits.astype(np.float64)
    want = x[np.arange(30), context[1:]] - np.log(np.exp(x).sum(1))
    assert (found.target == OUTSIDE).any() and (found.target != OUTSIDE).any()
    np.testing.assert_allclose(likelihood(found, found.logits.astype(np.float64), -50), want, atol=1e-5)
    assert (likelihood(found, found.logits.astype(np.float64), -1) >= -1).all()


def test_rows_hold_what_agents_are_told(rng: np.random.Generator) -> None:
    found, context, logits = recorded(rng)
    for t, (row, cand) in enumerate(zip(found.row_info, found.cand, strict=True)):
        x = logits[t].astype(np.float64)
        p = np.exp(x) / np.exp(x).sum()
        facts = row[1:4].view(np.float32)
        np.testing.assert_allclose(facts, [x.max(), -(p * np.log(p)).sum(), np.log(np.exp(x).sum())], rtol=1e-6)
        assert row[[0, 4, 5, 6, 7]].tolist() == [8, t + 1, 9, 3, 0]
        assert cand[:, 0].tolist() == np.argsort(-x, kind="stable")[:8].tolist()
        np.testing.assert_array_equal(cand[:, 1].view(np.float32), logits[t, cand[:, 0]])
        seen = context[: t + 1]
        for token, _, count, distance in cand:
            assert count == seen.count(token)
            back = seen[::-1].index(token) + 1 if token in seen else -1
            assert np.uint32(distance).view(np.int32) == back
        if found.target[t] != OUTSIDE:
            assert cand[found.target[t], 0] == context[t + 1]


def test_more_candidates_than_tokens(rng: np.random.Generator) -> None:
    found, *_ = recorded(rng, rows=3, vocab=5, candidates=9)
    assert (found.row_info[:, 0] == 5).all() and (found.target != OUTSIDE).all()
    np.testing.assert_allclose(found.base, 0, atol=1e-6)
    assert np.isneginf(found.logits[:, 5:]).all()


def test_equal_logits_go_by_id() -> None:
    x = np.array([1, 3, 2, 3, 3, 0], np.float32)
    assert best(x, 2).tolist() == [1, 3] and best(x, 4).tolist() == [1, 3, 4, 2]
    assert best(np.zeros(5, np.float32), 3).tolist() == [0, 1, 2]


def test_counts_of_nothing() -> None:
    found = counts(np.zeros(0, np.int64), np.array([3, 4]))
    assert found[:, 0].tolist() == [0, 0] and (found[:, 1] == 0xFFFFFFFF).all()


def test_windows_score_no_token_twice_and_as_many_as_asked_for(rng: np.random.Generator) -> None:
    for _ in range(100):
        tokens, length = int(rng.integers(16, 3000)), int(rng.integers(8, 300))
        positions = int(rng.integers(16, 1000))
        found = windows(tokens, length, positions)
        scored = [i for w in found for i in range(w.scored, w.stop)]
        assert len(set(scored)) == len(scored) <= positions and max(scored) < tokens
        if tokens - length > positions + length:
            assert len(scored) == positions
        for w in found:
            assert w.stop - w.start <= length and w.scored - w.start >= (length // 2 if w.start else 1)
    whole = windows(1000, 100, 10_000)
    assert [i for w in whole for i in range(w.scored, w.stop)] == list(range(1, 1000))


def test_stretches_name_the_first_scored_token() -> None:
    tokens = list(range(100, 200))
    for context, first in stretches(tokens, 20, 30):
        assert context == tokens[context[0] - 100 : context[0] - 100 + len(context)] and 1 <= first < len(context)
    with pytest.raises(InputError, match="15 tokens"):
        list(stretches(tokens[:15], 20, 30))


def test_logits_that_are_no_numbers_are_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        logits = np.zeros((2, 5), np.float32)
        logits[1, 3] = bad
        with pytest.raises(FluxError, match="finite"):
            Recorder(4, 0).add([1, 2, 3], 1, logits)
    with pytest.raises(InputError, match="nothing was recorded"):
        Recorder(4, 0).finish({})


def test_files(tmp_path: Path, rng: np.random.Generator) -> None:
    found, *_ = recorded(rng)
    found.save(tmp_path / "r.npz")
    again = load_recording(tmp_path / "r.npz")
    for name in ("row_info", "cand", "target", "base", "runs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert again.about == {"model": "none"} and [p.name for p in tmp_path.iterdir()] == ["r.npz"]
    (tmp_path / "text").write_text("no recording")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    whole = (tmp_path / "r.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "spoilt.npz").write_bytes(whole[:200] + bytes(200) + whole[400:])
    for name in ("absent", "text", "other.npz", "half.npz", "spoilt.npz"):
        with pytest.raises(InputError, match=name):
            load_recording(tmp_path / name)
