"""Which linear layers get adapters, and where the adapters' numbers lie in one flat array.

Not for: files of adapters (formats/adapter.py) or their gradients (step.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..formats.adapter import Adapter, LoraPair, peft_names
from ..models import ModelConfig
from ..models.tensors import model_tensors

ALIGN = 64
"""Every matrix begins at a multiple of this many floats, so that it can be bound by itself on every device."""

ALL_LINEAR = "all-linear"

_JOINED = {
    "q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj",
}  # fmt: skip
"""The layer that does a layer's work where a model has several in one (Phi-3)."""

F32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters, y = x W^T + s (drop(x) A^T) B^T (Hu et al. 2021, arXiv 2106.09685).

    rank r: A is [r, in], B [out, r]. s = alpha / r, or alpha / sqrt(r) with `rslora` (arXiv 2312.03732).
    dropout: share of x that is left out in training. target: names as PEFT has them (q_proj, k_proj, v_proj, o_proj,
    gate_proj, up_proj, down_proj; the short forms q ... down; where a model has them joined, qkv_proj and gate_up_proj
    are meant), or "all-linear". Raises InputError naming what is wrong.
    """

    rank: int = 32
    alpha: float = 64.0
    dropout: float = 0.0
    target: tuple[str, ...] = ("q_proj", "v_proj")
    rslora: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.target, str):
            object.__setattr__(self, "target", tuple(name.strip() for name in self.target.split(",")))
        for name, kind in (("rank", Integral), ("alpha", Real), ("dropout", Real)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name} is {getattr(self, name)!r}; expected a number")
        if not 1 <= self.rank <= 1024:
            raise InputError(f"rank is {self.rank}; expected 1 to 1024")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"alpha is {self.alpha}; expected a positive number")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; expected 0 up to, but without, 1")
        if not self.target:
            raise InputError(f"target is empty; expected names such as q_proj,v_proj, or {ALL_LINEAR}")

    @property
    def scale(self) -> float:
        """s of the formula."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class Site:
    """One adapted weight: its GGUF name, its sizes, and where A and B begin in the flat array (in floats)."""

    number: int
    weight: str
    rank: int
    n_in: int
    n_out: int
    a_at: int
    b_at: int


@dataclass(frozen=True)
class Layout:
    """All sites of a model by the weight's name; `size` floats in all, gaps between matrices included."""

    sites: Mapping[str, Site]
    size: int
    spec: LoRA = field(repr=False)

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        return sum(s.rank * (s.n_in + s.n_out) for s in self.sites.values())

    def matrices(self) -> Iterator[tuple[Site, slice, slice]]:
        """Each site with the places of A and B in the flat array."""
        for s in self.sites.values():
            yield s, slice(s.a_at, s.a_at + s.rank * s.n_in), slice(s.b_at, s.b_at + s.rank * s.n_out)


def make_layout(cfg: ModelConfig, lora: LoRA) -> Layout:
    """The sites of a model's adapters. Raises InputError for a target that the architecture does not have."""
    wanted = _parts(cfg, lora.target)
    sites: dict[str, Site] = {}
    at = 0
    for spec in model_tensors(cfg):
        pieces = spec.name.split(".")
        if len(pieces) != 4 or pieces[3] != "weight" or pieces[2] not in wanted or len(spec.shape) != 2:
            continue
        n_out, n_in = spec.shape
        b_at = at + _aligned(lora.rank * n_in)
        sites[spec.name] = Site(len(sites), spec.name, lora.rank, n_in, n_out, at, b_at)
        at = b_at + _aligned(lora.rank * n_out)
    return Layout(sites, at, lora)


def initial(layout: Layout, seed: int) -> F32Array:
    """Fresh parameters: A uniform within +-1/sqrt(in) (Kaiming with a = sqrt 5, as PEFT has it), B zero."""
    flat = np.zeros(layout.size, np.float32)
    for site, a, _ in layout.matrices():
        stream = np.random.Generator(np.random.Philox(key=np.array([seed, site.number], np.uint64)))
        bound = 1.0 / math.sqrt(site.n_in)
        flat[a] = (stream.random(site.rank * site.n_in) * 2.0 - 1.0) * bound
    return flat


def flat_from(layout: Layout, adapter: Adapter) -> F32Array:
    """An adapter's numbers as the flat array, scaled so that this layout's s gives the same layer.

    Raises InputError where tensors or ranks differ.
    """
    missing = sorted(layout.sites.keys() - adapter.tensors.keys())
    extra = sorted(adapter.tensors.keys() - layout.sites.keys())
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which is not among the targets"
        raise InputError(f"the adapter to begin with {what}; give --target as it was trained with")
    flat = np.zeros(layout.size, np.float32)
    for site, a, b in layout.matrices():
        pair = adapter.tensors[site.weight]
        if pair.a.shape != (site.rank, site.n_in) or pair.b.shape != (site.n_out, site.rank):
            raise InputError(
                f"the adapter to begin with has {site.weight} as A {pair.a.shape}, B {pair.b.shape}; expected "
                f"{(site.rank, site.n_in)} and {(site.n_out, site.rank)}: give --rank as it was trained with"
            )
        flat[a] = pair.a.reshape(-1)
        ratio = adapter.scale(site.weight) / layout.spec.scale
        flat[b] = pair.b.reshape(-1) if ratio == 1.0 else pair.b.reshape(-1) * np.float32(ratio)
    return flat


def to_adapter(layout: Layout, flat: F32Array, arch: str, name: str = "", base_model: str = "") -> Adapter:
    """The flat array as an adapter to be written."""
    pairs = {
        site.weight: LoraPair(
            flat[a].reshape(site.rank, site.n_in).copy(), flat[b].reshape(site.n_out, site.rank).copy()
        )
        for site, a, b in layout.matrices()
    }
    spec = layout.spec
    return Adapter(arch, spec.alpha, pairs, spec.rslora, spec.dropout, name, base_model)


def _parts(cfg: ModelConfig, target: tuple[str, ...]) -> frozenset[str]:
    """GGUF names of the wanted layers: attn_q, ffn_down, ..."""
    known = peft_names(cfg.arch)
    if ALL_LINEAR in target:
        return frozenset(known.values())
    parts = []
    for name in target:
        full = name if name.endswith("_proj") else f"{name}_proj"
        full = full if full in known else _JOINED.get(full, full)
        if full not in known:
            raise InputError(
                f"target {name!r}: {cfg.arch} models have {', '.join(known)}; or give {ALL_LINEAR} for all of them"
            )
        parts.append(known[full])
    return frozenset(parts)


def _aligned(n: int) -> int:
    return -(-n // ALIGN) * ALIGN
