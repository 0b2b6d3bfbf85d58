"""Makes optim.npz beside this file: parameters along steps of torch.optim.AdamW and SGD, float32 on the CPU.

Not part of any test run: `python tests/gpu/golden_optim/make.py`, with PyTorch 2.13.0 installed, made what is stored.
Every case has the same gradients [24, 61] and learning rates [24] (warmup, then a cosine) and stores parameters and the
norm of the gradient of every step, and the moments after the last. Where it has a max_norm, each gradient went through
torch.nn.utils.clip_grad_norm_.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

STEPS, SIZE = 24, 61
CASES: dict[str, dict[str, Any]] = {
    "adamw": {"weight_decay": 0.01},
    "adamw_knobs": {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6},
    "adamw_clipped": {"weight_decay": 0.0, "max_norm": 1.0},
    "sgd": {"weight_decay": 0.0},
    "sgd_momentum": {"weight_decay": 0.01, "momentum": 0.9},
    "sgd_clipped": {"weight_decay": 0.0, "momentum": 0.95, "max_norm": 0.5},
}


def lr_at(step: int) -> float:
    """Four steps of warmup to 0.01, then a cosine to 0."""
    return 0.01 * (step / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / STEPS)))


def run(name: str, start: np.ndarray, grads: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters and norms (before clipping) of each step; first and (AdamW) second moments after the last."""
    options = dict(CASES[name])
    max_norm = options.pop("max_norm", 0.0)
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    maker = torch.optim.AdamW if name.startswith("adamw") else torch.optim.SGD
    optimizer = maker([p], lr=0.0, **options)
    found: dict[str, list[np.ndarray]] = {"params": [], "m": [], "v": [], "norm": []}
    for step in range(STEPS):
        p.grad = torch.from_numpy(grads[step].copy())
        norm = torch.nn.utils.clip_grad_norm_([p], max_norm if max_norm else math.inf)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step + 1)
        optimizer.step()
        state = optimizer.state[p]
        found["params"].append(p.detach().numpy().copy())
        found["norm"].append(norm.numpy().copy())
        for ours, theirs in (("m", "exp_avg"), ("v", "exp_avg_sq"), ("m", "momentum_buffer")):
            if state.get(theirs) is not None:
                found[ours].append(state[theirs].numpy().copy())
    last = {f"{name}.{key}": found[key][-1] for key in ("m", "v") if found[key]}
    return {f"{name}.params": np.stack(found["params"]), f"{name}.norm": np.stack(found["norm"]), **last}


def main() -> None:
    """Write optim.npz."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(20261121)
    start = rng.standard_normal(SIZE).astype(np.float32)
    start[:8] = 0  # as LoRA's B begins
    scale = 10.0 ** rng.uniform(-6, 1, SIZE)
    grads = (rng.standard_normal((STEPS, SIZE)) * scale).astype(np.float32)
    grads[:, 8] = 0
    made = {"start": start, "grads": grads, "lr": np.array([lr_at(s + 1) for s in range(STEPS)])}
    for name in CASES:
        made |= run(name, start, grads)
    made["cases"] = np.array(json.dumps({"torch": torch.__version__, "cases": CASES}))
    np.savez_compressed(Path(__file__).with_name("optim.npz"), **made)


if __name__ == "__main__":
    main()
