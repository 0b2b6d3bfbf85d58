"""The matrix product of wide reads: every type against float64, norm and gate, invariance, windows, shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.formats.blocks import RUNNABLE, runnable
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.matmul_wide import matmul_wide, shape_for, shared_bytes
from flux_vk.gpu.matvec import FLOATS, ROWS, TOKENS
from flux_vk.gpu.null import NullDevice
from flux_vk.gpu.reference.dot import matmul_wide as reference
from tests.gpu.harness import Guarded, nmse
from tests.gpu.matvec_cases import product, skip_unless_able
from tests.gpu.weights import random_raw, values

pytestmark = pytest.mark.kernel
LIMIT = 1e-9
VARIANTS = [f"{t}.{reduction}" for t in RUNNABLE for reduction in ("sub", "tree")]
SOME = ["f32.sub", "f16.tree", "q4_0.sub", "q8_0.tree", "q4_k.sub", "q6_k.tree"]


def run(
    device: Device, variant: str, raw: np.ndarray, shape: tuple[int, int], x: np.ndarray, **more: Any
) -> np.ndarray:
    return product(device, matmul_wide, "x", variant, raw, shape, x, **more)


def row_length(dtype: str) -> int:
    """Several turns of the workgroup, the last of them not full; for floats no vector divides it."""
    return 333 if dtype in FLOATS else 35 * 32 if runnable(dtype).weights == 32 else 5 * 256


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_type(device: Device, rng: np.random.Generator, variant: str) -> None:
    """Odd sizes, a result in the middle of wider rows, norm, bias and residual; x is wider than K."""
    skip_unless_able(device, "matmul_wide", variant)
    dtype = variant.split(".")[0]
    n, k, r, stride, offset = 13, row_length(dtype), 3, 32, 7
    raw = random_raw(rng, dtype, (n, k))
    x = rng.standard_normal((r, k + 8)).astype(np.float32)
    norm, bias = (rng.standard_normal(s).astype(np.float32) for s in (k, n))
    residual = rng.standard_normal((r, stride)).astype(np.float32)
    more = {"y_stride": stride, "y_offset": offset, "bias": bias, "residual": residual, "norm": norm, "eps": 1e-5}
    y = run(device, variant, raw, (n, k), x, **more)
    want = reference(values(raw, dtype, (n, k)), x, norm, bias, residual, y_offset=offset, eps=1e-5)
    assert nmse(y[:, offset : offset + n], want) < LIMIT
    assert np.isnan(y[:, :offset]).all() and np.isnan(y[:, offset + n :]).all()


@pytest.mark.parametrize("variant", ["f32.sub", "bf16.tree", "q4_0.sub", "q4_0.tree", "q8_0.sub"])
@pytest.mark.parametrize("n", [1, 7, 255, 256, 257])
def test_row_counts(device: Device, rng: np.random.Generator, variant: str, n: int) -> None:
    """Any number of weight rows, and the shortest rows there are; nothing in front and behind."""
    skip_unless_able(device, "matmul_wide", variant)
    dtype = variant.split(".")[0]
    k = 1 if dtype in FLOATS else 32
    raw = random_raw(rng, dtype, (n, k))
    x = rng.standard_normal((2, k)).astype(np.float32)
    assert nmse(run(device, variant, raw, (n, k), x), reference(values(raw, dtype, (n, k)), x)) < LIMIT


@pytest.mark.parametrize(
    ("variant", "act"), [("q4_k.sub", "silu"), ("q4_k.sub", "gelu"), ("q6_k.tree", "silu"), ("f16.sub", "gelu")]
)
def test_gate(device: Device, rng: np.random.Generator, variant: str, act: str) -> None:
    """Gate and up rows, with a norm in front: what a feed-forward layer takes three kernels for."""
    skip_unless_able(device, "matmul_wide", variant)
    dtype, shape = variant.split(".")[0], (26, 256)
    raw = random_raw(rng, dtype, shape)
    w = values(raw, dtype, shape)
    x = rng.standard_normal((3, 256)).astype(np.float32)
    norm = (rng.standard_normal(256) / np.abs(w).max() / 8).astype(np.float32)
    bias = rng.standard_normal(26).astype(np.float32)
    residual = rng.standard_normal((3, 13)).astype(np.float32)
    want = reference(w, x, norm, bias, residual, eps=1e-5, act=1 if act == "silu" else 2)
    for rows in ROWS:
        more = {"bias": bias, "residual": residual, "norm": norm, "eps": 1e-5, "act": act, "rows": rows}
        assert nmse(run(device, variant, raw, shape, x, **more), want) < LIMIT


@pytest.mark.parametrize("variant", SOME)
def test_bits_depend_on_the_row_alone(device: Device, rng: np.random.Generator, variant: str) -> None:
    """Alone and in any batch, for every number of tokens and weight rows of a workgroup, with and without a norm."""
    skip_unless_able(device, "matmul_wide", variant)
    dtype = variant.split(".")[0]
    shape = (11, row_length(dtype))
    raw = random_raw(rng, dtype, shape)
    x = rng.standard_normal((9, shape[1] + 8 - shape[1] % 8)).astype(np.float32)
    norm = rng.standard_normal(shape[1]).astype(np.float32)
    for more in ({}, {"norm": norm, "eps": 1e-5}):
        alone = np.concatenate([run(device, variant, raw, shape, x[i : i + 1], rows=1, **more) for i in range(9)])
        for r in (3, 8) if more else (2, 3, 8, 9):
            first = int(rng.integers(0, 10 - r))
            rows = int(rng.choice(ROWS[1:3]))
            got = run(device, variant, raw, shape, x[first : first + r], rows=rows, **more)
            np.testing.assert_array_equal(got.view(np.uint32), alone[first : first + r].view(np.uint32))
    eight = run(device, variant, raw, shape, x[:1], rows=8, **more)
    np.testing.assert_array_equal(eight.view(np.uint32), alone[:1].view(np.uint32))


@pytest.mark.parametrize("spec", [(32, 1, 2, 1), (32, 2, 4, 4), (64, 4, 2, 2), (128, 2, 1, 1)])
@pytest.mark.parametrize("variant", ["q5_1.sub", "iq4_xs.tree", "bf16.sub"])
def test_shapes_of_a_workgroup(
    device: Device, rng: np.random.Generator, variant: str, spec: tuple[int, int, int, int]
) -> None:
    """Threads, rows, tokens and staged tokens in odd combinations."""
    skip_unless_able(device, "matmul_wide", variant)
    dtype = variant.split(".")[0]
    shape, r = (9, row_length(dtype) if dtype != "bf16" else 700), 3
    raw = random_raw(rng, dtype, shape)
    x = rng.standard_normal((r, shape[1])).astype(np.float32)
    guarded = Guarded(device)
    chain, y = Chain(device), guarded.empty("y", (r, 9))
    w, (wg, rows, tokens, stage) = guarded.weight("w", raw, dtype, shape), spec
    chain.dispatch(
        "matmul_wide", variant=variant, w=w, x=guarded.array("x", x), y=y, y_stride=9,
        WG=wg, NR=rows, NT=tokens, STAGE=stage,
    ).run()  # fmt: skip
    guarded.check()
    assert nmse(y.numpy(), reference(values(raw, dtype, shape), x)) < LIMIT


def test_windows(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix larger than one binding may span gives what a small one gives; a gate over two of them is refused."""
    skip_unless_able(device, "matmul_wide", "q5_0.sub")
    raw = random_raw(rng, "q5_0", (300, 64))
    x = rng.standard_normal((3, 64)).astype(np.float32)
    bias = rng.standard_normal(300).astype(np.float32)
    whole = run(device, "q5_0.sub", raw, (300, 64), x, bias=bias)
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 8192))
    np.testing.assert_array_equal(run(device, "q5_0.sub", raw, (300, 64), x, bias=bias), whole)
    with pytest.raises(ArgumentError, match="two steps"):
        run(device, "q5_0.sub", raw, (300, 64), x, act="silu")


def test_residual_in_place(device: Device, rng: np.random.Generator) -> None:
    raw = random_raw(rng, "q8_0", (64, 64))
    x = rng.standard_normal((6, 64)).astype(np.float32)
    before = rng.standard_normal((6, 64)).astype(np.float32)
    y = device.array(before)
    matmul_wide(Chain(device), w=device.weight(raw, "q8_0", (64, 64)), x=device.array(x), y=y, residual=y).run()
    assert nmse(y.numpy(), reference(values(raw, "q8_0", (64, 64)), x, None, None, before)) < LIMIT


@pytest.mark.parametrize("room", [16384, 32768, 49152])
def test_shapes_fit_the_device(room: int) -> None:
    """Whatever the type, a workgroup's shared memory fits; the threads follow from type and row length alone."""
    device = NullDevice("discrete", max_shared_bytes=room)
    for variant in VARIANTS:
        dtype, reduction = variant.split(".")
        for n, k in ((1, 256), (896, 4864), (4096, 14336), (152064, 3584)):
            shapes = [shape_for(device, variant, n, k, t) for t in TOKENS]
            assert [s.tokens for s in shapes] == list(TOKENS) and len({s.wg for s in shapes}) == 1
            assert all(s.tokens % s.stage == 0 and s.rows in ROWS for s in shapes)
            assert all(shared_bytes(dtype, reduction, s) <= room for s in shapes), (variant, shapes)


def test_arguments(device: Device) -> None:
    """Shapes that do not fit are refused with the argument's name; no rows are no steps."""
    w, y = device.weight_room("q8_0", (8, 64)), device.empty((2, 8))
    with pytest.raises(ArgumentError, match=r"x is .*f32\[2, 63\]"):
        matmul_wide(Chain(device), w=w, x=device.empty((2, 63)), y=y)
    with pytest.raises(ArgumentError, match="x rows have 66"):
        matmul_wide(Chain(device), w=w, x=device.empty((2, 66)), y=y)
    with pytest.raises(ArgumentError, match="y is"):
        matmul_wide(Chain(device), w=w, x=device.empty((2, 64)), y=device.empty((2, 7)))
    with pytest.raises(ArgumentError, match="norm has 63"):
        matmul_wide(Chain(device), w=w, x=device.empty((2, 64)), y=y, norm=device.empty((63,)))
    with pytest.raises(ArgumentError, match="rows is 5"):
        matmul_wide(Chain(device), w=w, x=device.empty((2, 64)), y=y, rows=5)
    with pytest.raises(ArgumentError, match="as many gate rows"):
        matmul_wide(Chain(device), w=device.weight_room("q8_0", (7, 64)), x=device.empty((2, 64)), y=y, act="silu")
    assert len(matmul_wide(Chain(device), w=w, x=device.empty((0, 64)), y=device.empty((0, 8)))) == 0
