"""rope_store, attention and softcap against float64; unused parts of the shuffled pages hold NaN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.gpu import Device
from flux_vk.gpu.reference import attention as reference
from tests.gpu.harness import nmse, run_kernel
from tests.gpu.paged import FORMS, able, expect, make_cache, rows_of, run_attention

pytestmark = pytest.mark.kernel

LENGTHS = [1, 2, 31, 32, 33, 100, 257, 1000]


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(str(v) for v in form.values()))
def form(request: pytest.FixtureRequest, device: Device) -> dict[str, object]:
    return able(device, request.param)


@pytest.mark.parametrize("kv_type", ["f16", "f32"])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 4, 64), (14, 2, 64), (4, 1, 96)])
def test_context_lengths(
    device: Device,
    rng: np.random.Generator,
    form: dict[str, object],
    kv_type: str,
    heads: int,
    kv_heads: int,
    head_dim: int,
) -> None:
    """A last row for each length: MHA, GQA, MQA; every slot has another length, all in one batch."""
    cache = make_cache(rng, [n - 1 for n in LENGTHS], kv_heads, head_dim).typed(kv_type)
    pos, slot = rows_of(*((s, n - 1) for s, n in enumerate(LENGTHS)))
    q = rng.standard_normal((len(pos), heads * head_dim + 2 * kv_heads * head_dim), np.float32)
    y = run_attention(device, q, pos, slot, cache, heads, **form)
    want = expect(q, pos, slot, cache, heads)
    for row in range(len(pos)):
        assert nmse(y[row], want[row]) < 1e-10, f"length {LENGTHS[row]}"


@pytest.mark.parametrize("kv_type", ["f16", "f32"])
@pytest.mark.parametrize(
    ("head_dim", "wg"),
    [
        (4, 32),
        (8, 8),
        (12, 16),
        (32, 32),
        (40, 8),
        (80, 32),
        (96, 8),
        (128, 16),
        (192, 32),
        (256, 32),
        (256, 8),
    ],
)
def test_head_sizes(device: Device, rng: np.random.Generator, kv_type: str, head_dim: int, wg: int) -> None:
    """Every head size that is a multiple of 4.

    Whole and half 16-byte loads, several passes, several teams.
    """
    cache = make_cache(rng, [70, 5], 2, head_dim).typed(kv_type)
    pos, slot = rows_of((0, 70), (1, 5), (0, 40))
    q = rng.standard_normal((3, 6 * head_dim), np.float32)
    want = expect(q, pos, slot, cache, 6)
    assert nmse(run_attention(device, q, pos, slot, cache, 6, WG=wg), want) < 1e-10
    if head_dim % 32 == 0 and int(device.limits["subgroup_size"]) >= 8:
        assert nmse(run_attention(device, q, pos, slot, cache, 6, WG=8, variant="lane"), want) < 1e-10


@pytest.mark.parametrize("variant", ["f16_basic", "f32_basic"])
def test_without_subgroup_arithmetic(device: Device, rng: np.random.Generator, variant: str) -> None:
    """The variants for devices without subgroup arithmetic give the same bits: a maximum has no rounding."""
    cache = make_cache(rng, [100], 2, 64).typed(variant[:3])
    pos, slot = rows_of((0, 100), (0, 7))
    q = rng.standard_normal((2, 8 * 64), np.float32)
    y = run_attention(device, q, pos, slot, cache, 8, variant=variant)
    assert nmse(y, expect(q, pos, slot, cache, 8)) < 1e-10
    assert np.array_equal(y, run_attention(device, q, pos, slot, cache, 8))


@pytest.mark.parametrize(("group", "size"), [(8, 8), (11, 6), (16, 8), (5, 2)])
def test_groups_larger_than_a_workgroup(
    device: Device, rng: np.random.Generator, form: dict[str, object], group: int, size: int
) -> None:
    """11 query heads of one KV head in workgroups of 6: the last one is not full."""
    cache = make_cache(rng, [45], 2, 32)
    pos, slot = rows_of((0, 45))
    q = rng.standard_normal((1, 2 * group * 32), np.float32)
    y = run_attention(device, q, pos, slot, cache, 2 * group, GROUP=size, **form)
    assert nmse(y, expect(q, pos, slot, cache, 2 * group)) < 1e-10


@pytest.mark.parametrize("window", [1, 5, 31, 32, 33, 64, 100, 5000])
def test_window(device: Device, rng: np.random.Generator, form: dict[str, object], window: int) -> None:
    """A key is visible iff pos - key < window; the first page read is cut in the middle."""
    cache = make_cache(rng, [200], 2, 32)
    pos, slot = rows_of((0, 200), (0, 0), (0, 31), (0, 32), (0, 63), (0, 99))
    q = rng.standard_normal((6, 4 * 32), np.float32)
    y = run_attention(device, q, pos, slot, cache, 4, window=window, **form)
    assert nmse(y, expect(q, pos, slot, cache, 4, window=window)) < 1e-10


@pytest.mark.parametrize("softcap", [0.5, 50.0])
def test_softcap(device: Device, rng: np.random.Generator, form: dict[str, object], softcap: float) -> None:
    """Scores are capped after scaling; small and large ones."""
    cache = make_cache(rng, [90], 2, 32, scale=3.0)
    pos, slot = rows_of((0, 90), (0, 10))
    q = 5 * rng.standard_normal((2, 4 * 32), np.float32)
    y = run_attention(device, q, pos, slot, cache, 4, softcap=softcap, scale=2.0, **form)
    assert nmse(y, expect(q, pos, slot, cache, 4, softcap=softcap, scale=2.0)) < 1e-9


@pytest.mark.parametrize("window", [0, 40, 300])
def test_dropped_pages_and_sinks(
    device: Device, rng: np.random.Generator, form: dict[str, object], window: int
) -> None:
    """The ring: after the sink pages the table goes on with a later logical page; positions stay absolute."""
    info = [(1, 5), (2, 0), (0, 7), (3, 30)]
    last = [400, 70, 290, 32 * 40]
    cache = make_cache(rng, last, 2, 32, info)
    pos, slot = rows_of(*((s, p - back) for s, p in enumerate(last) for back in (0, 9)))
    q = rng.standard_normal((len(pos), 4 * 32), np.float32)
    y = run_attention(device, q, pos, slot, cache, 4, window=window, **form)
    assert nmse(y, expect(q, pos, slot, cache, 4, window=window)) < 1e-10


@pytest.mark.parametrize("size", [1e4, 1e15, 1e18])
def test_huge_scores_stay_finite(
    device: Device, rng: np.random.Generator, form: dict[str, object], size: float
) -> None:
    """One key takes all the weight; even a score that overflows gives no NaN."""
    cache = make_cache(rng, [50], 1, 32, scale=size)
    pos, slot = rows_of((0, 50), (0, 3))
    q = (size * rng.standard_normal((2, 2 * 32))).astype(np.float32)
    y = run_attention(device, q, pos, slot, cache, 2, **form)
    assert np.isfinite(y).all()
    if size < 1e18:
        assert nmse(y, expect(q, pos, slot, cache, 2)) < 1e-8


@pytest.mark.parametrize("kv_type", ["f16", "f32"])
def test_batch_invariance(device: Device, rng: np.random.Generator, form: dict[str, object], kv_type: str) -> None:
    """A row's bits are the same alone and among rows of other slots.

    Padding rows are zero and disturb nobody.
    """
    last = [64, 3, 200, 33]
    cache = make_cache(rng, last, 2, 64).typed(kv_type)
    pos, slot = rows_of(*((s, p) for s in range(4) for p in (last[s], last[s] // 2, 0)), (9, 12))
    order = rng.permutation(len(pos))
    pos, slot = pos[order], slot[order]
    q = rng.standard_normal((len(pos), 18 * 64), np.float32)
    batch = run_attention(device, q, pos, slot, cache, 14, **form)
    for row in range(len(pos)):
        one = slice(row, row + 1)
        alone = run_attention(device, q[one], pos[one], slot[one], cache, 14, **form)
        assert np.array_equal(alone, batch[one])
    assert (batch[slot == 9] == 0).all()


def test_no_rows(device: Device, rng: np.random.Generator) -> None:
    """An empty batch dispatches nothing."""
    cache = make_cache(rng, [3], 1, 8)
    none = np.zeros(0, np.uint32)
    assert run_attention(device, np.zeros((0, 8), np.float32), none, none, cache, 1).shape == (0, 8)


@dataclass
class Stored:
    """What rope_store was given and what it left."""

    qkv: npt.NDArray[np.float32]
    k: npt.NDArray[np.float32]
    v: npt.NDArray[np.float32]


def run_rope_store(
    device: Device,
    rng: np.random.Generator,
    kv_type: str,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    n_rot: int | None = None,
    neox: bool = False,
    norms: bool = False,
    mscale: float = 1.0,
    pairs: tuple[tuple[int, int], ...] = ((0, 40), (1, 0), (0, 41), (2, 400), (1, 31)),
    factor: float = 1.0,
) -> tuple[Stored, Stored]:
    """Runs kernel and reference on the same data; (got, wanted)."""
    n_rot = head_dim if n_rot is None else n_rot
    cache = make_cache(rng, [60, 35, 420], kv_heads, head_dim, [(0, 0), (0, 0), (1, 4)]).typed(kv_type)
    pos, slot = rows_of(*pairs)
    qkv = (factor * rng.standard_normal((len(pos), (heads + 2 * kv_heads) * head_dim))).astype(np.float32)
    turns = rng.integers(0, 1 << 32, max(1, n_rot // 2), np.uint32)
    weights = {name: rng.standard_normal(head_dim, np.float32) for name in ("qnorm", "knorm")} if norms else {}
    inputs = {
        "qkv": qkv,
        "pos": pos,
        "slot": slot,
        "pages": cache.pages,
        "slot_info": cache.slot_info,
        "turns": turns,
        **weights,
    }
    caches = {"kcache": cache.k, "vcache": cache.v}
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "n_rot": n_rot, "mscale": mscale}
    got = run_in_place(device, {**inputs, **caches}, NEOX=int(neox), eps=1e-5, **sizes)
    want = reference.rope_store(**inputs, **caches, neox=neox, eps=1e-5, **sizes)
    return got, Stored(*want)


def run_in_place(device: Device, inputs: dict[str, npt.NDArray[np.generic]], **scalars: object) -> Stored:
    """The caches are written in part only, so they go in with their old contents and are read back here."""
    kcache, vcache = device.array(inputs["kcache"]), device.array(inputs["vcache"])
    got = run_kernel(device, "rope_store", {**inputs, "kcache": kcache, "vcache": vcache}, {}, **scalars)
    return Stored(got["qkv"], kcache.numpy(), vcache.numpy())


def assert_stored(got: Stored, want: Stored, kv_type: str) -> None:
    """q and k within rounding (a sum of two products may cancel), v exact in f32; everything else untouched."""
    half = 2e-3 if kv_type == "f16" else 0.0  # truncation is as good as rounding
    np.testing.assert_allclose(got.qkv, want.qkv, rtol=3e-6, atol=5e-6)
    np.testing.assert_allclose(got.k, want.k, rtol=max(half, 3e-6), atol=max(half / 10, 5e-6))
    np.testing.assert_allclose(got.v, want.v, rtol=half, atol=half / 1000)


@pytest.mark.parametrize("kv_type", ["f16", "f32"])
@pytest.mark.parametrize("neox", [False, True])
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(("head_dim", "n_rot"), [(8, 8), (64, 64), (80, 20), (24, 6), (256, 256), (6, 2), (12, 0)])
def test_rope_store(
    device: Device, rng: np.random.Generator, kv_type: str, neox: bool, norms: bool, head_dim: int, n_rot: int
) -> None:
    """Both layouts, whole and partial rotation, with and without norms, rows of three slots (one with dropped
    pages).
    """
    got, want = run_rope_store(
        device, rng, kv_type, head_dim=head_dim, n_rot=n_rot, neox=neox, norms=norms, mscale=1.19
    )
    assert_stored(got, want, kv_type)


def test_rope_store_at_long_positions(device: Device, rng: np.random.Generator) -> None:
    """Angles are exact integers: position 420 and position 4 million are equally good."""
    cache = make_cache(rng, [4_000_003], 1, 8, [(0, 125_000)])
    turns = rng.integers(0, 1 << 32, 4, np.uint32)
    pos, slot = rows_of((0, 4_000_001))
    inputs = {
        "qkv": rng.standard_normal((1, 24), np.float32),
        "pos": pos,
        "slot": slot,
        "pages": cache.pages,
        "slot_info": cache.slot_info,
        "turns": turns,
        "kcache": cache.k,
        "vcache": cache.v,
    }
    sizes = {"heads": 1, "kv_heads": 1, "head_dim": 8, "n_rot": 8}
    got = run_in_place(device, inputs, **sizes)
    assert_stored(got, Stored(*reference.rope_store(**inputs, **sizes)), "f32")


def test_rope_store_clamps_what_f16_cannot_hold(device: Device, rng: np.random.Generator) -> None:
    """A key or value beyond 65504 becomes 65504, never an infinity that would poison the row."""
    got, want = run_rope_store(device, rng, "f16", factor=1e5)
    assert not np.isinf(got.k).any() and not np.isinf(got.v).any()
    np.testing.assert_allclose(got.k, want.k, rtol=2e-3)
    np.testing.assert_allclose(got.v, want.v, rtol=2e-3)


def test_rope_store_leaves_padding_alone(device: Device, rng: np.random.Generator) -> None:
    """A row whose slot is not in the table changes nothing; one past its slot's pages stores nothing."""
    got, want = run_rope_store(device, rng, "f32", pairs=((7, 3), (0, 60), (1, 32 * 300)))
    assert_stored(got, want, "f32")


@pytest.mark.parametrize("shape", [(1, 1), (3, 85), (1, 256), (7, 1000)])
def test_softcap_kernel(device: Device, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """cap * tanh(x / cap) in place, for tiny and huge x, sizes that are no multiple of four."""
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 6, shape)).astype(np.float32)
    got = run_kernel(device, "softcap", {"x": x}, {}, cap=30.0)["x"]
    np.testing.assert_allclose(got, reference.softcap(x, cap=30.0), rtol=1e-5)
