"""The likelihood of a text under votes, and which agents of a population vote best together.

The formulas are those that the vote on the device is tested against, in float64. Not for: voting while generating.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...gpu.reference.flux_votes import PROB, SUM, consensus_of, contributions
from .recording import OUTSIDE, Recording

F64 = npt.NDArray[np.float64]
MODES = {"sum": SUM, "prob": PROB}
ROUNDS = 10
DIFFERENT = 0.01


def softmax_log(x: F64) -> F64:
    """Natural logarithm of the softmax over the last axis; minus infinity stays."""
    top = x.max(axis=-1, keepdims=True)
    return np.asarray(x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True)), np.float64)


def consensus(recording: Recording, scores: npt.NDArray[np.float32], weights: Sequence[float], mode: str) -> F64:
    """Consensus logits [T, C] of scores [P, T, C]; minus infinity beyond a row's candidates. mode: one of MODES."""
    e = np.asarray(weights, np.float64)
    found = np.full(scores.shape[1:], -np.inf)
    for t, n in enumerate(recording.row_info[:, 0].astype(np.int64)):
        parts = contributions(MODES[mode], scores[:, t, :n].astype(np.float64), e, recording.cand[t, :n, 0])
        found[t, :n] = consensus_of(MODES[mode], parts.sum(axis=0))
    return found


def likelihood(recording: Recording, logits: F64, least: float) -> F64:
    """Log-likelihood [T] of the tokens that came, where the candidates' shares follow from `logits` [T, C].

    The candidates share the probability that the model gives them together; a token outside keeps the model's own. So
    these are likelihoods over the whole vocabulary, and the model's own logits give the model's own.
    """
    inside = recording.target != OUTSIDE
    places = np.where(inside, recording.target, 0).astype(np.int64)
    own = softmax_log(logits)[np.arange(len(logits)), places]
    return np.asarray(np.maximum(recording.base + np.where(inside, own, 0.0), least), np.float64)


def ensemble(recording: Recording, scores: npt.NDArray[np.float32], most: int, least: float) -> list[tuple[int, float]]:
    """Agents that vote well together (mode sum): (place in `scores`, weight), at most `most` of them, weights of sum 1.

    Greedy selection with replacement (Caruana et al. 2004, "Ensemble selection from libraries of models"): beginning
    with nobody, the agent that makes the text most likely joins, `ROUNDS` times; who joins n times has the weight
    n / ROUNDS. The first `most` times nobody joins twice, so that as many agents vote if there are as many.
    """
    x = np.where(np.isfinite(scores), scores, 0).astype(np.float64)
    bound = np.where(np.isfinite(scores[0]), 0.0, -np.inf)
    total = np.zeros(x.shape[1:])
    joined = np.zeros(len(x), np.int64)
    most = min(most, len(x), ROUNDS)
    for round_ in range(ROUNDS):
        allowed = np.flatnonzero((joined == 0) == (round_ < most))
        means = [likelihood(recording, (total + x[i]) / (round_ + 1) + bound, least).mean() for i in allowed]
        chosen = allowed[int(np.argmax(means))]
        total += x[chosen]
        joined[chosen] += 1
    order = sorted(np.flatnonzero(joined).tolist(), key=lambda i: (-joined[i], i))
    return [(i, round(float(joined[i]) / ROUNDS, 6)) for i in order]


def unlike(recording: Recording, scores: npt.NDArray[np.float32], most: int, least: float) -> list[int]:
    """Places of up to `most` agents, the first of each kind: those whose log-likelihoods differ from those of every
    earlier one by `DIFFERENT` nats a token or more."""
    kept: list[tuple[int, F64]] = []
    for i, own in enumerate(scores):
        marks = likelihood(recording, own.astype(np.float64), least)
        if all(np.abs(marks - other).mean() >= DIFFERENT for _, other in kept):
            kept.append((i, marks))
        if len(kept) == most:
            break
    return [i for i, _ in kept]


def best_temperature(recording: Recording, least: float) -> float:
    """The temperature, of 0.5 to 4 in steps of 2 %, at which the model's own logits make the text likeliest."""
    logits = recording.logits.astype(np.float64)
    tried = [0.5 * 1.02**i for i in range(106)]
    return max(tried, key=lambda t: float(likelihood(recording, logits / t, least).mean()))
