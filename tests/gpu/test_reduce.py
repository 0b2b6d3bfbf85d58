"""argmax, reduce, prefix sums and top-k against their references: lengths, ties, NaN, infinities."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Chain, Device, ops
from flux_vk.gpu.reference import reference
from tests.gpu.harness import Guarded, nmse, run_kernel

pytestmark = pytest.mark.kernel
LENGTHS = [1, 2, 7, 255, 256, 257, 1000, 65536, 65537, 262144]


def _rows(rng: np.random.Generator, d: int, kind: str) -> np.ndarray:
    x = rng.standard_normal((1 if d > 1000 else 3, d)).astype(np.float32)
    if kind == "ties":
        x = np.round(x).astype(np.float32)
    elif kind == "constant":
        x[:] = 1.5
    elif kind == "special" and d > 4:
        x[:, rng.integers(0, d, max(1, d // 7))] = np.nan
        x[:, rng.integers(0, d, 2)] = np.inf
        x[:, rng.integers(0, d, 2)] = -np.inf
    elif kind == "nan":
        x[:] = np.nan
    elif kind == "zeros":
        x[:] = np.where(rng.random(x.shape) < 0.5, 0.0, -0.0)
    elif kind == "low":
        x[:] = -np.inf
    elif kind == "large":
        x[:] = np.where(x > 0, 3.4e38, 1.2e-38)
    return x


KINDS = ["normal", "ties", "constant", "special", "nan", "zeros", "low", "large"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 7, 256, 257, 1000])
def test_argmax_kinds(device: Device, rng: np.random.Generator, d: int, kind: str) -> None:
    x = _rows(rng, d, kind)
    got = run_kernel(device, "argmax", {"x": x}, {"y": ((len(x),), "u32")})["y"]
    np.testing.assert_array_equal(got, reference("argmax")(x))


@pytest.mark.parametrize("d", LENGTHS)
def test_argmax_lengths(device: Device, rng: np.random.Generator, d: int) -> None:
    x = _rows(rng, d, "normal")
    got = run_kernel(device, "argmax", {"x": x}, {"y": ((len(x),), "u32")})["y"]
    np.testing.assert_array_equal(got, np.argmax(x, axis=-1))


@pytest.mark.parametrize("op", [0, 1, 2])
@pytest.mark.parametrize("d", [0, *LENGTHS])
def test_reduce(device: Device, rng: np.random.Generator, d: int, op: int) -> None:
    x = _rows(rng, d, "normal")
    got = run_kernel(device, "reduce", {"x": x}, {"y": ((len(x),), "f32")}, OP=op)["y"]
    want = reference("reduce")(x, op=op)
    if op == 0:
        magnitude = np.abs(x).sum(axis=-1).max(initial=1.0)  # a sum near zero may cancel
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * magnitude)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op", [1, 2])
@pytest.mark.parametrize("d", [256, 1001])
def test_extremes_of_rows(device: Device, rng: np.random.Generator, d: int, op: int, kind: str) -> None:
    x = _rows(rng, d, kind)
    got = run_kernel(device, "reduce", {"x": x}, {"y": ((len(x),), "f32")}, OP=op)["y"]
    np.testing.assert_array_equal(got, reference("reduce")(x, op=op))


@pytest.mark.parametrize("dtype", ["u32", "f32"])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 255, 256, 257, 1000, 2048, 2049, 65537, 1_000_003])
def test_prefix_scan(device: Device, rng: np.random.Generator, n: int, dtype: str) -> None:
    if dtype == "u32":
        x = rng.integers(0, 2**32, n, dtype=np.uint32)
    else:
        x = rng.random(n, np.float32)
    guarded = Guarded(device)
    source, target = guarded.array("x", x), guarded.empty("y", (n,), dtype)
    chain = Chain(device)
    ops.prefix_scan(chain, x=source, y=target)
    chain.run()
    guarded.check()
    want = reference("prefix_scan")(x)
    if dtype == "u32":
        np.testing.assert_array_equal(target.numpy(), want)
        np.testing.assert_array_equal(source.numpy(), x)
    else:
        assert nmse(target.numpy(), want) < 1e-7


def test_prefix_scan_in_place(device: Device, rng: np.random.Generator) -> None:
    x = rng.integers(0, 2**32, 5000, dtype=np.uint32)
    buffer = device.array(x)
    chain = Chain(device)
    ops.prefix_scan(chain, x=buffer, y=buffer)
    chain.run()
    np.testing.assert_array_equal(buffer.numpy(), np.cumsum(x, dtype=np.uint32))


@pytest.mark.parametrize("dtype", [np.uint32, np.float32])
def test_prefix_scan_kernels_alone(device: Device, rng: np.random.Generator, dtype: type) -> None:
    x = rng.integers(0, 1000, 3000).astype(dtype)
    name = "u32" if dtype is np.uint32 else "f32"
    totals = run_kernel(device, "prefix_scan_totals", {"x": x}, {"totals": ((3,), name)}, WG=64)["totals"]
    np.testing.assert_array_equal(totals, reference("prefix_scan_totals")(x, block=1024))
    before = np.cumsum(totals, dtype=dtype)
    got = run_kernel(device, "prefix_scan", {"x": x, "before": before}, {"y": ((3000,), name)}, WG=64)["y"]
    np.testing.assert_array_equal(got, reference("prefix_scan")(x, before, block=1024))


def _top_k(device: Device, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    guarded = Guarded(device)
    source = guarded.array("x", x)
    values = guarded.empty("values", (len(x), k), "f32")
    indices = guarded.empty("indices", (len(x), k), "u32")
    chain = Chain(device)
    ops.top_k(chain, x=source, values=values, indices=indices)
    chain.run()
    guarded.check()
    return values.numpy(), indices.numpy()


def _check_top_k(device: Device, x: np.ndarray, k: int) -> None:
    values, indices = _top_k(device, x, k)
    want_values, want_indices = reference("top_k")(x, k=k)
    np.testing.assert_array_equal(indices, want_indices)
    np.testing.assert_array_equal(values.view(np.uint32), want_values.view(np.uint32))


@pytest.mark.parametrize("k", [1, 2, 40, 1024])
@pytest.mark.parametrize("d", [1, 2, 7, 255, 256, 257, 1000, 65537, 151936, 262144])
def test_top_k(device: Device, rng: np.random.Generator, d: int, k: int) -> None:
    _check_top_k(device, _rows(rng, d, "normal"), k)


@pytest.mark.parametrize("k", [1, 64, 1000])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [63, 1000, 70001])
def test_top_k_kinds(device: Device, rng: np.random.Generator, d: int, k: int, kind: str) -> None:
    _check_top_k(device, _rows(rng, d, kind), k)


def test_top_k_of_a_cluster(device: Device, rng: np.random.Generator) -> None:
    """All large elements in few blocks, and a tie at the bound that reaches across blocks."""
    x = rng.standard_normal((2, 100_000)).astype(np.float32)
    x[0, 5000:5400] += 100
    x[1, 77:5000] = 50
    x[1, 90_000] = 51
    for k in (10, 300, 1024):
        _check_top_k(device, x, k)


def test_top_k_blocks(device: Device, rng: np.random.Generator) -> None:
    for d in (1, 64, 65, 1000):
        x = _rows(rng, d, "special")
        out = {"maxima": ((len(x), -(-d // 64)), "u32")}
        got = run_kernel(device, "top_k_blocks", {"x": x}, out)["maxima"]
        np.testing.assert_array_equal(got, reference("top_k_blocks")(x))


def test_top_k_refuses(device: Device) -> None:
    x = device.array(np.zeros((1, 2000), np.float32))
    too_many, indices = device.empty((1, 1025)), device.empty((1, 1025), "u32")
    with pytest.raises(ArgumentError, match="K up to 1024"):
        ops.top_k(Chain(device), x=x, values=too_many, indices=indices)


def test_more_rows_than_one_grid_axis_holds(device: Device, rng: np.random.Generator) -> None:
    x = rng.integers(-3, 4, (66_000, 5)).astype(np.float32)
    got = run_kernel(device, "argmax", {"x": x}, {"y": ((66_000,), "u32")}, WG=64)["y"]
    np.testing.assert_array_equal(got, np.argmax(x, axis=-1))
    got = run_kernel(device, "reduce", {"x": x}, {"y": ((66_000,), "f32")}, WG=64)["y"]
    np.testing.assert_array_equal(got, x.sum(axis=-1))


@pytest.mark.parametrize("wg", [64, 128, 256])
@pytest.mark.parametrize("d", [5000, 5003])
def test_workgroup_sizes(device: Device, rng: np.random.Generator, d: int, wg: int) -> None:
    x = _rows(rng, d, "ties")
    got = run_kernel(device, "argmax", {"x": x}, {"y": ((len(x),), "u32")}, WG=wg)["y"]
    np.testing.assert_array_equal(got, reference("argmax")(x))
    for op in (0, 1, 2):
        got = run_kernel(device, "reduce", {"x": x}, {"y": ((len(x),), "f32")}, OP=op, WG=wg)["y"]
        np.testing.assert_array_equal(got, reference("reduce")(x, op=op))
    if wg <= 128:
        maxima = run_kernel(device, "top_k_blocks", {"x": x}, {"maxima": ((len(x), -(-d // 64)), "u32")}, WG=wg)
        np.testing.assert_array_equal(maxima["maxima"], reference("top_k_blocks")(x))
    whole = x[0].astype(np.int32).view(np.uint32)
    blocks = -(-d // (16 * wg))
    totals = run_kernel(device, "prefix_scan_totals", {"x": whole}, {"totals": ((blocks,), "u32")}, WG=wg)["totals"]
    np.testing.assert_array_equal(totals, reference("prefix_scan_totals")(whole, block=16 * wg))
    before = np.cumsum(totals, dtype=np.uint32)
    got = run_kernel(device, "prefix_scan", {"x": whole, "before": before}, {"y": ((d,), "u32")}, WG=wg)["y"]
    np.testing.assert_array_equal(got, np.cumsum(whole, dtype=np.uint32))
