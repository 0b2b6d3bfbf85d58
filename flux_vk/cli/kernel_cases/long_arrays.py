"""Top-k, sort and prefix sums over as many elements as a vocabulary has, whole and by their single kernels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.cli.bench_cases import MAX_ELEMENTS, Array, Buffers, Case, Prepared, Sizes, dispatch, random_array, same
from flux_vk.gpu import ops
from flux_vk.gpu.reference import reference

if TYPE_CHECKING:
    from flux_vk.gpu import Chain, Device


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """One row of the vocabulary's length, whatever the row counts."""
    n = min(sizes.vocab, MAX_ELEMENTS)
    yield Case("top_k", f"1 x {n}, 40", partial(_top_k, n))
    yield Case("top_k_blocks", f"1 x {n}", partial(_top_k_blocks, n))
    yield Case("sort", f"{n}, all passes", partial(_sort, n))
    yield Case("sort_count", f"{n}, one pass", partial(_sort_count, n))
    yield Case("prefix_scan", f"{n}, all steps", partial(_scan, n))
    yield Case("prefix_scan_totals", f"{n}", partial(_totals, n))


def _top_k(n: int, device: Device, rng: np.random.Generator) -> Prepared:
    x = rng.standard_normal((1, n), dtype=np.float32)
    k = min(40, n)
    order = np.argsort(-x[0], kind="stable")[:k].astype(np.uint32)
    buffers = {
        "x": device.array(x), "values": device.filled((1, k), "f32", 0xFF),
        "indices": device.filled((1, k), "u32", 0xFF),
    }  # fmt: skip
    checks = [("values", same, x[:, order]), ("indices", same, order[None, :])]
    return Prepared(buffers, lambda c, b: ops.top_k(c, **b), checks, 0.0)


def _top_k_blocks(n: int, device: Device, rng: np.random.Generator) -> Prepared:
    x = rng.standard_normal((1, n), dtype=np.float32)
    return _one("top_k_blocks", device, {"x": x}, "maxima", reference("top_k_blocks")(x), {})


def _sort(n: int, device: Device, rng: np.random.Generator) -> Prepared:
    keys = random_array(rng, "u32", (n,))
    order = np.argsort(keys, kind="stable").astype(np.uint32)
    buffers = {
        "keys": device.array(keys), "keys_out": device.filled((n,), "u32", 0xFF),
        "values_out": device.filled((n,), "u32", 0xFF),
    }  # fmt: skip
    checks = [("keys_out", same, keys[order]), ("values_out", same, order)]
    return Prepared(buffers, _append_sort, checks, 0.0)


def _append_sort(chain: Chain, b: Buffers) -> object:
    return ops.sort(chain, keys=b["keys"], keys_out=b["keys_out"], values_out=b["values_out"])


def _sort_count(n: int, device: Device, rng: np.random.Generator) -> Prepared:
    keys = random_array(rng, "u32", (n,))
    want = reference("sort_count")(keys, shift=4, block=ops.ITEMS * ops.SORT_WG)
    return _one("sort_count", device, {"keys": keys}, "counts", want, {"shift": 4, "WG": ops.SORT_WG})


def _scan(n: int, device: Device, rng: np.random.Generator) -> Prepared:
    x = random_array(rng, "u32", (n,))
    buffers = {"x": device.array(x), "y": device.filled((n,), "u32", 0xFF)}
    want = np.cumsum(x, dtype=np.uint32)
    return Prepared(buffers, lambda c, b: ops.prefix_scan(c, **b), [("y", same, want)], 0.0)


def _totals(n: int, device: Device, rng: np.random.Generator) -> Prepared:
    x = random_array(rng, "u32", (n,))
    want = reference("prefix_scan_totals")(x, block=ops.ITEMS * ops.SCAN_WG)
    return _one("prefix_scan_totals", device, {"x": x}, "totals", want, {"WG": ops.SCAN_WG})


def _one(
    kernel: str, device: Device, inputs: dict[str, Array], output: str, want: Array, scalars: dict[str, int]
) -> Prepared:
    """A kernel with integers in one output, which must be equal."""
    buffers = {name: device.array(a) for name, a in inputs.items()}
    buffers[output] = device.filled(want.shape, "u32", 0xFF)
    return Prepared(buffers, partial(dispatch, kernel, scalars), [(output, same, want)], 0.0)
