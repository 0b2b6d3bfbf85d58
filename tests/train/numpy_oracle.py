"""The loss of a tiny model with adapters in float64 NumPy: the package's reference forward on merged weights.

What golden gradients are checked with where PyTorch is not installed: by finite differences of this loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flux_vk.formats.gguf import GGUFFile, open_gguf
from flux_vk.models.reference import _Pass
from flux_vk.models.registry import read_config
from tests.train.packed_rows import IGNORED, Packed, unpack

F64 = npt.NDArray[np.float64]
Pairs = Mapping[str, tuple[F64, F64]]


class Merged(_Pass):
    """The reference forward with W + s B A in place of W. Tensors are read once, and stay after the file."""

    def __init__(self, f: GGUFFile) -> None:
        cfg = read_config(f)
        super().__init__(f, cfg, cfg.context_length)
        self.base = {name: super(Merged, self).tensor(name) for name in f.tensors}
        self.now = dict(self.base)

    def tensor(self, name: str) -> F64:
        return self.now[name]

    def set_adapters(self, pairs: Pairs, s: float) -> None:
        """Merge these A and B; weights without a pair are the file's."""
        self.now = {**self.base, **{name: self.base[name] + s * (b @ a) for name, (a, b) in pairs.items()}}


def load_merged(path: Path) -> Merged:
    with open_gguf(path) as f:
        return Merged(f)


def row_losses(model: Merged, batch: Packed) -> F64:
    """-log p(label) of each row float64[T], 0 where the label is ignored; every sequence goes through alone."""
    out = np.zeros(len(batch))
    begin = 0
    for ids, labels in unpack(batch):
        logits = model.run(ids.astype(np.int64))
        counted = np.flatnonzero(labels != IGNORED)
        wide = logits - logits.max(axis=1, keepdims=True)
        log_p = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
        out[begin + counted] = -log_p[counted, labels[counted]]
        begin += len(ids)
    return out
