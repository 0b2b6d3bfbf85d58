"""fma_peak: multiply-adds in registers, in the shapes among which the device's peak is sought."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.cli.bench_cases import Case, Prepared, Sizes, dispatch, same
from flux_vk.gpu import kernels
from flux_vk.gpu.reference import reference

if TYPE_CHECKING:
    from flux_vk.gpu import Device

THREADS = {"cpu": 1 << 13, "gpu": 1 << 18}
"""Invocations, by family: enough for every core several times over."""
ROUNDS = 128
CHAINS = (4, 8, 12, 16)
WORKGROUP = 64


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """The same whatever the model."""
    yield from shapes().values()


def shapes() -> dict[int, Case]:
    """The case of every number of chains."""
    return {acc: Case("fma_peak", f"{acc} chains", partial(fma_peak, acc)) for acc in CHAINS}


def fma_peak(acc: int, device: Device, rng: np.random.Generator) -> Prepared:
    """`acc` chains an invocation; factors near 1, so that every step counts in the result."""
    n = THREADS[device.family]
    x = rng.uniform(0.5, 1.5, n).astype(np.float32)
    steps = 16 * ROUNDS
    scalars = {"rounds": ROUNDS, "m": 1 - 1 / steps, "c": 0.5 / steps}
    buffers = {"x": device.array(x), "y": device.filled((n,), "f32", 0xFF)}
    want = reference("fma_peak")(x, **scalars, acc=acc)
    append = partial(dispatch, "fma_peak", {**scalars, "ACC": acc, "WG": WORKGROUP})
    return Prepared(buffers, append, [("y", same, want)], kernels.contract("fma_peak").nmse)
