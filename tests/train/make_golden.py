"""Writes tests/train/golden/*.npz from PyTorch: `python -m tests.train.make_golden` (needs the oracle extra).

Losses and gradients of every tiny model, two short trainings and schedules. The data are described in
tests/train/golden/README.md, which this program writes too.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.train.golden_data import CASES, FOLDER, RANK, SCALE, read_npz
from tests.train.packed_rows import FIELDS, Packed, random_batch
from tests.train.tiny_models import MODELS, Tiny, lora_tensors
from tests.train.torch_oracle import Oracle, gradients, leaves

ROWS = 40
STEPS = 5
ORDER = [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]
"""Which two of the four batches an optimiser step of the trainings accumulates."""
CLIP = 1.0
DECAY = 0.01
MOMENTUM = 0.9
BETAS, EPS = (0.9, 0.999), 1e-8
TRAININGS: dict[str, tuple[float, Callable[..., torch.optim.Optimizer]]] = {
    "adamw": (1e-2, lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=BETAS, eps=EPS, weight_decay=DECAY)),
    "sgd": (0.3, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=MOMENTUM, weight_decay=DECAY)),
}
"""Name: (peak learning rate, optimiser)."""


def gradient_batch(m: Tiny) -> Packed:
    """Three sequences (17, 5 and 11 rows; labels of the first 6, 0 and 2 ignored) and 7 rows of padding."""
    return random_batch(m.name, (17, 5, 11), (6, 0, 2), ROWS, m.vocab)


def training_batches(m: Tiny) -> list[Packed]:
    """Four batches of unequal lengths and counts."""
    lengths = [(17, 5, 11), (9, 24), (40,), (3, 8, 2, 20)]
    prompts = [(6, 0, 2), (1, 4), (0,), (0, 3, 0, 7)]
    return [
        random_batch(f"train/{i}", n, p, ROWS, m.vocab) for i, (n, p) in enumerate(zip(lengths, prompts, strict=True))
    ]


def fields(batch: Packed) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in FIELDS} | {"tokens": np.int64(batch.tokens)}


def gradient_case(m: Tiny, targets: str, batch: Packed) -> Iterator[tuple[str, Any]]:
    rows, found = gradients(m, lora_tensors(m, targets, RANK), batch, SCALE)
    yield f"{targets}/row_losses", rows
    for name, (da, db) in found.items():
        yield f"{targets}/a/{name}", da.astype(np.float32)
        yield f"{targets}/b/{name}", db.astype(np.float32)


def cosine(steps: int) -> Callable[[torch.optim.Optimizer], Any]:
    return lambda optimizer: transformers.get_cosine_schedule_with_warmup(optimizer, 0, steps)


def training(m: Tiny, name: str) -> dict[str, Any]:
    """STEPS optimiser steps of two batches each from B = 0, in float64, as a PyTorch training loop does them."""
    peak, make = TRAININGS[name]
    batches, oracle = training_batches(m), Oracle(m)
    pairs = leaves(lora_tensors(m, "all", RANK, zero_b=True))
    parameters = [p for pair in pairs.values() for p in pair]
    optimizer = make(parameters, peak)
    scheduler = cosine(STEPS)(optimizer)
    rates, losses, norms = [], [], []
    for step in ORDER:
        counted = sum(batches[i].counted for i in step)
        optimizer.zero_grad()
        for i in step:
            loss = oracle.losses(batches[i], pairs, SCALE).sum()
            (loss / counted).backward()
            losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, CLIP).item())
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    out = {key: np.stack([fields(b)[key] for b in batches]) for key in fields(batches[0])}
    out |= {"order": np.array(ORDER), "lr": np.array(rates), "losses": np.array(losses).reshape(STEPS, -1)}
    out |= {"grad_norms": np.array(norms), "clip": CLIP, "weight_decay": DECAY, "momentum": MOMENTUM}
    out |= {"beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS}
    for weight, (a, b) in pairs.items():
        out[f"a/{weight}"] = a.detach().numpy().astype(np.float32)
        out[f"b/{weight}"] = b.detach().numpy().astype(np.float32)
    return out


def schedules(total: int = 20, peak: float = 2e-4, lowest: float = 1e-5) -> dict[str, Any]:
    """float64[total + 1] by "KIND/WARMUP": the rate of the step that i completed steps go before."""
    makers: dict[str, Callable[..., Any]] = {
        "cosine": lambda o, w: transformers.get_cosine_schedule_with_warmup(o, w, total),
        "linear": lambda o, w: transformers.get_linear_schedule_with_warmup(o, w, total),
        "cosine-min": lambda o, w: transformers.get_cosine_with_min_lr_schedule_with_warmup(o, w, total, min_lr=lowest),
        "constant": lambda o, w: transformers.get_constant_schedule_with_warmup(o, w),
    }
    out: dict[str, Any] = {"total": total, "peak": peak, "lowest": lowest}
    for kind, make in makers.items():
        for warmup in (0, 1, 5):
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
            scheduler = make(optimizer, warmup)
            rates = []
            for _ in range(total + 1):
                rates.append(scheduler.get_last_lr()[0])
                optimizer.step()
                scheduler.step()
            out[f"{kind}/{warmup}"] = np.array(rates)
    return out


README = """# Golden data of the training tests

Made by `python -m tests.train.make_golden` with
{versions}.
All arithmetic is float64; gradients and final parameters are stored as float32. The weights of models and adapters
are not stored: they follow from the rule in `tests/train/tiny_models.py` (raw PCG64 numbers of a named stream).

* `MODEL.npz`, for each of {models}:
  `ids`, `pos`, `first`, `last`, `labels` uint32[{rows}] (three sequences and padding; 0xFFFFFFFF = ignored), `tokens`
  (rows without padding); for the targets T = `all` (every linear layer) and, in F32 models, `qv` (q and v; phi3: the
  fused q, k, v): `T/row_losses` float64[{rows}], `T/a/WEIGHT`, `T/b/WEIGHT` = gradients of the sum of the losses for
  A and B of rank {rank}, alpha / rank = {scale}, which begin as `lora_tensors(model, T, {rank})`.
* `llama-adamw.npz`, `llama-sgd.npz`: {steps} optimiser steps from B = 0, all linear layers: the four batches stacked,
  `order` (the batches of each step), `lr`, `losses` (sums, before the step), `grad_norms` (of the mean's gradient,
  before clipping), the constants (`clip`, `weight_decay`, ...) and the final `a/WEIGHT`, `b/WEIGHT`.
* `schedules.npz`: rates by `KIND/WARMUP` (cosine, linear, constant, and cosine-min, which ends at `lowest` and not at
  0; 0, 1, 5 steps of warm-up): entry i belongs to the step before which i are done; `total` = 20 steps, `peak`.

`tests/train/test_golden_data.py` checks them without PyTorch, `tests/train/test_torch_oracle.py` with it, and the
oracle itself against transformers and PEFT.
"""


def write(path: Path, write_to: Callable[[Path], object]) -> None:
    """Write through a temporary name."""
    partial = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    write_to(partial)
    partial.replace(path)


def save(name: str, arrays: dict[str, Any]) -> None:
    """Write golden/NAME.npz, unless it holds these numbers already (archives carry the time they were made at)."""
    if (FOLDER / f"{name}.npz").exists():
        there = read_npz(name)
        if there.keys() == arrays.keys() and all(np.array_equal(there[key], arrays[key]) for key in arrays):
            print(f"{name}.npz is as it was")
            return
    write(FOLDER / f"{name}.npz", lambda path: np.savez_compressed(path, **arrays))
    print(f"{name}.npz {(FOLDER / f'{name}.npz').stat().st_size} bytes")


def main() -> None:
    """Write all files."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for m in MODELS.values():
        batch = gradient_batch(m)
        arrays = fields(batch)
        for name, targets in CASES:
            if name == m.name:
                arrays |= dict(gradient_case(m, targets, batch))
        save(m.name, arrays)
    for name in TRAININGS:
        save(f"llama-{name}", training(MODELS["llama"], name))
    save("schedules", schedules())
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}"
    text = README.format(
        versions=f"{versions} and transformers {transformers.__version__} on the CPU",
        models=", ".join(f"`{name}`" for name in MODELS),
        rows=ROWS, rank=RANK, scale=SCALE, steps=STEPS,
    )  # fmt: skip
    write(FOLDER / "README.md", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
