"""Every sampler by its definition, in float64: what llama.cpp's samplers of these names do to a list of candidates.

Where llama.cpp leaves the order of equal candidates to its sort, it is (logit descending, id ascending) here. Not for
production sampling, and not bit by bit what the kernels do: sums are floats here and integers there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

LOWEST = -3.0e38  # a penalty goes no further: something is always left
EDGE = 2.0**-20  # what rounding is allowed where a sum is compared with top_p or the threshold of XTC


@dataclass(frozen=True)
class Candidates:
    """ids and logits of what is left, best first. size: how many llama.cpp would count, with those that top-n-sigma
    made impossible and did not remove.
    """

    ids: I64
    x: F64
    size: int

    @property
    def p(self) -> F64:
        """Probabilities: softmax of the logits."""
        e = np.exp(self.x - self.x[0])
        return np.asarray(e / e.sum())

    def kept(self, which: npt.NDArray[np.bool_], size: int | None = None) -> Candidates:
        """Those where `which` is true; `size` as it is then, by default their number."""
        return Candidates(self.ids[which], self.x[which], int(which.sum()) if size is None else size)

    def law(self, vocab: int) -> F64:
        """float64[vocab]: the probability of every token."""
        result = np.zeros(vocab)
        result[self.ids] = self.p
        return result


def candidates(logits: npt.ArrayLike) -> Candidates:
    """All tokens with a finite logit; plus infinity counts as the largest finite number."""
    largest = float(np.finfo(np.float32).max)
    x = np.nan_to_num(np.asarray(logits, np.float64), nan=-np.inf, posinf=largest, neginf=-np.inf)
    return _ordered(np.arange(len(x)), x, len(x))


def _ordered(ids: I64, x: F64, size: int) -> Candidates:
    order = np.lexsort((ids, -x))
    order = order[np.isfinite(x[order])]
    return Candidates(ids[order], x[order], size)


def top_k(c: Candidates, k: int) -> Candidates:
    """The k best (k > 0)."""
    return c.kept(np.arange(len(c.ids)) < k, min(c.size, k))


def top_p(c: Candidates, p: float) -> Candidates:
    """The shortest beginning whose probability reaches p (Holtzman et al. 2020)."""
    return c.kept(np.cumsum(c.p) - c.p < max(p - EDGE, 1e-300))


def min_p(c: Candidates, p: float) -> Candidates:
    """Those at least p times as likely as the best."""
    return c.kept(c.x >= c.x[0] + math.log(p))


def top_n_sigma(c: Candidates, n: float) -> Candidates:
    """Those less than n standard deviations of the logits below the best (Tang et al. 2024)."""
    return c if c.size <= 1 else c.kept(c.x >= c.x[0] - n * c.x.std(), c.size)


def typical(c: Candidates, p: float) -> Candidates:
    """Those whose surprise is nearest to the entropy until their probability passes p (Meister et al. 2022).

    The distance |-ln p_i - H| is that of the logit to the mean logit. Among equal distances: above the mean all that
    are equal, then below it.
    """
    t = c.x - c.x[0]
    mean = float((c.p * t).sum())
    distance = np.abs(t - mean)
    up = t > mean
    order = np.lexsort((np.arange(len(t)), ~up, distance))
    cumulative = np.cumsum(c.p[order])
    n = min(int(np.searchsorted(cumulative, p, side="right")) + 1, len(t))
    edge = distance[order[n - 1]]
    which = np.zeros(len(t), np.bool_)
    which[order[:n]] = True
    return c.kept(which | (up & (distance == edge)))


def xtc(c: Candidates, threshold: float) -> Candidates:
    """Without those that are at least as likely as the threshold, but for the last of them.

    Tokens below 2^-40 of the best one's probability do not count, as they are never drawn.
    """
    if c.size < 2 or threshold > 0.5:
        return c
    dropped = max(int(((c.p >= threshold - EDGE) & (c.x - c.x[0] >= -40 * math.log(2))).sum()) - 1, 0)
    return c.kept(np.arange(len(c.ids)) >= dropped, c.size - dropped)


def temperature(c: Candidates, t: float) -> Candidates:
    """Logits divided by t; at 0 the best alone."""
    if t <= 0:
        return c.kept(np.arange(len(c.ids)) < 1, c.size)
    return replace(c, x=c.x / t)


def dynamic_temperature(c: Candidates, t: float, spread: float, exponent: float) -> Candidates:
    """A temperature from t - spread (at least 0) to t + spread, by the entropy's share of the largest possible."""
    if spread <= 0:
        return temperature(c, t)
    if c.size <= 1:
        return c
    p = c.p[c.p > 0]
    share = min(max(-float((p * np.log(p)).sum()) / math.log(c.size), 0.0), 1.0)
    low = max(t - spread, 0.0)
    return temperature(c, low + (t + spread - low) * share**exponent)


def penalties(c: Candidates, counts: Mapping[int, int], repeat: float, frequency: float, presence: float) -> Candidates:
    """What occurred: positive logits divided by `repeat`, others multiplied; less count * frequency + presence."""
    x = c.x.copy()
    for i, token in enumerate(c.ids.tolist()):
        if token in counts:
            y = x[i] / repeat if x[i] > 0 else x[i] * repeat
            x[i] = max(y - (counts[token] * frequency + presence), LOWEST)
    return _ordered(c.ids, x, c.size)


def subtract(c: Candidates, less: Mapping[int, float]) -> Candidates:
    """DRY: its penalties taken off."""
    x = c.x - np.array([less.get(token, 0.0) for token in c.ids.tolist()])
    return _ordered(c.ids, np.maximum(x, LOWEST), c.size)


def dry_penalties(
    history: Sequence[int], *, multiplier: float, base: float, allowed_length: int, last_n: int = -1,
    alone: Collection[int] = (), sequences: Collection[Sequence[int]] = (),
) -> dict[int, float]:  # fmt: skip
    """Token -> penalty: multiplier * base^(length - allowed_length) for what would go on with a repetition.

    alone, sequences: breakers of one token and of several. Source: llama.cpp's llama_sampler_dry_apply.
    """
    window = list(history) if last_n < 0 else list(history)[max(len(history) - last_n, 0) :]
    n, recent = len(window), window[::-1]
    if n <= allowed_length or multiplier == 0 or base < 1:
        return {}
    limit = _limit(recent, alone, sequences)
    longest: dict[int, int] = {}
    for k in range(1, n):
        length = 0
        while length < limit and length + k < n and recent[length] == recent[length + k]:
            length += 1
        if length >= allowed_length <= limit:
            longest[recent[k - 1]] = max(longest.get(recent[k - 1], 0), length)
    most = int(88.7228391 / math.log(base)) if base > 1.000001 else 1 << 30
    return {t: multiplier * base ** min(m - allowed_length, most) for t, m in longest.items() if t not in alone}


def _limit(recent: Sequence[int], alone: Collection[int], sequences: Collection[Sequence[int]]) -> int:
    """Tokens behind the newest breaker, of which the longest counts; recent: newest first."""
    for i, token in enumerate(recent):
        tails = [0] if token in alone else []
        tails += [
            len(s) - 1
            for s in sequences
            if s[0] == token and len(s) - 1 <= i and all(s[1 + j] == recent[i - 1 - j] for j in range(len(s) - 1))
        ]
        if tails:
            return i - max(tails)
    return len(recent)


def mirostat_k(c: Candidates, mu: float, vocab: int) -> int:
    """Mirostat 1: tokens kept, from Zipf's exponent of the 100 best (Basu et al. 2021, section 4)."""
    best = c.x[:100]
    if len(best) < 2:
        return 1
    i = np.arange(1, len(best))
    t, b = np.log((i + 1) / i), best[:-1] - best[1:]
    s = float((t * b).sum() / (t * t).sum())
    e = s - 1
    # ln of e / (1 - V^-e), which for large |e| must not overflow
    x = abs(e) * math.log(vocab)
    ln_ratio = -math.log(math.log(vocab)) if x < 1e-4 else math.log(abs(e)) - math.log1p(-math.exp(-x))
    ln_k = (ln_ratio - (x if e < 0 and x >= 1e-4 else 0) + mu * math.log(2)) / max(s, 1e-30)
    return vocab if ln_k >= math.log(vocab) else max(int(math.exp(ln_k)), 1)


def mirostat_2(c: Candidates, mu: float) -> Candidates:
    """Mirostat 2: those whose surprise is at most mu bits, and the best."""
    which = -np.log2(np.maximum(c.p, 1e-300)) <= mu
    which[0] = True
    return c.kept(which)


def adaptive_p(c: Candidates, target: float, weighted_sum: float, total_weight: float) -> F64:
    """The probabilities that adaptive-p draws with, for c.ids: highest near the adapted target (llama.cpp, pull request
    17927)."""
    adapted = target if total_weight == 0 else 2 * target - weighted_sum / total_weight
    far = np.abs(c.p - min(max(adapted, 0.0), 1.0)) / 0.3
    e = np.exp(-10 * far * far / (1 + far) + (10 * far * far / (1 + far)).min())
    return np.asarray(e / e.sum())
