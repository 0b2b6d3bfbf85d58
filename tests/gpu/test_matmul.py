"""The matrix product: every weight type and both families against float64, batch invariance, windows, fused parts."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.formats.blocks import RUNNABLE, runnable
from flux_vk.gpu import Chain, Device, kernels
from flux_vk.gpu.matmul import FLOATS, matmul
from flux_vk.gpu.matvec import TOKENS, cuts
from flux_vk.gpu.reference.quant import matmul as reference
from tests.gpu.harness import Guarded, nmse
from tests.gpu.weights import random_raw, values

pytestmark = pytest.mark.kernel
LIMIT = 1e-9
EPS = 1e-3
VARIANTS = [f"{t}.{family}" for t in RUNNABLE for family in ("lane", "sub")]


def skip_unless_able(device: Device, variant: str) -> None:
    contract = kernels.contract("matmul" if variant.endswith(".lane") else "matmul_wide")
    needed = set(contract.variant(variant).requires) - set(device.features)
    if needed:
        pytest.skip(f"this device lacks {', '.join(sorted(needed))}")


def run(
    device: Device,
    variant: str,
    raw: np.ndarray,
    shape: tuple[int, int],
    x: np.ndarray,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    y_stride: int = 0,
    y_offset: int = 0,
    norm: np.ndarray | None = None,
    act: str | None = None,
) -> np.ndarray:
    """One guarded product; y is poisoned, and comes back whole as [R, y_stride]."""
    guarded = Guarded(device)
    stride = y_stride or (shape[0] if act is None else shape[0] // 2)
    y = guarded.empty("y", (len(x), stride))
    matmul(
        Chain(device),
        w=guarded.weight("w", raw, variant.split(".")[0], shape),
        x=guarded.array("x", x),
        y=y,
        bias=None if bias is None else guarded.array("bias", bias),
        residual=None if residual is None else guarded.array("residual", residual),
        y_offset=y_offset,
        norm=None if norm is None else guarded.array("norm", norm),
        eps=EPS,
        act=act,
        variant=variant,
    ).run()
    guarded.check()
    return y.numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_type(device: Device, rng: np.random.Generator, variant: str) -> None:
    """Odd sizes, a result in the middle of wider rows, bias and residual, and nothing written beside it.

    5 tokens take a full tile and a narrower one. 13 rows: no multiple of a workgroup's; K: an odd number of sub-blocks
    or of 256-blocks, and for floats a K that no vector divides.
    """
    skip_unless_able(device, variant)
    dtype = variant.split(".")[0]
    k = 333 if dtype in FLOATS else 11 * 32 if runnable(dtype).weights == 32 else 3 * 256
    n, r, stride, offset = 13, 5, 32, 7
    raw = random_raw(rng, dtype, (n, k))
    x = rng.standard_normal((r, k)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    residual = rng.standard_normal((r, stride)).astype(np.float32)
    y = run(device, variant, raw, (n, k), x, bias, residual, stride, offset)
    want = reference(values(raw, dtype, (n, k)), x, bias, residual, y_offset=offset)
    assert nmse(y[:, offset : offset + n], want) < LIMIT
    assert np.isnan(y[:, :offset]).all() and np.isnan(y[:, offset + n :]).all()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.split(".")[0] in ("f16", "q4_0", "q8_0", "q4_k", "q6_k")])
def test_batch_invariance(device: Device, rng: np.random.Generator, variant: str) -> None:
    """A token's result has the same bits alone and in any batch, wherever it stands, for every tile width."""
    skip_unless_able(device, variant)
    dtype = variant.split(".")[0]
    shape = (67, 256)
    raw = random_raw(rng, dtype, shape)
    x = rng.standard_normal((32, 256)).astype(np.float32)
    alone = np.concatenate([run(device, variant, raw, shape, x[i : i + 1]) for i in range(32)])
    assert nmse(alone, reference(values(raw, dtype, shape), x)) < LIMIT
    for r in (2, 3, 5, 8, 17, 32):
        first = int(rng.integers(0, 33 - r))
        got = run(device, variant, raw, shape, x[first : first + r])
        np.testing.assert_array_equal(got.view(np.uint32), alone[first : first + r].view(np.uint32))


@pytest.mark.parametrize("variant", ["q4_0.lane", "q4_0.sub", "f32.lane", "f32.sub"])
@pytest.mark.parametrize("n", [1, 7, 255, 256, 257])
def test_row_counts(device: Device, rng: np.random.Generator, variant: str, n: int) -> None:
    """Any number of weight rows, and the shortest rows there are."""
    skip_unless_able(device, variant)
    dtype = variant.split(".")[0]
    k = 1 if dtype == "f32" else 32
    raw = random_raw(rng, dtype, (n, k))
    x = rng.standard_normal((2, k)).astype(np.float32)
    assert nmse(run(device, variant, raw, (n, k), x), reference(values(raw, dtype, (n, k)), x)) < LIMIT


@pytest.mark.parametrize("variant", ["q4_0.lane", "iq4_nl.lane", "f16.lane"])
@pytest.mark.parametrize("spec", [(8, 8, 2, 4), (8, 16, 1, 0), (8, 32, 4, 8)])
def test_shapes_of_a_workgroup(
    device: Device, rng: np.random.Generator, variant: str, spec: tuple[int, int, int, int]
) -> None:
    """Threads, rows and tokens in odd combinations, among them the contract's defaults; x has rows wider than K."""
    skip_unless_able(device, variant)
    dtype = variant.split(".")[0]
    shape, r = (37, 96), 3
    raw = random_raw(rng, dtype, shape)
    x = rng.standard_normal((r, 120)).astype(np.float32)
    guarded = Guarded(device)
    y = guarded.empty("y", (r, 37))
    w = guarded.weight("w", raw, dtype, shape)
    wg, rows, tokens, lanes = spec
    chain = Chain(device)
    chain.dispatch(
        "matmul", variant=variant, w=w, x=guarded.array("x", x), y=y, y_stride=37,
        WG=wg, NR=rows, NT=tokens, LANES=lanes,
    )  # fmt: skip
    chain.run()
    guarded.check()
    assert nmse(y.numpy(), reference(values(raw, dtype, shape), x)) < LIMIT


@pytest.mark.parametrize("variant", ["q5_0.lane", "q5_0.sub"])
def test_windows(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    """A matrix larger than one binding may span gives what a small one gives."""
    skip_unless_able(device, variant)
    shape = (300, 64)
    raw = random_raw(rng, "q5_0", shape)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    bias = rng.standard_normal(300).astype(np.float32)
    whole = run(device, variant, raw, shape, x, bias)
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 8192))
    np.testing.assert_array_equal(run(device, variant, raw, shape, x, bias), whole)


def test_residual_in_place(device: Device, rng: np.random.Generator) -> None:
    """residual may be y itself."""
    raw = random_raw(rng, "q8_0", (64, 64))
    x = rng.standard_normal((6, 64)).astype(np.float32)
    before = rng.standard_normal((6, 64)).astype(np.float32)
    y = device.array(before)
    matmul(Chain(device), w=device.weight(raw, "q8_0", (64, 64)), x=device.array(x), y=y, residual=y).run()
    assert nmse(y.numpy(), reference(values(raw, "q8_0", (64, 64)), x, None, before)) < LIMIT


def test_default_variant_and_no_rows(device: Device, rng: np.random.Generator) -> None:
    """The family follows the device's kind; an empty batch adds nothing to the chain."""
    w = device.weight(random_raw(rng, "q8_0", (8, 32)), "q8_0", (8, 32))
    chain = matmul(Chain(device), w=w, x=device.empty((1, 32)), y=device.empty((1, 8)))
    name = chain.to_json()["steps"][0]["kernel"]
    assert name.startswith("matmul") and len(chain) == 1
    assert len(matmul(Chain(device), w=w, x=device.empty((0, 32)), y=device.empty((0, 8)))) == 0


def test_cuts_cover_every_row_once() -> None:
    for most in TOKENS:
        for r in range(1, 70):
            cut = list(cuts(r, most))
            assert [first for first, _, _ in cut] == [0, *(end for _, end, _ in cut[:-1])] and cut[-1][1] == r
            assert all(tokens in TOKENS and tokens <= most and end > first for first, end, tokens in cut)


def test_arguments(device: Device) -> None:
    """Shapes that do not fit are refused with the argument's name."""
    w = device.empty((8, 32))
    with pytest.raises(ArgumentError, match="x is"):
        matmul(Chain(device), w=w, x=device.empty((2, 31)), y=device.empty((2, 8)))
    with pytest.raises(ArgumentError, match="y is"):
        matmul(Chain(device), w=w, x=device.empty((2, 32)), y=device.empty((2, 7)))
    with pytest.raises(ArgumentError, match="residual is"):
        matmul(Chain(device), w=w, x=device.empty((2, 32)), y=device.empty((2, 8)), residual=device.empty((1, 8)))
