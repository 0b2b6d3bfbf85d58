"""Attention in chunks: against float64, and the same bits whether one workgroup walks a context or many share it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_vk.gpu import Chain, Device
from tests.gpu.harness import nmse
from tests.gpu.paged import FORMS, able, expect, make_cache, rows_of, run_attention

pytestmark = pytest.mark.kernel

LENGTHS = [1, 31, 32, 33, 63, 64, 65, 127, 129, 511, 512, 513, 1025, 2900]


@pytest.fixture(params=[*FORMS, {"WG": 64}], ids=lambda form: "-".join(str(v) for v in form.values()))
def form(request: pytest.FixtureRequest, device: Device) -> dict[str, Any]:
    return able(device, request.param)


@pytest.mark.parametrize("kv_type", ["f16", "f32"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "chunk"), [(14, 2, 64, 16), (4, 1, 96, 1), (6, 6, 32, 2), (11, 1, 32, 8)]
)
def test_context_lengths(
    device: Device,
    rng: np.random.Generator,
    form: dict[str, Any],
    kv_type: str,
    heads: int,
    kv_heads: int,
    head_dim: int,
    chunk: int,
) -> None:
    """Rows of all lengths and rows of no slot in one batch, split and not; then each row alone, split."""
    cache = make_cache(rng, [n - 1 for n in LENGTHS], kv_heads, head_dim).typed(kv_type)
    pos, slot = rows_of(*((s, n - 1) for s, n in enumerate(LENGTHS)), (len(LENGTHS), 7), (99, 2000))
    q = rng.standard_normal((len(pos), (heads + 2 * kv_heads) * head_dim), np.float32)
    sizes: dict[str, Any] = {**form, "CHUNK": chunk, "GROUP": min(heads // kv_heads, 6)}
    whole = run_attention(device, q, pos, slot, cache, heads, **sizes)
    want = expect(q, pos, slot, cache, heads)
    for row, length in enumerate(LENGTHS):
        assert nmse(whole[row], want[row]) < 1e-10, f"length {length}"
    assert not whole[len(LENGTHS) :].any(), "a row of no slot is not zero"
    assert np.array_equal(whole, run_attention(device, q, pos, slot, cache, heads, SPLIT=1, **sizes))
    for row in rng.choice(len(pos), 5, replace=False):
        one = slice(row, row + 1)
        alone = run_attention(device, q[one], pos[one], slot[one], cache, heads, SPLIT=1, **sizes)
        assert np.array_equal(alone, whole[one]), f"row {row} alone"


@pytest.mark.parametrize("window", [1, 33, 500, 512, 513, 1100])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_windows_and_dropped_pages(
    device: Device, rng: np.random.Generator, form: dict[str, Any], window: int, softcap: float
) -> None:
    """A window's chunks begin at its first page, wherever that is; the table may have lost pages."""
    info = [(0, 0), (1, 5), (3, 30), (0, 7)]
    last = [1500, 1400, 32 * 60, 290]
    cache = make_cache(rng, last, 2, 32, info)
    pos, slot = rows_of(*((s, p - back) for s, p in enumerate(last) for back in (0, 9)))
    q = rng.standard_normal((len(pos), 4 * 32), np.float32)
    sizes: dict[str, Any] = {**form, "CHUNK": 8, "window": window, "softcap": softcap}
    whole = run_attention(device, q, pos, slot, cache, 4, **sizes)
    assert nmse(whole, expect(q, pos, slot, cache, 4, window=window, softcap=softcap)) < 1e-9
    assert np.array_equal(whole, run_attention(device, q, pos, slot, cache, 4, SPLIT=1, **sizes))


@pytest.mark.parametrize("depth", [1, 2, 5, 40])
def test_any_number_of_chunk_workgroups(
    device: Device, rng: np.random.Generator, form: dict[str, Any], depth: int
) -> None:
    """The last workgroup of a row takes all chunks that are left; those beyond the row's chunks do nothing."""
    cache = make_cache(rng, [700, 20, 300], 2, 32)
    pos, slot = rows_of((0, 700), (1, 20), (2, 300), (0, 350))
    q = rng.standard_normal((len(pos), 6 * 32), np.float32)
    sizes: dict[str, Any] = {**form, "CHUNK": 2}
    whole = run_attention(device, q, pos, slot, cache, 6, **sizes)
    grid = device.array(np.array([len(pos), 2, depth], np.uint32))
    assert np.array_equal(whole, run_attention(device, q, pos, slot, cache, 6, SPLIT=1, indirect=grid, **sizes))


def test_without_room_for_parts_one_takes_all(device: Device, rng: np.random.Generator, form: dict[str, Any]) -> None:
    """SPLIT alone, without scratch memory: the first workgroup of a row takes all, the others do nothing."""
    cache = make_cache(rng, [300], 1, 32)
    pos, slot = rows_of((0, 300))
    q = rng.standard_normal((1, 2 * 32), np.float32)
    whole = run_attention(device, q, pos, slot, cache, 2, CHUNK=2, **form)
    assert np.array_equal(whole, run_attention(device, q, pos, slot, cache, 2, CHUNK=2, SPLIT=1, share=False, **form))


@pytest.mark.parametrize("size", [1e4, 1e18])
def test_huge_scores_stay_finite(device: Device, rng: np.random.Generator, form: dict[str, Any], size: float) -> None:
    """One chunk takes all the weight, or the scores overflow everywhere."""
    cache = make_cache(rng, [300], 1, 32, scale=size)
    pos, slot = rows_of((0, 300), (0, 64))
    q = (size * rng.standard_normal((2, 2 * 32))).astype(np.float32)
    whole = run_attention(device, q, pos, slot, cache, 2, CHUNK=2, **form)
    assert np.isfinite(whole).all()
    assert np.array_equal(whole, run_attention(device, q, pos, slot, cache, 2, CHUNK=2, SPLIT=1, **form))


@pytest.mark.parametrize("family", ["cpu", "gpu"])
def test_replays_as_the_context_grows(device: Device, rng: np.random.Generator, family: str) -> None:
    """A recorded chain of fetch_rows and two layers of attention: every position has the bits of one workgroup.

    The grid follows the position on the device; counters and scratch memory serve every layer and every replay.
    """
    heads, kv_heads, dim, chunk, window = 4, 1, 64, 4, 300
    cache = make_cache(rng, [2100], kv_heads, dim)
    q = rng.standard_normal((1, heads * dim), np.float32)
    sizes: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "scale": 0.125, "HEAD_DIM": dim, "GROUP": heads}
    sizes |= {"WG": 32 if family == "gpu" else 8, "CHUNK": chunk, "SPLIT": 1}
    if family == "cpu" and int(device.limits["subgroup_size"]) >= 8:
        sizes["variant"] = "f32.lane"
    b = {name: device.array(getattr(cache, name)) for name in ("pages", "slot_info")}
    b |= {"kcache": device.array(cache.k), "vcache": device.array(cache.v), "q": device.array(q)}
    slot, slot_pos = device.zeros((1,), "u32"), device.host((1,), "u32")
    y, y_window = device.empty((1, heads * dim)), device.empty((1, heads * dim))
    counters = device.zeros((1,), "u32")
    chain = Chain(device)
    ids, pos, grid = chain.scratch((1,), "u32"), chain.scratch((1,), "u32"), chain.scratch((2, 4), "u32")
    chain.fetch_rows(
        slot=slot, slot_token=slot_pos, slot_pos=slot_pos, ids=ids, pos=pos, slot_info=b["slot_info"], grid=grid,
        blocks=1, window=window, CHUNK=chunk,
    )  # fmt: skip
    room = heads * -(-cache.pages.shape[1] // chunk) * (dim + 4)
    for i, (out, w) in enumerate([(y, 0), (y_window, window), (y, 0)]):
        chain.attention(
            y=out, slot=slot, pos=pos, counters=counters, partial=chain.scratch((room,)), window=w,
            indirect=grid.rows(int(w > 0), int(w > 0) + 1).reshape(4), **b, **sizes,
        )  # fmt: skip
        assert i == len(chain) - 2
    step = chain.record(copies=2)
    alone = {k: v for k, v in sizes.items() if k not in ("SPLIT", "heads", "kv_heads")}
    if "variant" in alone:
        alone["variant"] = "lane"
    for n in range(150):
        at = int(rng.integers(0, 2101)) if n % 10 else [0, 31, 127, 128, 511, 512, 2100][n // 10 % 7]
        step.wait()
        slot_pos.view()[0] = at
        for _ in range(3):
            step.submit()
        step.wait()
        assert counters.numpy()[0] == 0
        if n % 5 == 0:
            p, s = rows_of((0, at))
            for out, w in ((y, 0), (y_window, window)):
                want = run_attention(device, q, p, s, cache, heads, window=w, **alone)
                assert np.array_equal(out.numpy(), want), f"position {at}, window {w}"


def test_the_profile_knows_the_context(device: Device) -> None:
    """The cost counts keys and values of as many positions as the caller says; of one where nothing is said."""
    kv = device.zeros((8, 2, 32, 64), "f16")
    state = {"pos": device.zeros((1,), "u32"), "slot": device.zeros((1,), "u32")}
    state |= {"pages": device.zeros((1, 8), "u32"), "slot_info": device.zeros((1, 4), "u32")}
    row = device.zeros((1, 4 * 64))
    for context in (1, 200):
        chain = Chain(device)
        chain.attention(
            q=row, y=row, kcache=kv, vcache=kv, heads=4, kv_heads=2, scale=1.0, context=context, **state
        )
        assert chain.totals().bytes == 8 * 4 * 64 + context * 2 * 2 * 64 * 2
        assert chain.totals().flops == 4 * 4 * 64 * context
