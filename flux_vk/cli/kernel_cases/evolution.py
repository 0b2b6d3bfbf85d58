"""The kernel that scores a population of agents: 128 programs of evolution's own making at 64 positions.

In the place of floating-point operations stand instructions of the machine, so that GFLOP/s reads as 10^9 of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.cli.bench_cases import Array, Case, Check, Prepared, Sizes, dispatch
from flux_vk.flux.evolution.genome import MOST_BYTES, to_program
from flux_vk.flux.evolution.mutation import random_genome
from flux_vk.flux.evolution.recording import OUTSIDE
from flux_vk.flux.evolution.reference import flux_fitness
from flux_vk.flux.evolution.scoring import LEAST
from flux_vk.flux.lower import lower
from flux_vk.flux.program import GPU_STEPS
from flux_vk.flux.reference import run_candidate
from flux_vk.gpu import kernels

if TYPE_CHECKING:
    from flux_vk.gpu import Device

POPULATION, POSITIONS, CANDIDATES = 128, 64, 64
CHECKED = 2
"""Positions at which the reference VM runs too."""


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """One size: neither model nor batch change it."""
    yield Case("flux_fitness", f"{POPULATION} agents x {POSITIONS} x {CANDIDATES}", _make)


def _make(device: Device, rng: np.random.Generator) -> Prepared:
    programs = [to_program(random_genome(rng)) for _ in range(POPULATION)]
    logits = -np.sort(-3 * rng.standard_normal((POSITIONS, CANDIDATES)).astype(np.float32), axis=1)
    info, cand = np.zeros((POSITIONS, 8), np.uint32), np.zeros((POSITIONS, CANDIDATES, 4), np.uint32)
    info[:, 0], info[:, 4] = CANDIDATES, np.arange(POSITIONS)
    total = np.log(np.exp(logits.astype(np.float64)).sum(1))
    facts = np.stack([logits[:, 0], np.full(POSITIONS, 3), total], 1)
    info[:, 1:4] = facts.astype(np.float32).view(np.uint32)
    cand[..., 0], cand[..., 1] = np.arange(CANDIDATES), logits.view(np.uint32)
    cand[..., 3] = 0xFFFFFFFF
    target = rng.integers(0, CANDIDATES, POSITIONS).astype(np.uint32)
    target[::4] = OUTSIDE
    base = rng.uniform(-1, 0, POSITIONS).astype(np.float32)
    shape = (POPULATION, POSITIONS)
    buffers = {
        "row_info": device.array(info), "cand": device.array(cand),
        "code": device.array(np.stack([lower(p, MOST_BYTES) for p in programs])[None]),
        "target": device.array(target), "base": device.array(base), "loglik": device.filled(shape, "f32", 0xFF),
        "pick": device.filled(shape, "u32", 0xFF), "traps": device.filled((*shape, 2), "u32", 0xFF),
    }  # fmt: skip
    few = slice(0, CHECKED)

    def checks() -> list[Check]:
        loglik, pick, traps = flux_fitness(info[few], cand[few], programs, target[few], base[few])
        return [("loglik", _first, loglik), ("pick", _first, pick), ("traps", _first, traps)]

    steps = [run_candidate(p, info[0], cand[0, 0], 0, 0, GPU_STEPS)[2].steps for p in programs]
    work = float(np.mean(steps)) * POPULATION * POSITIONS * CANDIDATES
    limit = kernels.contract("flux_fitness").nmse
    return Prepared(buffers, partial(dispatch, "flux_fitness", {"least": LEAST}), checks, limit, None, work)


def _first(a: Array) -> Array:
    return a[:, :CHECKED]
