"""A training step's kernels other than products and attention: loss, gated units, optimiser, dropout, shuffle."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flux_vk.cli.bench_cases import Array, Case, Prepared, Sizes, below, dispatch, expected, plain, same
from flux_vk.gpu import kernels
from flux_vk.gpu.optimizer import norm_parts, pack_knobs

if TYPE_CHECKING:
    from flux_vk.gpu import Device

TILE = 32
"""Rows of logits at once; a step goes through its rows in such tiles."""
RANK = 32
LAYERS = 24
Inputs = dict[str, Array]


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """A step of `rows` tokens; parameters as of rank 32 on q and v."""
    for r in rows:
        for kernel in ("swiglu_backward", "geglu_backward"):
            yield Case(kernel, f"{r} x {sizes.ffn}", partial(_run, kernel, {"R": r, "F": sizes.ffn}))
        n = min(r, TILE)
        for label, scalars in (("loss", {"GRAD": 0}), ("gradient", {}), ("capped", {"softcap": 30})):
            at = {"R": n, "V": sizes.vocab, **scalars}
            yield Case("cross_entropy", f"{n} x {sizes.vocab}, {label}", partial(_run, "cross_entropy", at))
        at = {"T": r, "V": min(sizes.vocab, 4096), "D": sizes.dim}
        yield Case("embed_backward", f"{r} of {at['V']} x {sizes.dim}", partial(_run, "embed_backward", at))
        drop = {"R": r, "D": sizes.dim, "site": 1, "rate": 0.1}
        yield plain("dropout", f"{r} x {sizes.dim}", drop)
    width = 2 * sizes.dim + (sizes.heads + sizes.kv_heads) * sizes.head_dim
    p = LAYERS * RANK * width
    yield Case("grad_norm", f"{p}", partial(_run, "grad_norm", {"P": p, "N": norm_parts(p)}))
    yield Case("grad_clip", f"{norm_parts(p)} parts", partial(_run, "grad_clip", {"N": norm_parts(p)}))
    for kernel in ("adamw", "sgd"):
        yield Case(kernel, f"{p}", partial(_run, kernel, {"P": p}))
    yield Case("shuffle", "100000", partial(_run, "shuffle", {"N": 100_000, "seed_lo": 1}))


def _inputs(kernel: str, values: dict[str, Any], rng: np.random.Generator) -> Inputs:
    """What the kernel reads, of shapes by its contract; ids, knobs and moments are what they may be."""
    c = kernels.contract(kernel)
    made: Inputs = {}
    for b in c.bindings:
        if not b.reads:
            continue
        shape = tuple(2 * values["F"] if e == "2*F" else int(values.get(e, 0) or e) for e in b.shape)
        if b.name in ("ids", "labels"):
            made[b.name] = below(rng, values["V"], shape)
        elif b.name == "knobs":
            made[b.name] = pack_knobs(lr=1e-3, step=5, max_norm=1, betas=(0.999, 0.999), momentum=0.999)
        elif b.name == "stats":
            made[b.name] = np.array([1, 1, 1, 0], np.float32)
        else:
            made[b.name] = 0.1 * rng.standard_normal(shape, dtype=np.float32)
    for name in ("v", "parts"):
        if name in made:
            made[name] = np.abs(made[name])
    return made


def _run(kernel: str, values: dict[str, Any], device: Device, rng: np.random.Generator) -> Prepared:
    """Replays go on with what the one before left in place; the check is of the first.

    Numbers that shrank with every replay would become subnormal, for which a CPU stops: gradients of gated units of
    about 2 hand the numbers round, and moments decay slowly.
    """
    c = kernels.contract(kernel)
    arrays = _inputs(kernel, values, rng)
    if kernel in ("swiglu_backward", "geglu_backward"):
        arrays["g"] += 2
    buffers = {name: device.array(a) for name, a in arrays.items()}
    for b in c.bindings:
        if not b.reads:
            buffers[b.name] = device.filled(tuple(int(values.get(e, 0) or e) for e in b.shape), b.type, 0xFF)
    names = {p.name for p in c.push if p.value is None} | {s.name for s in c.spec}
    scalars = {k: v for k, v in values.items() if k in names}
    written = [b.name for b in c.bindings if b.writes]
    known = {**arrays, **{k.lower(): v for k, v in values.items()}}

    def checks() -> list[tuple[str, Any, Array]]:
        return [(name, same, want) for name, want in zip(written, expected(c, known), strict=True)]

    return Prepared(buffers, partial(dispatch, kernel, scalars), checks, max(c.nmse, 1e-12))
