"""The text of `demo`: simulated logits over a toy vocabulary, and agents that vote on them, on a device or the host.

The numbers are invented here; no model is behind them. Not for: printing (demo.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flux_vk.errors import VulkanUnavailable
from flux_vk.flux.interpreter import interpret
from flux_vk.flux.lower import lower
from flux_vk.flux.program import Program
from flux_vk.flux.reference import run_candidate
from flux_vk.gpu.reference.flux_votes import SUM, contributions

if TYPE_CHECKING:
    from flux_vk.gpu import Device

WORDS = (
    "the", "sea", "was", "and", "old", "ship", "slept", "under", "a", "pale", "moon", "while", "wind", "sang", "low",
    ".",
)  # fmt: skip
U32 = npt.NDArray[np.uint32]
Scores = Callable[[U32, U32], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], U32]]
"""(row_info [8], cand [C, 4]) -> (scores f32 [A, C], consensus f32 [C], traps u32 [A, 2])."""


@dataclass(frozen=True)
class Position:
    """A vote, in the order of candidates (best logit first)."""

    row: U32
    cand: U32
    score: npt.NDArray[np.float32]
    consensus: npt.NDArray[np.float32]
    traps: U32
    part: npt.NDArray[np.float64]
    """Contributions [A, C]; their sum over agents is the consensus."""
    winner: int
    """Place among the candidates."""


def simulated_logits(seed: int, positions: int) -> npt.NDArray[np.float32]:
    """f32 [positions, words]: a fixed liking for each word that falls from the first to the last, a slow change, and
    noise fixed by the seed."""
    rng = np.random.default_rng(seed)
    n = len(WORDS)
    liking = 4.0 - 0.18 * np.arange(n)
    tide = 0.5 * np.sin(2 * np.pi * (np.arange(positions)[:, None] / 20 + np.arange(n)[None] / n))
    noise = rng.normal(0, 0.25, (positions, n))
    return np.asarray(liking + tide + noise, np.float32)


def facts(logits: npt.NDArray[np.float32], position: int, seed: int, history: Sequence[int]) -> tuple[U32, U32]:
    """(row_info, cand) of one position, all words as candidates."""
    from flux_vk.flux.evolution.recording import best, counts

    x = logits.astype(np.float64)
    lse = float(np.log(np.exp(x - x.max()).sum()) + x.max())
    p = np.exp(x - lse)
    floats = np.array([x.max(), -(p * np.log(p)).sum(), lse], np.float32).view(np.uint32)
    row = np.array([len(x), *floats, position, seed & 0xFFFFFFFF, seed >> 32, 0], np.uint32)
    ids = best(logits, len(logits))
    cand = np.zeros((len(x), 4), np.uint32)
    cand[:, 0], cand[:, 1] = ids, logits[ids].view(np.uint32)
    cand[:, 2:] = counts(np.asarray(history, np.int64), ids)
    return row, cand


def simulate(scores: Scores, weights: Sequence[float], seed: int, positions: int) -> list[Position]:
    """Vote on every position; the word with the largest consensus is drawn, the lowest number among equals."""
    drawn: list[int] = []
    found = []
    e = np.asarray(weights, np.float64)
    for at, logits in enumerate(simulated_logits(seed, positions)):
        row, cand = facts(logits, at, seed, drawn)
        score, consensus, traps = scores(row, cand)
        ids = cand[:, 0].astype(np.int64)
        winner = int(np.lexsort((ids, -consensus))[0])
        part = contributions(SUM, score.astype(np.float64), e, ids)
        found.append(Position(row, cand, score, consensus, traps, part, winner))
        drawn.append(int(ids[winner]))
    return found


def on_reference(programs: Sequence[Program], weights: Sequence[float]) -> Scores:
    """The reference VM and the vote in NumPy."""
    e = np.asarray(weights, np.float64)

    def scores(row: U32, cand: U32) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], U32]:
        score = np.zeros((len(programs), len(cand)), np.float32)
        traps = np.zeros((len(programs), 2), np.uint32)
        for a, i in np.ndindex(score.shape):
            score[a, i], trap, _ = run_candidate(programs[a], row, cand[i], i, a)
            traps[a] = traps[a, 0] + (trap != 0), max(int(traps[a, 1]), trap)
        total = contributions(SUM, score.astype(np.float64), e, cand[:, 0].astype(np.int64)).sum(axis=0)
        return score, total.astype(np.float32), traps

    return scores


def on_device(device: Device, programs: Sequence[Program], weights: Sequence[float]) -> Scores:
    """The kernels that vote while a model generates: interpreter, tally, vote; recorded once for all positions."""
    from flux_vk.gpu import Chain

    a, n = len(programs), len(WORDS)
    row_info, cand = device.zeros((1, 8), "u32"), device.zeros((1, n, 4), "u32")
    code = device.array(np.stack([lower(p) for p in programs])[None])
    swarm = device.array(np.array([[a, SUM, 0, n, 0, 0, 0, 0]], np.uint32))
    weight = device.array(np.asarray([weights], np.float32))
    trust = device.array(np.ones((1, a), np.float32))
    score, traps = device.empty((1, a, n)), device.empty((1, a, 2), "u32")
    tally, consensus = device.empty((1, a, 4), "u32"), device.empty((1, n))
    chain = Chain(device, name="demo")
    chain.fill(dst=traps, value=0)
    interpret(chain, row_info=row_info, cand=cand, code=code, score=score, traps=traps)
    chain.dispatch("flux_tally", row_info=row_info, cand=cand, score=score, swarm=swarm, tally=tally)
    chain.dispatch(
        "flux_vote", row_info=row_info, cand=cand, score=score, tally=tally, swarm=swarm, weight=weight, trust=trust,
        consensus=consensus,
    )  # fmt: skip
    step = chain.record()

    def scores(row: U32, candidates: U32) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], U32]:
        device.upload(row_info, row.view(np.uint8))
        device.upload(cand, candidates.reshape(-1).view(np.uint8))
        step.submit()
        step.wait()
        return score.numpy()[0], consensus.numpy()[0, candidates[:, 0]], traps.numpy()[0]

    return scores


def backend(
    programs: Sequence[Program], weights: Sequence[float], name: str | None, reference: bool
) -> tuple[Scores, str]:
    """Where it runs, and how that is called: a device, or the reference VM where there is none or it is asked for."""
    from flux_vk.gpu import Device

    if reference:
        return on_reference(programs, weights), "the reference VM"
    try:
        device = Device(name)
    except VulkanUnavailable:
        if name is not None:
            raise
        return on_reference(programs, weights), "the reference VM, for there is no Vulkan device"
    return on_device(device, programs, weights), f"the kernels on {device.name}"
