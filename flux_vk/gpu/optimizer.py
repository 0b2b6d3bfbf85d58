"""What the host gives to the optimiser's kernels, and their calls on parameters larger than one binding may be.

Not for: schedules of the learning rate, or what the parameters are.

One step, appended to a chain behind the last micro-batch's backward pass:
    gradient_stats(chain, grads=, knobs=, stats=)              norm, factor of clipping, whether all is finite
    adamw(chain, params=, grads=, m=, v=, knobs=, stats=)      or sgd(...); the gradients are 0 afterwards

knobs f32[16] (`pack_knobs` makes them; the host writes them before a submit):
    0 lr   1 weight decay   2 1 - beta1^t   3 1 - beta2^t   4 max_norm, 0: no clipping   5 1 / counted labels
    6 beta1   7 beta2   8 eps   9 momentum   10 1 - beta1   11 1 - beta2   (10, 11 left 0: 1 - beta in 32 bits)
stats f32[4]: 0 norm of the mean gradient   1 factor: mean and clipping in one   2 one where finite, else 0   3 zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError
from .buffer import Buffer
from .chain import Chain

KNOBS = 16
STATS = 4
MOST_PARTS = 1024
PART = 4096
"""Elements of a part of the norm, as long as there are no more than MOST_PARTS of them."""


def pack_knobs(
    *,
    lr: float,
    step: int = 1,
    inverse_count: float = 1.0,
    weight_decay: float = 0.0,
    max_norm: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: float = 0.0,
) -> npt.NDArray[np.float32]:
    """The knobs [16] of optimiser step `step` (from 1 on). inverse_count: 1 / labels counted in all its micro-batches.

    1 - beta and 1 - beta^t are taken in 64 bits: of beta2 = 0.999 in 32 bits, 1 - beta2 would be wrong by 5e-5.
    Raises ArgumentError for a step below 1 and betas outside [0, 1).
    """
    if step < 1 or not all(0 <= b < 1 for b in betas):
        raise ArgumentError(f"optimiser step {step} with betas {betas}; expected a step from 1 on and 0 <= beta < 1")
    # 1 - beta^t without cancellation
    corrections = [-math.expm1(step * math.log(b)) if b else 1.0 for b in betas]
    made = np.zeros(KNOBS, np.float32)
    made[:12] = (
        lr, weight_decay, *corrections, max_norm, inverse_count, *betas, eps, momentum, 1 - betas[0], 1 - betas[1],
    )  # fmt: skip
    return made


def norm_parts(elements: int) -> int:
    """How many parts the norm of so many gradients is summed in: a workgroup each; 1,024 from 4 million elements on."""
    return min(MOST_PARTS, max(1, -(-elements // PART)))


def gradient_stats(chain: Chain, *, grads: Buffer, knobs: Buffer, stats: Buffer) -> Chain:
    """Append the global norm of grads [P] and what follows from it: stats [4] (see above). Two dispatches or more."""
    pieces = list(_pieces(chain, grads))
    counts = [norm_parts(stop - first) for first, stop in pieces]
    parts, at = chain.scratch((sum(counts),)), 0
    for (first, stop), n in zip(pieces, counts, strict=True):  # all but the last have MOST_PARTS: they begin aligned
        chain.dispatch("grad_norm", g=grads.rows(first, stop), parts=parts.rows(at, at + n))
        at += n
    return chain.dispatch("grad_clip", parts=parts, knobs=knobs, stats=stats)


def adamw(chain: Chain, *, params: Buffer, grads: Buffer, m: Buffer, v: Buffer, knobs: Buffer, stats: Buffer) -> Chain:
    """Append a step of AdamW as torch.optim.AdamW does it; params, grads, m, v [P] of any length."""
    return _step(chain, "adamw", {"params": params, "grads": grads, "m": m, "v": v}, knobs, stats)


def sgd(chain: Chain, *, params: Buffer, grads: Buffer, m: Buffer, knobs: Buffer, stats: Buffer) -> Chain:
    """Append a step of SGD with momentum as torch.optim.SGD does it (m: velocity, begun at 0); [P] of any length."""
    return _step(chain, "sgd", {"params": params, "grads": grads, "m": m}, knobs, stats)


def _step(chain: Chain, kernel: str, arrays: dict[str, Buffer], knobs: Buffer, stats: Buffer) -> Chain:
    for first, stop in _pieces(chain, arrays["params"]):
        args: dict[str, Any] = {name: buffer.rows(first, stop) for name, buffer in arrays.items()}
        chain.dispatch(kernel, **args, knobs=knobs, stats=stats)
    return chain


def _pieces(chain: Chain, buffer: Buffer) -> Iterator[tuple[int, int]]:
    """Runs of elements that one binding can hold; they begin at multiples of every alignment."""
    n, step = buffer.size, max(1, chain.device.max_range // 65536) * 16384
    for first in range(0, n, step) if n else (0,):
        yield first, min(first + step, n)
