"""The tiled matrix product: every type and arithmetic against float64, equal bits for all tiles, what is fused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.formats.blocks import runnable
from flux_vk.gpu import Chain, Device, kernels
from flux_vk.gpu.matmul import FLOATS, matmul
from flux_vk.gpu.matmul_tile import Tile, matmul_tile, threads, tiles_for
from flux_vk.gpu.reference.quant import matmul_tile as reference
from tests.gpu.harness import Guarded, nmse
from tests.gpu.weights import random_raw, values

pytestmark = pytest.mark.kernel
EXACT, ROUNDED = 1e-9, kernels.contract("matmul_tile").nmse
VARIANTS = [v.name for v in kernels.contract("matmul_tile").variants if not v.name.endswith(".nv")]
FEW = ["q4_0.f32", "q6_k.f32", "f16.f32", "q4_0.f16", "q4_0.emu", "q6_k.emu", "f16.emu", "q4_0.khr", "f16.khr"]
Floats = npt.NDArray[np.float32]


def skip_unless_able(device: Device, variant: str) -> None:
    needed = set(kernels.contract("matmul_tile").variant(variant).requires) - set(device.features)
    if needed:
        pytest.skip(f"this device lacks {', '.join(sorted(needed))}")


def limit(variant: str) -> float:
    return EXACT if variant.endswith(".f32") else ROUNDED


def run(
    device: Device,
    variant: str,
    raw: npt.NDArray[np.uint8],
    shape: tuple[int, int],
    x: Floats,
    *,
    y_stride: int = 0,
    tuned: Tile | None = None,
    bias: Floats | None = None,
    residual: Floats | None = None,
    norm: Floats | None = None,
    y_offset: int = 0,
    eps: float = 0.0,
    act: str | None = None,
) -> Floats:
    """One guarded product; y is poisoned, and comes back whole as [R, y_stride]."""
    guarded = Guarded(device)
    stride = y_stride or shape[0] // (1 if act is None else 2)
    y = guarded.empty("y", (len(x), stride))
    w = guarded.weight("w", raw, variant.split(".")[0], shape)
    buffers = {
        name: None if array is None else guarded.array(name, array)
        for name, array in (("bias", bias), ("residual", residual), ("norm", norm))
    }
    chain = Chain(device)
    matmul_tile(
        chain, w=w, x=guarded.array("x", x), y=y, y_offset=y_offset, eps=eps, act=act, variant=variant, tuned=tuned,
        **buffers,
    )  # fmt: skip
    chain.run()
    guarded.check()
    found: Floats = y.numpy()
    return found


def floats(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape).astype(np.float32)


def same_bits(a: Floats, b: Floats) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def sensible(device: Device, arithmetic: str, most: int) -> tuple[Tile, ...]:
    """All tiles; of matrices on a CPU driver those whose subgroups have up to `most` sums.

    Larger ones compile for many seconds, and where they are emulated, Mesa 22's llvmpipe gives wrong sums, Mesa 26's
    right ones.
    """
    tiles = tiles_for(device, arithmetic, norm=True, more=True)
    if arithmetic in ("f32", "f16") or device.kind != "cpu":
        return tiles
    return tuple(t for t in tiles if t.tm * t.tn <= most)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_type(device: Device, rng: np.random.Generator, variant: str) -> None:
    """Odd sizes, a result in the middle of wider rows, bias and residual, and nothing written beside it."""
    skip_unless_able(device, variant)
    dtype = variant.split(".")[0]
    k = 333 if dtype in FLOATS else 11 * 32 if runnable(dtype).weights == 32 else 3 * 256
    n, r, stride, offset = 37, 19, 64, 7
    raw, x = random_raw(rng, dtype, (n, k)), floats(rng, r, k)
    bias, residual = floats(rng, n), floats(rng, r, stride)
    y = run(device, variant, raw, (n, k), x, y_stride=stride, bias=bias, residual=residual, y_offset=offset)
    want = reference(values(raw, dtype, (n, k)), x, bias, residual, y_offset=offset)
    assert nmse(y[:, offset : offset + n], want) < limit(variant)
    assert np.isnan(y[:, :offset]).all() and np.isnan(y[:, offset + n :]).all()


@pytest.mark.parametrize("variant", FEW)
def test_all_tiles_give_the_same_bits(device: Device, rng: np.random.Generator, variant: str) -> None:
    """With a norm, so that its sums are looked at too; rows and tokens that fill no tile. The first variant of each
    arithmetic goes through all tiles, the others, whose loads alone differ, share them out: each tile is a pipeline to
    compile."""
    skip_unless_able(device, variant)
    dtype, arithmetic = variant.split(".")
    shape, r = (150, 256), 71
    raw, x, norm = random_raw(rng, dtype, shape), floats(rng, r, 256), floats(rng, 256)
    found = []
    tiles = sensible(device, arithmetic, 1024)
    assert len(tiles) > 2
    every = next(v for v in FEW if v.endswith(arithmetic)) == variant
    for tile in tiles if every else [tiles[0], *tiles[1 + FEW.index(variant) % 3 :: 3]]:
        for ahead in (0, 1) if every else (tile.bn % 64 // 32,):
            chosen = Tile(tile.bm, tile.bn, tile.tm, tile.tn, ahead)
            found.append(run(device, variant, raw, shape, x, norm=norm, eps=1e-5, tuned=chosen))
            assert same_bits(found[-1], found[0]), chosen
    assert nmse(found[0], reference(values(raw, dtype, shape), x, norm=norm, eps=1e-5)) < limit(variant)


@pytest.mark.parametrize("variant", FEW)
def test_neighbours_do_not_matter(device: Device, rng: np.random.Generator, variant: str) -> None:
    """A prompt's rows have the same bits however it is cut, with the tiles that the rule takes."""
    skip_unless_able(device, variant)
    dtype = variant.split(".")[0]
    raw, x = random_raw(rng, dtype, (67, 256)), floats(rng, 150, 256)
    whole = run(device, variant, raw, (67, 256), x)
    for start, stop in ((0, 1), (1, 6), (6, 15), (15, 40), (40, 110), (110, 150)):
        assert same_bits(run(device, variant, raw, (67, 256), x[start:stop]), whole[start:stop]), (start, stop)


@pytest.mark.parametrize("variant", FEW)
@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_gated_activation(device: Device, rng: np.random.Generator, variant: str, act: str) -> None:
    """With norm, bias and residual, and a number of gates that fills no tile; some activations large."""
    skip_unless_able(device, variant)
    dtype, arithmetic = variant.split(".")
    (n, k), r = (2 * 45, 512), 21
    raw, x, norm = random_raw(rng, dtype, (n, k)), floats(rng, r, k), floats(rng, k)
    x[3] *= 1e5  # before the norm beyond what 16 bits hold
    bias, residual = floats(rng, n), floats(rng, r, 48)
    w = values(raw, dtype, (n, k)) * 0.1
    scaled = 0.1 * norm
    want = reference(w, x, bias, residual, norm, y_offset=2, eps=1e-6, act=1 if act == "silu" else 2)
    tiles = sensible(device, arithmetic, 512)
    for tile in (None, tiles[-1], next((t for t in tiles if t.bm == 64), tiles[0])):
        y = run(
            device, variant, raw, (n, k), x, norm=scaled, bias=bias, residual=residual, eps=1e-6, act=act, y_stride=48,
            y_offset=2, tuned=tile,
        )  # fmt: skip
        assert nmse(y[:, 2:47], want) < 4 * limit(variant), tile
        assert np.isnan(y[:, :2]).all() and np.isnan(y[:, 47:]).all()


@pytest.mark.parametrize("variant", ["q4_0.f32", "f32.f32", "q4_0.f16"])
@pytest.mark.parametrize("n", [1, 7, 255, 256, 257])
def test_row_counts(device: Device, rng: np.random.Generator, variant: str, n: int) -> None:
    """Any number of weight rows, and the shortest rows there are."""
    dtype = variant.split(".")[0]
    k = 1 if dtype == "f32" else 32
    raw, x = random_raw(rng, dtype, (n, k)), floats(rng, 9, k)
    assert nmse(run(device, variant, raw, (n, k), x), reference(values(raw, dtype, (n, k)), x)) < limit(variant)


def test_wide_rows_and_the_kernels_own_norm(device: Device, rng: np.random.Generator) -> None:
    """x wider than K: with 16-bit tiles the kernel norms by itself then, since rms_norm takes whole rows."""
    raw, x, norm = random_raw(rng, "q8_0", (40, 96)), floats(rng, 5, 120), floats(rng, 96)
    want = reference(values(raw, "q8_0", (40, 96)), x, norm=norm, eps=1e-6)
    for variant in ("q8_0.f32", "q8_0.f16"):
        y = run(device, variant, raw, (40, 96), x, norm=norm, eps=1e-6)
        assert nmse(y, want) < limit(variant)


def test_windows(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix larger than one binding may span gives what a small one gives; with gates it is refused."""
    shape = (300, 64)
    raw, x, bias = random_raw(rng, "q5_0", shape), floats(rng, 3, 64), floats(rng, 300)
    whole = run(device, "q5_0.f32", raw, shape, x, bias=bias)
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 8192))
    assert same_bits(run(device, "q5_0.f32", raw, shape, x, bias=bias), whole)
    with pytest.raises(ArgumentError, match="act is 'silu'.*at most 8192 bytes"):
        run(device, "q5_0.f32", raw, shape, x, act="silu")


def test_16_bit_tiles_saturate(device: Device, rng: np.random.Generator) -> None:
    """An activation beyond 65504 counts as 65504, not as infinity."""
    raw, x = np.ones((4, 32), np.float32).view(np.uint8).reshape(-1), np.zeros((2, 32), np.float32)
    x[1, 5] = 1e9
    assert (run(device, "f32.f16", raw, (4, 32), x) == [[0.0] * 4, [65504.0] * 4]).all()


def test_residual_in_place_and_no_rows(device: Device, rng: np.random.Generator) -> None:
    raw = random_raw(rng, "q8_0", (64, 64))
    x, before = floats(rng, 6, 64), floats(rng, 6, 64)
    w, y = device.weight(raw, "q8_0", (64, 64)), device.array(before)
    matmul_tile(Chain(device), w=w, x=device.array(x), y=y, residual=y, variant="q8_0.f32").run()
    assert nmse(y.numpy(), reference(values(raw, "q8_0", (64, 64)), x, None, before)) < EXACT
    assert len(matmul_tile(Chain(device), w=w, x=device.empty((0, 64)), y=device.empty((0, 64)))) == 0


def test_arguments(device: Device) -> None:
    """Shapes that do not fit are refused with the argument's name."""
    w, x = device.empty((8, 32)), device.empty((2, 32))
    with pytest.raises(ArgumentError, match="x is"):
        matmul_tile(Chain(device), w=w, x=device.empty((2, 31)), y=device.empty((2, 8)))
    with pytest.raises(ArgumentError, match="y is"):
        matmul_tile(Chain(device), w=w, x=x, y=device.empty((2, 7)))
    with pytest.raises(ArgumentError, match="y is .*expected room for .* 4"):
        matmul_tile(Chain(device), w=w, x=x, y=device.empty((2, 3)), act="silu")
    with pytest.raises(ArgumentError, match="act is 'relu'"):
        matmul_tile(Chain(device), w=w, x=x, y=device.empty((2, 8)), act="relu")


def test_prompts_take_tiles(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """matmul(prompt=True) follows FLUX_VK_PREFILL; the numbers of threads fit the tiles."""
    w = device.weight(random_raw(rng, "q8_0", (64, 64)), "q8_0", (64, 64))
    x, y = device.array(floats(rng, 6, 64)), device.empty((6, 64))

    def kernel(word: str, family: str, prompt: bool = True) -> str:
        monkeypatch.setenv("FLUX_VK_PREFILL", word)
        monkeypatch.setenv("FLUX_VK_FAMILY", family)
        chain = matmul(Chain(device), w=w, x=x, y=y, prompt=prompt)
        chain.run()
        return str(chain.to_json()["steps"][0]["kernel"])

    for word, family in (("auto", "cpu"), ("exact", "gpu")):
        assert not kernel(word, family).startswith("matmul_tile")
    assert kernel("auto", "gpu").startswith("matmul_tile--q8_0.")
    assert kernel("f32", "cpu") == "matmul_tile--q8_0.f32" and not kernel("f32", "gpu", False).startswith("matmul_tile")
    for arithmetic in ("f32", "f16"):
        for tile in tiles_for(device, arithmetic):
            assert threads(device, tile, arithmetic) == tile.bm * tile.bn // (tile.tm * tile.tn)
