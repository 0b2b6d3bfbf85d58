"""Random rows, swarms and scores for the tests of the kernels around the agents' interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.decode.params import SamplingParams
from flux_vk.decode.words import pack_params

Array = npt.NDArray[Any]
MOST = 8


def pack_swarm(agents: int, mode: int = 0, rate: float = 0.0, candidates: int = 256) -> Array:
    """The eight words of a slot's swarm."""
    words = np.zeros(8, np.uint32)
    words[0], words[1], words[3] = agents, mode, candidates
    words.view(np.float32)[2] = rate
    return words


def swarms(
    rng: np.random.Generator, slots: int, most: int, candidates: int = 256, mode: int | None = None
) -> dict[str, Array]:
    """swarm, weight and trust of slots: 1 to `most` agents, any mode."""
    made = [
        pack_swarm(
            int(rng.integers(1, most + 1)), int(rng.integers(4)) if mode is None else mode, rng.random(), candidates
        )
        for _ in range(slots)
    ]
    return {
        "swarm": np.stack(made),
        "weight": rng.uniform(0.1, 2, (slots, MOST)).astype(np.float32),
        "trust": rng.uniform(0.05, 1, (slots, MOST)).astype(np.float32),
    }


def params(slots: int) -> Array:
    """Sampling parameters whose seeds have all 64 bits in use."""
    return np.stack([pack_params(SamplingParams(seed=(7 + i) << 40 | i)) for i in range(slots)])


def ballots(
    rng: np.random.Generator, rows: int, vocab: int, c: int, agents: int, mode: int | None = None, n: int | None = None
) -> dict[str, Array]:
    """row_info, cand, score, swarm, weight and trust, as the kernels behind the interpreter find them. Every third row
    has fewer candidates than there is room for; the last slot has no agents; the last row no slot."""
    c = min(c, vocab)
    info = np.zeros((rows, 8), np.uint32)
    cand = np.full((rows, c, 4), 0xFFFFFFFF, np.uint32)
    slots = rows + 1
    for row in range(rows):
        count = int(rng.integers(1, c + 1)) if row % 3 == 2 else c
        count = count if n is None else n
        logits = -np.sort(-rng.standard_normal(count)).astype(np.float32)
        ids = rng.permutation(vocab)[:count]
        info[row] = count, 0, 0, 0, 40 + row, 1, 2, row
        cand[row, :count, 0] = ids
        cand[row, :count, 1] = logits.view(np.uint32)
        cand[row, :count, 2:] = 0, 0xFFFFFFFF
    given = swarms(rng, slots, agents, c, mode)
    given["swarm"][slots - 2, 0] = 0
    if rows > 2:
        info[rows - 1, 7] = slots + 5
    score = (3 * rng.standard_normal((rows, agents, c))).astype(np.float32)
    for row in range(rows):
        score[row, :, info[row, 0] :] = np.nan
    return {"row_info": info, "cand": cand, "score": score, **given}


def logits_of(given: dict[str, Array], vocab: int) -> Array:
    """Logits whose candidates are those of `cand`."""
    logits = np.full((len(given["row_info"]), vocab), -np.inf, np.float32)
    for row, words in enumerate(given["row_info"]):
        own = given["cand"][row, : words[0]]
        logits[row, own[:, 0]] = own[:, 1].copy().view(np.float32)
    return logits
