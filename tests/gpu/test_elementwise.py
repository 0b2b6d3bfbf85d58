"""Gated activations, add, mul, cast, and the kernels that move data, against their references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Device
from flux_vk.gpu.reference import reference
from tests.gpu.harness import Guarded, nmse, run_kernel

pytestmark = pytest.mark.kernel
SIZES = [1, 2, 7, 255, 256, 257, 1000, 65536, 65537]
TYPES = ["f32", "f16", "bf16", "u32"]
SHAPES = [(3, 3, 257), (3, 1, 257), (4, 2, 64), (5, 1, 1000), (1, 1, 1)]


@pytest.mark.parametrize("kernel", ["swiglu", "geglu"])
@pytest.mark.parametrize("f", SIZES)
def test_gated(device: Device, rng: np.random.Generator, kernel: str, f: int) -> None:
    rows = 1 if f > 1000 else 3
    x = (4 * rng.standard_normal((rows, 2 * f))).astype(np.float32)
    got = run_kernel(device, kernel, {"x": x}, {"y": ((rows, f), "f32")})
    assert nmse(got["y"], reference(kernel)(x)) < 1e-7


@pytest.mark.parametrize("kernel", ["swiglu", "geglu"])
@pytest.mark.parametrize("f", [28, 27])
def test_gated_extremes(device: Device, kernel: str, f: int) -> None:
    gate = np.array([0, -0.0, 1.2e-38, 20, -20, 88, -88, 104, -104, 1e4, -1e4, 3.4e38, -3.4e38], np.float32)
    gate = np.resize(gate, f)
    x = np.concatenate([gate, np.ones(f, np.float32)])[None, :]
    got = run_kernel(device, kernel, {"x": x}, {"y": ((1, f), "f32")})["y"]
    np.testing.assert_allclose(got, reference(kernel)(x), rtol=1e-5, atol=1e-6)
    x[0, 3] = np.nan
    got = run_kernel(device, kernel, {"x": x}, {"y": ((1, f), "f32")})["y"]
    assert np.isnan(got[0, 3]) and np.isfinite(np.delete(got, 3)).all()


@pytest.mark.parametrize("kernel", ["add", "mul"])
@pytest.mark.parametrize(("rows", "rows_b", "d"), SHAPES)
def test_add_mul(device: Device, rng: np.random.Generator, kernel: str, rows: int, rows_b: int, d: int) -> None:
    a = rng.standard_normal((rows, d)).astype(np.float32)
    b = rng.standard_normal((rows_b, d)).astype(np.float32)
    got = run_kernel(device, kernel, {"a": a, "b": b}, {"y": ((rows, d), "f32")})
    want = reference(kernel)(a, b).astype(np.float32)
    np.testing.assert_array_equal(got["y"], want)


@pytest.mark.parametrize("n", SIZES)
def test_add_of_any_length(device: Device, rng: np.random.Generator, n: int) -> None:
    a, b = rng.standard_normal((2, 1, n)).astype(np.float32)
    a[0, 0], b[0, -1] = np.inf, np.nan
    got = run_kernel(device, "add", {"a": a, "b": b}, {"y": ((1, n), "f32")})
    np.testing.assert_array_equal(got["y"], a + b)


def test_add_in_place(device: Device, rng: np.random.Generator) -> None:
    from flux_vk.gpu import Chain

    a, b = rng.standard_normal((2, 3, 100)).astype(np.float32)
    guarded = Guarded(device)
    left, right = guarded.array("a", a), guarded.array("b", b)
    Chain(device).dispatch("add", a=left, b=right, y=left).run()
    guarded.check()
    np.testing.assert_array_equal(left.numpy(), a + b)


def _values(rng: np.random.Generator, source: str, n: int) -> np.ndarray:
    """All kinds of bit patterns of the type; special ones and ties of narrower types come first."""
    if source in ("f16", "bf16"):
        short = rng.integers(0, 65536, n, dtype=np.uint16)
        if n >= 65536:
            short = np.resize(np.arange(65536, dtype=np.uint16), n)
        return short.view(np.float16) if source == "f16" else short
    bits = rng.integers(0, 2**32, n, dtype=np.uint32)
    if source == "u32":
        whole = [0, 1, 2049, 65519, 65520, 65535, 2**24 + 1, 2**25 + 2, 2**25 + 6, 2**31, 2**32 - 1]
        special = np.array(whole, np.uint32)
        bits[1::2] >>= rng.integers(0, 32, len(bits[1::2]), dtype=np.uint32)
    else:
        bf16_ties = np.arange(0, 0x8000, 37, dtype=np.uint32) << 16 | 0x8000
        f16 = rng.integers(0, 0x7C00, 500).astype(np.uint16).view(np.float16).astype(np.float32)
        f16_ties = (f16 * np.float32(1 + 2**-11)).view(np.uint32)
        small = rng.integers(0x32000000, 0x39000000, 1000, dtype=np.uint32)  # where f16 is subnormal
        large = (rng.random(500, np.float32) * np.float32(2**33)).view(np.uint32)
        floats = [0, -0.0, 1, -1, 0.5, 65504, 65519.99, 65520, 2**-24, 2**-25, 3 * 2**-25, 2**31, 2**32]
        floats += [3.4e38, 1.2e-38, 1e-45, np.inf, -np.inf, np.nan]
        first = np.array(floats, np.float32).view(np.uint32)
        special = np.concatenate([first, f16_ties, small, bf16_ties, large])
    k = min(n, len(special))
    bits[:k] = special[:k]
    return bits if source == "u32" else bits.view(np.float32)


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(TYPES, 2)))
def test_cast(device: Device, rng: np.random.Generator, source: str, target: str) -> None:
    if "f16" in source + target and "storage16" not in device.features:
        pytest.skip(f"{device.name} has no 16-bit storage")
    for n in [0, *SIZES]:
        x = _values(rng, source, n)
        guarded = Guarded(device)
        given = guarded.place("x", x.nbytes, source, (n,), x.reshape(-1).view(np.uint8))
        got = run_kernel(device, "cast", {"x": given}, {"y": ((n,), target)})["y"]
        guarded.check()
        want = reference("cast")(x, source=source, target=target)
        if target == "u32":
            np.testing.assert_array_equal(got, want)
            continue
        wide = [(v.astype(np.uint32) << 16).view(np.float32) if target == "bf16" else v for v in (got, want)]
        nan = np.isnan(wide[1])
        np.testing.assert_array_equal(np.isnan(wide[0]), nan)
        width = np.uint32 if target == "f32" else np.uint16
        np.testing.assert_array_equal(got.view(width)[~nan], want.view(width)[~nan])


@pytest.mark.parametrize("d", [1, 2, 7, 255, 256, 257, 1000])
def test_gather(device: Device, rng: np.random.Generator, d: int) -> None:
    x = rng.integers(0, 2**32, (5, d), dtype=np.uint32).view(np.float32)  # any bits, NaN payloads too
    idx = np.array([4, 0, 0, 3, 5, 2**32 - 1, 1], np.uint32)
    got = run_kernel(device, "gather", {"x": x, "idx": idx}, {"y": ((7, d), "f32")})["y"]
    want = reference("gather")(x, idx)
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize(
    ("rows", "cols", "x_stride", "x_offset", "y_stride", "y_offset"),
    [
        (3, 64, 128, 16, 64, 0),
        (3, 63, 128, 16, 64, 0),
        (1, 1, 1, 0, 1, 0),
        (5, 7, 9, 2, 11, 3),
        (70, 1000, 1000, 0, 1004, 4),
    ],
)
def test_copy_strided(
    device: Device,
    rng: np.random.Generator,
    rows: int,
    cols: int,
    x_stride: int,
    x_offset: int,
    y_stride: int,
    y_offset: int,
) -> None:
    x = rng.integers(0, 2**32, (rows, x_stride), dtype=np.uint32).view(np.float32)
    y = np.full((rows, y_stride), 0xFFFFFFFF, np.uint32).view(np.float32)
    layout = {"rows": rows, "cols": cols, "x_stride": x_stride, "x_offset": x_offset}
    layout |= {"y_stride": y_stride, "y_offset": y_offset}
    got = run_kernel(device, "copy_strided", {"x": x}, {"y": (y.shape, "f32")}, **layout)["y"]
    want = reference("copy_strided")(x, y, **layout)
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def test_copy_strided_refuses_columns_that_do_not_fit(device: Device) -> None:
    x = np.zeros((2, 8), np.float32)
    layout = {"rows": 2, "cols": 4, "x_stride": 8, "x_offset": 5, "y_stride": 8, "y_offset": 0}
    with pytest.raises(ArgumentError, match="copy_strided: x has 8 elements along axis 1"):
        run_kernel(device, "copy_strided", {"x": x}, {"y": ((2, 8), "f32")}, **layout)


@pytest.mark.parametrize("rows", [1, 7, 65, 257])
def test_fetch_rows(device: Device, rng: np.random.Generator, rows: int) -> None:
    slots = 9
    slot = rng.integers(0, slots + 1, rows, dtype=np.uint32)  # one past the end is no slot
    token, pos = rng.integers(0, 2**32, (2, slots), dtype=np.uint32)
    inputs = {"slot": slot, "slot_token": token, "slot_pos": pos}
    got = run_kernel(device, "fetch_rows", inputs, {"ids": ((rows,), "u32"), "pos": ((rows,), "u32")})
    ids, positions = reference("fetch_rows")(slot, token, pos)
    np.testing.assert_array_equal(got["ids"], ids)
    np.testing.assert_array_equal(got["pos"], positions)


@pytest.mark.parametrize("window", [0, 1, 600, 5000])
@pytest.mark.parametrize("rows", [1, 7, 65, 257])
def test_fetch_rows_writes_grids(device: Device, rng: np.random.Generator, rows: int, window: int) -> None:
    """As many chunks as the row with most has, dropped pages left out; rows without a slot count for nothing."""
    slots = 5
    slot = rng.integers(0, slots + 1, rows, dtype=np.uint32)
    pos = rng.choice([0, 31, 32, 511, 512, 513, 3000, 40_000], slots).astype(np.uint32)
    sinks = rng.integers(0, 4, slots)
    dropped = np.maximum(0, rng.integers(0, pos // 32 + 1) - sinks - 1)
    info = np.stack([sinks, dropped, 0 * sinks, 0 * sinks], axis=1).astype(np.uint32)
    inputs = {"slot": slot, "slot_token": pos, "slot_pos": pos, "slot_info": info}
    outputs = {"ids": ((rows,), "u32"), "pos": ((rows,), "u32"), "grid": ((2, 4), "u32")}
    for chunk in (1, 8, 16):
        got = run_kernel(device, "fetch_rows", inputs, outputs, blocks=6, window=window, CHUNK=chunk)
        wanted = reference("fetch_rows")(slot, pos, pos, info, blocks=6, window=window, chunk=chunk)
        for name, want in zip(outputs, wanted, strict=True):
            np.testing.assert_array_equal(got[name], want, err_msg=name)


def test_more_rows_than_one_grid_axis_holds(device: Device, rng: np.random.Generator) -> None:
    x = rng.standard_normal((70_000, 6)).astype(np.float32)
    got = run_kernel(device, "swiglu", {"x": x}, {"y": ((70_000, 3), "f32")})["y"]
    assert nmse(got, reference("swiglu")(x)) < 1e-7
    idx = rng.integers(0, 70_000, 66_000, dtype=np.uint32)
    got = run_kernel(device, "gather", {"x": x, "idx": idx}, {"y": ((66_000, 6), "f32")})["y"]
    np.testing.assert_array_equal(got, x[idx])


@pytest.mark.parametrize("wg", [64, 128, 256])
@pytest.mark.parametrize("d", [1023, 1024])
def test_workgroup_sizes(device: Device, rng: np.random.Generator, d: int, wg: int) -> None:
    a, b = rng.standard_normal((2, 3, d)).astype(np.float32)
    for kernel in ("add", "mul"):
        got = run_kernel(device, kernel, {"a": a, "b": b}, {"y": (a.shape, "f32")}, WG=wg)["y"]
        np.testing.assert_array_equal(got, reference(kernel)(a, b).astype(np.float32))
    x = np.concatenate([a, b], axis=1)
    for kernel in ("swiglu", "geglu"):
        got = run_kernel(device, kernel, {"x": x}, {"y": (a.shape, "f32")}, WG=wg)["y"]
        assert nmse(got, reference(kernel)(x)) < 1e-7
    bits = run_kernel(device, "cast", {"x": a[0]}, {"y": ((d,), "u32")}, WG=wg)["y"]
    np.testing.assert_array_equal(bits, reference("cast")(a[0], source="f32", target="u32"))
    idx = np.array([2, 0, 1, 1], np.uint32)
    got = run_kernel(device, "gather", {"x": a, "idx": idx}, {"y": ((4, d), "f32")}, WG=wg)["y"]
    np.testing.assert_array_equal(got, a[idx])
    layout = {"rows": 3, "cols": d, "x_stride": d, "x_offset": 0, "y_stride": d, "y_offset": 0}
    got = run_kernel(device, "copy_strided", {"x": a}, {"y": (a.shape, "f32")}, WG=wg, **layout)["y"]
    np.testing.assert_array_equal(got, a)
