"""Attention over paged caches, for tests: caches with NaN wherever nothing may be read, one run, what is expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.gpu import Device
from flux_vk.gpu.reference import attention as reference
from tests.gpu.harness import run_kernel

PAGE = 32


@dataclass
class Cache:
    """Pages of several slots, each slot filled up to and with its last position (-1 = empty)."""

    pages: npt.NDArray[np.uint32]
    slot_info: npt.NDArray[np.uint32]
    k: npt.NDArray[np.float32]
    v: npt.NDArray[np.float32]

    def typed(self, kv_type: str) -> Cache:
        dtype = np.float16 if kv_type == "f16" else np.float32
        return Cache(self.pages, self.slot_info, self.k.astype(dtype), self.v.astype(dtype))


def make_cache(
    rng: np.random.Generator,
    last: list[int],
    kv_heads: int,
    head_dim: int,
    info: list[tuple[int, int]] | None = None,
    scale: float = 1.0,
) -> Cache:
    """Random keys and values; pages in random order, those not in use and positions past `last` hold NaN."""
    info = info or [(0, 0)] * len(last)
    slot_info = np.array([(*pair, 0, 0) for pair in info], np.uint32)
    entries = [reference.page_entry(p, slot_info[s], PAGE) + 1 if p >= 0 else 0 for s, p in enumerate(last)]
    n_pages = sum(entries) + 2
    table = np.full((len(last), max(entries) + 1), 0xFFFFFFFF, np.uint32)
    free = rng.permutation(n_pages).astype(np.uint32)
    k = np.full((n_pages, kv_heads, PAGE, head_dim), np.nan, np.float32)
    v = k.copy()
    for s, count in enumerate(entries):
        table[s, :count], free = free[:count], free[count:]
        for e in range(count):
            used = last[s] % PAGE + 1 if e == count - 1 else PAGE
            k[table[s, e], :, :used] = scale * rng.standard_normal((kv_heads, used, head_dim))
            v[table[s, e], :, :used] = rng.standard_normal((kv_heads, used, head_dim))
    return Cache(table, slot_info, k, v)


def run_attention(
    device: Device,
    q: npt.NDArray[np.float32],
    pos: npt.NDArray[np.uint32],
    slot: npt.NDArray[np.uint32],
    cache: Cache,
    heads: int,
    **scalars: Any,
) -> npt.NDArray[np.float32]:
    kv_heads, head_dim = cache.k.shape[1], cache.k.shape[3]
    inputs: dict[str, npt.NDArray[Any]] = {
        "q": q,
        "pos": pos,
        "slot": slot,
        "pages": cache.pages,
        "slot_info": cache.slot_info,
        "kcache": cache.k,
        "vcache": cache.v,
    }
    out: dict[str, tuple[tuple[int, ...], str]] = {"y": ((len(q), heads * head_dim), "f32")}
    scalars = {"HEAD_DIM": head_dim, "GROUP": min(8, heads // kv_heads), "scale": head_dim**-0.5, **scalars}
    if scalars.get("variant") == "lane":
        scalars["variant"] = "f16.lane" if cache.k.dtype == np.float16 else "f32.lane"
    share = scalars.pop("share", True)
    if scalars.get("SPLIT") and share:
        blocks = kv_heads * -(-(heads // kv_heads) // scalars["GROUP"])
        chunks = -(-cache.pages.shape[1] // scalars["CHUNK"])
        out["partial"] = ((len(q) * heads * chunks * (head_dim + 4),), "f32")
        inputs["counters"] = np.zeros(len(q) * blocks, np.uint32)
    got = run_kernel(device, "attention", inputs, out, heads=heads, kv_heads=kv_heads, **scalars)
    assert not got.get("counters", np.zeros(1)).any(), "the counters were not reset"
    return got["y"]


def expect(
    q: npt.NDArray[np.float32],
    pos: npt.NDArray[np.uint32],
    slot: npt.NDArray[np.uint32],
    cache: Cache,
    heads: int,
    scale: float | None = None,
    softcap: float = 0.0,
    window: int = 0,
) -> npt.NDArray[np.float64]:
    return reference.attention(
        q, pos, slot, cache.pages, cache.slot_info, cache.k, cache.v, heads=heads, kv_heads=cache.k.shape[1],
        scale=cache.k.shape[3] ** -0.5 if scale is None else scale, softcap=softcap, window=window,
    )  # fmt: skip


def rows_of(*pairs: tuple[int, int]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """(pos, slot) arrays of rows given as (slot, position)."""
    return np.array([p for _, p in pairs], np.uint32), np.array([s for s, _ in pairs], np.uint32)


FORMS: list[dict[str, object]] = [{"WG": 8}, {"WG": 32}, {"WG": 8, "variant": "lane"}]
"""Workgroup sizes and the variant for few-lane devices, which needs subgroups of eight."""


def able(device: Device, form: dict[str, object]) -> dict[str, object]:
    """A copy of the form; skips the test where the device cannot run it."""
    if "variant" in form and int(device.limits["subgroup_size"]) < 8:
        pytest.skip("this device's subgroups have fewer than eight lanes")
    return dict(form)
