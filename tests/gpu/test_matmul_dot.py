"""Integer dot products: every type against float64 on the quantised values, error bound, invariance, choice."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.formats.blocks import RUNNABLE, runnable
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.matmul_dot import (
    FAST,
    FEATURE,
    dot_able,
    dot_key,
    dot_wanted,
    matmul_dot,
    quantize_x8,
    row_words,
    shape_for,
    variant_for,
)  # fmt: skip
from flux_vk.gpu.matvec import ROWS, TOKENS
from flux_vk.gpu.reference.dot import dot_error_bound
from flux_vk.gpu.reference.dot import matmul_dot as reference
from flux_vk.gpu.reference.dot import quantize_x8 as quantized
from flux_vk.gpu.tuner import Choice, tuner_of
from tests.gpu.harness import Guarded, nmse
from tests.gpu.matvec_cases import product, skip_unless_able
from tests.gpu.weights import random_raw, values

pytestmark = pytest.mark.kernel
LIMIT = 1e-9
TYPES = [t for t in RUNNABLE if t not in ("f32", "f16", "bf16")]
VARIANTS = [f"{t}.{reduction}" for t in TYPES for reduction in ("sub", "tree")]


def run(
    device: Device, variant: str, raw: np.ndarray, shape: tuple[int, int], x8: np.ndarray, **more: Any
) -> np.ndarray:
    return product(device, matmul_dot, "x8", variant, raw, shape, x8, **more)


def row_length(dtype: str, blocks32: int, blocks256: int) -> int:
    return 32 * blocks32 if runnable(dtype).weights == 32 else 256 * blocks256


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_type(device: Device, rng: np.random.Generator, variant: str) -> None:
    """Odd sizes, a result in the middle of wider rows, bias and residual; a K of several turns of the workgroup."""
    skip_unless_able(device, "matmul_dot", variant)
    dtype = variant.split(".")[0]
    for n, k in ((13, row_length(dtype, 75, 9)), (1, row_length(dtype, 1, 1)), (7, row_length(dtype, 8, 3))):
        r, stride, offset = 5, 32, 7
        raw = random_raw(rng, dtype, (n, k))
        x8 = quantized(rng.standard_normal((r, k)).astype(np.float32))
        bias = rng.standard_normal(n).astype(np.float32)
        residual = rng.standard_normal((r, stride)).astype(np.float32)
        more = {"y_stride": stride, "y_offset": offset, "bias": bias, "residual": residual}
        y = run(device, variant, raw, (n, k), x8, **more)
        want = reference(values(raw, dtype, (n, k)), x8, bias, residual, y_offset=offset)
        assert nmse(y[:, offset : offset + n], want) < LIMIT
        assert np.isnan(y[:, :offset]).all() and np.isnan(y[:, offset + n :]).all()


@pytest.mark.parametrize("act", ["silu", "gelu"])
@pytest.mark.parametrize("variant", ["q4_k.sub", "q6_k.tree", "q8_0.sub"])
def test_gate(device: Device, rng: np.random.Generator, variant: str, act: str) -> None:
    skip_unless_able(device, "matmul_dot", variant)
    dtype, shape = variant.split(".")[0], (26, 256)
    raw = random_raw(rng, dtype, shape)
    w = values(raw, dtype, shape)
    x8 = quantized((rng.standard_normal((3, 256)) / np.abs(w).max() / 8).astype(np.float32))
    bias = rng.standard_normal(26).astype(np.float32)
    residual = rng.standard_normal((3, 13)).astype(np.float32)
    want = reference(w, x8, bias, residual, act=1 if act == "silu" else 2)
    for rows in ROWS:
        y = run(device, variant, raw, shape, x8, bias=bias, residual=residual, act=act, rows=rows)
        assert nmse(y, want) < LIMIT


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("law", ["normal", "outliers", "one", "sizes"])
def test_error_bound(device: Device, rng: np.random.Generator, dtype: str, law: str) -> None:
    """From floats to results: never beyond the bound, and for even values as small as independent errors are."""
    skip_unless_able(device, "matmul_dot", f"{dtype}.tree")
    n, k, r = 64, row_length(dtype, 16, 2), 3
    raw = random_raw(rng, dtype, (n, k))
    w = values(raw, dtype, (n, k))
    x = rng.standard_normal((r, k))
    if law == "outliers":
        x[rng.random((r, k)) < 0.01] *= 1000
    elif law == "one":  # every value of a block but one is lost in the step
        x[:, ::32] = 1e6
    elif law == "sizes":
        x *= 10.0 ** rng.uniform(-20, 10, (r, k))
    x = x.astype(np.float32)
    chain, y = Chain(device), device.filled((r, n), "f32", 0xFF)
    x8 = quantize_x8(chain, x=device.array(x))
    matmul_dot(chain, w=device.weight(raw, dtype, (n, k)), x8=x8, y=y, variant=f"{dtype}.tree").run()
    exact = x.astype(np.float64) @ w.T
    error = np.abs(y.numpy() - exact)
    rounding = 2.0**-20 * (np.abs(x) @ np.abs(w).T + np.abs(w).max() * np.abs(x).sum(axis=1, keepdims=True))
    bound = dot_error_bound(w, x) + rounding
    assert (error <= bound).all(), f"{law}: {(error / bound).max():.3f} of the bound"
    if law == "normal":
        steps = np.repeat(np.abs(x.reshape(r, -1, 32)).max(axis=2) / 127, 32, axis=1).astype(np.float64)
        typical = np.sqrt((steps**2 / 12) @ (w**2).T)
        spread = float(np.sqrt(((error / typical) ** 2).mean()))
        assert 0.5 < spread < 1.6, "independent errors, uniform in half a step to either side"


@pytest.mark.parametrize("variant", ["q4_0.sub", "q8_0.sub", "q4_k.tree", "q6_k.sub", "iq4_nl.tree"])
def test_bits_depend_on_the_row_alone(device: Device, rng: np.random.Generator, variant: str) -> None:
    """Alone and in any batch, for every number of tokens and weight rows of a workgroup."""
    skip_unless_able(device, "matmul_dot", variant)
    dtype = variant.split(".")[0]
    shape = (19, row_length(dtype, 24, 3))
    raw = random_raw(rng, dtype, shape)
    x8 = quantized(rng.standard_normal((17, shape[1])).astype(np.float32))
    alone = np.concatenate([run(device, variant, raw, shape, x8[i : i + 1]) for i in range(17)])
    for tokens in TOKENS:
        for rows in ROWS:
            r = int(rng.integers(1, 18))
            first = int(rng.integers(0, 18 - r))
            got = run(device, variant, raw, shape, x8[first : first + r], rows=rows, tokens=tokens)
            np.testing.assert_array_equal(got.view(np.uint32), alone[first : first + r].view(np.uint32))


@pytest.mark.parametrize("wg", [32, 64, 128])
def test_workgroup_sizes(device: Device, rng: np.random.Generator, wg: int) -> None:
    skip_unless_able(device, "matmul_dot", "q5_k.sub")
    raw = random_raw(rng, "q5_k", (9, 2304))
    x8 = quantized(rng.standard_normal((2, 2304)).astype(np.float32))
    want = reference(values(raw, "q5_k", (9, 2304)), x8)
    for variant in ("q5_k.sub", "q5_k.tree"):
        guarded = Guarded(device)
        chain, y = Chain(device), guarded.empty("y", (2, 9))
        w, words = guarded.weight("w", raw, "q5_k", (9, 2304)), guarded.array("x8", x8)
        chain.dispatch("matmul_dot", variant=variant, w=w, x8=words, y=y, y_stride=9, WG=wg, NR=2, NT=2).run()
        guarded.check()
        assert nmse(y.numpy(), want) < LIMIT


def test_windows(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix larger than one binding may span gives what a small one gives; a gate over two of them is refused."""
    skip_unless_able(device, "matmul_dot", "q5_0.sub")
    raw = random_raw(rng, "q5_0", (300, 64))
    x8 = quantized(rng.standard_normal((3, 64)).astype(np.float32))
    bias = rng.standard_normal(300).astype(np.float32)
    whole = run(device, "q5_0.sub", raw, (300, 64), x8, bias=bias)
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 8192))
    np.testing.assert_array_equal(run(device, "q5_0.sub", raw, (300, 64), x8, bias=bias), whole)
    with pytest.raises(ArgumentError, match="two steps"):
        run(device, "q5_0.sub", raw, (300, 64), x8, act="silu")


def test_infinities_are_not_hidden(device: Device, rng: np.random.Generator) -> None:
    skip_unless_able(device, "matmul_dot", "q4_k.sub")
    raw = random_raw(rng, "q4_k", (4, 256))
    x = rng.standard_normal((2, 256)).astype(np.float32)
    x[1, 77] = np.inf
    chain, y = Chain(device), device.empty((2, 4))
    matmul_dot(chain, w=device.weight(raw, "q4_k", (4, 256)), x8=quantize_x8(chain, x=device.array(x)), y=y).run()
    found = y.numpy()
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


def test_the_switch(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto needs an accelerated device and a measurement; off and on mean what they say; floats never."""
    wanted = partial(dot_wanted, device, "q4_k", 64, 256)
    tuner = tuner_of(device)
    assert tuner is not None
    key = dot_key("q4_k", 64, 256, False)
    monkeypatch.setattr(device, "features", device.features | {FEATURE, FAST})
    monkeypatch.setitem(tuner._choices, key, Choice({"dot": 1, "rows": 2, "tokens": 1}, 1.0, 2.0))
    monkeypatch.delenv("FLUX_VK_INT_DOT", raising=False)
    assert wanted() and not wanted(many=True)
    assert not dot_wanted(device, "q4_k", 65, 256) and not dot_wanted(device, "f16", 64, 256)
    monkeypatch.setenv("FLUX_VK_INT_DOT", "off")
    assert not wanted()
    monkeypatch.setenv("FLUX_VK_INT_DOT", "auto")
    monkeypatch.setitem(tuner._choices, key, Choice({"dot": 0, "rows": 2, "tokens": 1}, 1.0, 1.0))
    assert not wanted()
    monkeypatch.setenv("FLUX_VK_INT_DOT", "on")
    assert wanted() and dot_wanted(device, "q8_0", 1, 32) and not dot_wanted(device, "f32", 64, 256)
    monkeypatch.setattr(device, "features", device.features - {FAST})
    assert wanted()
    monkeypatch.setenv("FLUX_VK_INT_DOT", "auto")
    monkeypatch.setitem(tuner._choices, key, Choice({"dot": 1, "rows": 2, "tokens": 1}, 1.0, 2.0))
    assert not wanted()
    monkeypatch.setenv("FLUX_VK_INT_DOT", "on")
    monkeypatch.setattr(device, "features", device.features - {FEATURE})
    assert not wanted() and not dot_able(device, "q4_k")


def test_shapes_fit_the_device(device: Device) -> None:
    if not dot_able(device, "q4_k"):
        pytest.skip("this device has no integer dot product")
    for dtype in TYPES:
        for n, k in ((1, 256), (896, 896 * 8), (4096, 14336), (152064, 3584)):
            shapes = [shape_for(device, variant_for(device, dtype), n, k, t) for t in TOKENS]
            assert [s.tokens for s in shapes] == list(TOKENS) and len({s.wg for s in shapes}) == 1
            assert all(s.rows in ROWS for s in shapes)


def test_arguments(device: Device) -> None:
    """Shapes that do not fit are refused with the argument's name; no rows are no steps."""
    if not dot_able(device, "q8_0"):
        pytest.skip("this device has no integer dot product")
    w = device.weight_room("q8_0", (8, 64))
    x8, y = device.empty((2, row_words(64)), "u32"), device.empty((2, 8))
    with pytest.raises(ArgumentError, match="use matmul"):
        matmul_dot(Chain(device), w=device.empty((8, 64)), x8=x8, y=y)
    with pytest.raises(ArgumentError, match="x8 has 12 elements along axis 1"):
        matmul_dot(Chain(device), w=w, x8=device.empty((2, row_words(32)), "u32"), y=y)
    with pytest.raises(ArgumentError, match="y is"):
        matmul_dot(Chain(device), w=w, x8=x8, y=device.empty((2, 7)))
    with pytest.raises(ArgumentError, match="residual is"):
        matmul_dot(Chain(device), w=w, x8=x8, y=y, residual=device.empty((1, 8)))
    with pytest.raises(ArgumentError, match="act is 'relu'"):
        matmul_dot(Chain(device), w=w, x8=x8, y=y, act="relu")
    with pytest.raises(ArgumentError, match="rows is 3"):
        matmul_dot(Chain(device), w=w, x8=x8, y=y, rows=3)
    assert len(matmul_dot(Chain(device), w=w, x8=x8.rows(0, 0), y=device.empty((0, 8)))) == 0
