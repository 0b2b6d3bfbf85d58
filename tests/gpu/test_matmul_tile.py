"""The tiled matrix product: every type and arithmetic against float64, equal bits for all tiles, parts, windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.formats.blocks import runnable
from flux_vk.gpu import Chain, Device, kernels
from flux_vk.gpu.matmul import FLOATS
from flux_vk.gpu.matmul_tile import Tile, matmul_tile, tiles_for
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
    """With a norm, so that its sums are looked at too; rows and tokens that fill no tile."""
    skip_unless_able(device, variant)
    dtype, arithmetic = variant.split(".")
    shape, r = (150, 256), 71
    raw, x, norm = random_raw(rng, dtype, shape), floats(rng, r, 256), floats(rng, 256)
    found = []
    for tile in tiles_for(device, arithmetic, norm=True, more=True):
        for ahead in (0, 1):
            chosen = Tile(tile.bm, tile.bn, tile.tm, tile.tn, ahead)
            found.append(run(device, variant, raw, shape, x, norm=norm, eps=1e-5, tuned=chosen))
            assert same_bits(found[-1], found[0]), chosen
    assert nmse(found[0], reference(values(raw, dtype, shape), x, norm=norm, eps=1e-5)) < limit(variant)
