"""Rows and candidates for the interpreter's tests, and the comparison of its states with the reference VM's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flux_vk.flux.lower import lower
from flux_vk.flux.program import Program
from flux_vk.gpu import Device
from tests.gpu.harness import run_kernel

U32 = npt.NDArray[np.uint32]
UNTOUCHED = 0xFFFFFFFF


def bits(x: npt.ArrayLike) -> U32:
    """Floats as their words."""
    return np.asarray(x, np.float32).view(np.uint32)


def some_rows(rng: np.random.Generator, rows: int, most: int, slots: int = 1) -> tuple[U32, U32]:
    """(row_info, cand): logits of a softmax, repeated tokens now and then, all facts in their ranges."""
    logits = -np.sort(-3 * rng.standard_normal((rows, most)).astype(np.float32), axis=1)
    cand = np.zeros((rows, most, 4), np.uint32)
    cand[..., 0] = rng.integers(0, 151_936, (rows, most))
    cand[..., 1] = bits(logits)
    cand[..., 2] = rng.integers(0, 4, (rows, most))
    cand[..., 3] = np.where(cand[..., 2] > 0, rng.integers(1, 60, (rows, most)), UNTOUCHED)
    info = np.zeros((rows, 8), np.uint32)
    info[:, 0] = most
    info[:, 1] = bits(logits[:, 0])
    info[:, 2] = bits(rng.uniform(0, 10, rows))
    info[:, 3] = bits(np.log(np.exp(logits.astype(np.float64)).sum(1)))
    info[:, 4] = rng.integers(0, 5000, rows)
    info[:, 5:7] = rng.integers(0, 1 << 32, (rows, 2))
    info[:, 7] = np.arange(rows) % slots
    return info, cand


def code_of(programs: Sequence[Sequence[Program | None]], capacity: int = 1024) -> U32:
    """The `code` buffer for programs by slot and agent."""
    empty = np.zeros_like(lower(Program(b"\0"), capacity))
    return np.stack([[lower(p, capacity) if p else empty for p in agents] for agents in programs])


def interpret(
    device: Device, info: U32, cand: U32, code: U32, *, traps: U32 | None = None, **scalars: int
) -> tuple[npt.NDArray[np.float32], U32, U32]:
    """The kernel with guards around its buffers: (score, traps, state); what it leaves alone has all bits set."""
    shape = (len(info), code.shape[1], cand.shape[1])
    given = {"row_info": info, "cand": cand, "code": code}
    given["traps"] = np.zeros((*shape[:2], 2), np.uint32) if traps is None else traps
    out = {"score": (shape, "f32"), "state": ((*shape, 36), "u32")}
    found = run_kernel(device, "flux_interpret", given, out, STATE=1, **scalars)
    return found["score"], found["traps"], found["state"]


def one_nan(states: U32) -> U32:
    """States with all NaN among their float registers alike: its bits are the processor's own."""
    states = states.copy()
    floats = states[..., 16:32]
    floats[np.isnan(floats.view(np.float32))] = UNTOUCHED
    return states
