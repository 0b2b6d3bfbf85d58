"""The radix sort against NumPy's stable sort: key types, directions, ties, special floats, payloads."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Chain, Device, ops
from flux_vk.gpu.reference import reference
from tests.gpu.harness import Guarded, run_kernel

pytestmark = pytest.mark.kernel


def _check(device: Device, keys: np.ndarray, values: np.ndarray | None, descending: bool, bits: int = 32) -> None:
    n = len(keys)
    dtype = "f32" if keys.dtype == np.float32 else "u32"
    guarded = Guarded(device)
    given = guarded.array("keys", keys)
    payload = None if values is None else guarded.array("values", values)
    keys_out, values_out = guarded.empty("keys_out", (n,), dtype), guarded.empty("values_out", (n,), "u32")
    chain = Chain(device)
    outputs = {"keys_out": keys_out, "values_out": values_out}
    ops.sort(chain, keys=given, values=payload, **outputs, descending=descending, bits=bits)
    chain.run()
    guarded.check()
    raw = keys.view(np.uint32)
    want_keys, want_values = reference("sort")(raw, values, key=int(dtype == "f32"), desc=int(descending))
    np.testing.assert_array_equal(keys_out.numpy().view(np.uint32), want_keys)
    np.testing.assert_array_equal(values_out.numpy(), want_values)
    np.testing.assert_array_equal(given.numpy().view(np.uint32), raw)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", ["u32", "f32"])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 255, 256, 257, 1000, 2048, 2049, 65537, 262144])
def test_sort(device: Device, rng: np.random.Generator, n: int, dtype: str, descending: bool) -> None:
    if dtype == "u32":
        keys = rng.integers(0, 2**32, n, dtype=np.uint32)
    else:
        keys = rng.standard_normal(n).astype(np.float32)
    values = rng.integers(0, 2**32, n, dtype=np.uint32) if n % 2 else None
    _check(device, keys, values, descending)


@pytest.mark.parametrize("descending", [False, True])
def test_stable_with_ties_and_special_floats(device: Device, rng: np.random.Generator, descending: bool) -> None:
    special = [0.0, -0.0, 1, -1, np.nan, -np.nan, np.inf, -np.inf, 3.4e38, 1.2e-38, 1e-45, -1e-45]
    keys = rng.choice(np.array(special, np.float32), 5000)
    _check(device, keys, None, descending)
    finite = keys[~np.isnan(keys)]
    order = np.argsort(-finite if descending else finite, kind="stable")
    _check(device, finite, order.astype(np.uint32), descending)


@pytest.mark.parametrize("bits", [4, 8, 12, 17])
def test_fewer_bits(device: Device, rng: np.random.Generator, bits: int) -> None:
    keys = rng.integers(0, 2**bits, 3001, dtype=np.uint32)
    _check(device, keys, None, False, bits)


def test_one_pass_of_each_kernel(device: Device, rng: np.random.Generator) -> None:
    keys = rng.integers(0, 2**32, 3000, dtype=np.uint32)
    for shift in (0, 12, 28):
        out = {"counts": ((48,), "u32")}
        counts = run_kernel(device, "sort_count", {"keys": keys}, out, shift=shift, WG=64)["counts"]
        np.testing.assert_array_equal(counts, reference("sort_count")(keys, shift=shift, block=1024))
        inputs = {"keys": keys, "scanned": np.cumsum(counts, dtype=np.uint32)}
        places = {"keys_out": ((3000,), "u32"), "values_out": ((3000,), "u32")}
        got = run_kernel(device, "sort", inputs, places, shift=shift, WG=64)
        want = reference("sort")(keys, shift=shift)
        np.testing.assert_array_equal(got["keys_out"], want[0])
        np.testing.assert_array_equal(got["values_out"], want[1])


def test_refuses(device: Device) -> None:
    keys, out = device.array(np.zeros(8, np.float32)), device.empty((8,), "f32")
    with pytest.raises(ArgumentError, match="values_out is .* expected u32"):
        ops.sort(Chain(device), keys=keys, keys_out=out, values_out=out)
    with pytest.raises(ArgumentError, match="bits is 16"):
        ops.sort(Chain(device), keys=keys, keys_out=out, values_out=device.empty((8,), "u32"), bits=16)
