"""Reads tests/train/golden: batches, losses and gradients that PyTorch computed. How they were made: make_golden.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.train.packed_rows import FIELDS, Packed
from tests.train.tiny_models import F32, MODELS, Tiny, lora_tensors

FOLDER = Path(__file__).resolve().parent / "golden"
SCALE = 2.0
"""alpha / rank of the adapters of all golden data."""
RANK = 4
CASES = [(m.name, targets) for m in MODELS.values() for targets in ("all", "qv") if targets == "all" or not m.types]
"""(model, targets): all linear layers; q and v alone (models in F32)."""


@dataclass(frozen=True)
class Golden:
    """One case. `row_losses` float64[T] is -log p(label), gradients are of its sum: {name: (dA, dB)} float32."""

    model: Tiny
    lora: dict[str, tuple[F32, F32]]
    batch: Packed
    row_losses: npt.NDArray[np.float64]
    gradients: dict[str, tuple[F32, F32]]

    @property
    def loss(self) -> float:
        return float(self.row_losses.sum())


def read_npz(name: str) -> dict[str, Any]:
    """The arrays of golden/NAME.npz."""
    with np.load(FOLDER / f"{name}.npz") as z:
        return dict(z)


def read_batch(z: Mapping[str, Any], at: Any = ...) -> Packed:
    """The batch that `ids`, `pos`, ... hold; `at` picks one of several."""
    arrays = {name: z[name][at] for name in FIELDS}
    return Packed(**arrays, tokens=int(z["tokens"][at]))


def golden(name: str, targets: str) -> Golden:
    """The case of this model and these targets."""
    z, model = read_npz(name), MODELS[name]
    lora = lora_tensors(model, targets, RANK)
    return Golden(
        model,
        lora,
        read_batch(z),
        z[f"{targets}/row_losses"],
        {weight: (z[f"{targets}/a/{weight}"], z[f"{targets}/b/{weight}"]) for weight in lora},
    )


def relative(got: Any, want: Any) -> float:
    """|got - want| / |want| of two tensors (Euclidean norms)."""
    wide = np.asarray(want, dtype=np.float64)
    return float(np.linalg.norm(np.asarray(got, dtype=np.float64) - wide) / max(np.linalg.norm(wide), 1e-30))
