"""qk_rope and its gradient against float64, and that gradient's reference against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Device
from flux_vk.gpu.reference import reference
from tests.gpu.differences import gradient
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel
Array = npt.NDArray[Any]
LIMIT = 1e-10

# rows, heads, kv_heads, head_dim, n_rot, norms of (q, k), WIDE
SIZES = [
    (1, 1, 1, 4, 4, (True, True), 0),
    (7, 7, 1, 12, 6, (True, False), 0),
    (33, 3, 3, 80, 20, (False, True), 0),
    (5, 14, 2, 64, 64, (False, False), 1),
    (130, 4, 2, 80, 32, (True, True), 1),
    (3, 2, 1, 256, 256, (True, True), 1),
    (2, 9, 3, 64, 32, (False, False), 0),
]


def _data(rng: np.random.Generator, size: tuple[Any, ...]) -> tuple[dict[str, Array], dict[str, Any]]:
    rows, heads, kv_heads, dim, n_rot, norms, _ = size
    given: dict[str, Array] = {
        "qkv": rng.standard_normal((rows, (heads + 2 * kv_heads) * dim)).astype(np.float32),
        "pos": rng.integers(0, 40000, rows, dtype=np.uint32),
        "turns": rng.integers(0, 1 << 32, n_rot // 2, dtype=np.uint64).astype(np.uint32),
    }
    for name, there in zip(("qnorm", "knorm"), norms, strict=True):
        if there:
            given[name] = (1 + 0.3 * rng.standard_normal(dim)).astype(np.float32)
    scalars = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "n_rot": n_rot, "mscale": 1.25, "eps": 1e-5}
    return given, scalars


@pytest.mark.parametrize("neox", [0, 1])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward(device: Device, rng: np.random.Generator, size: tuple[Any, ...], neox: int) -> None:
    given, scalars = _data(rng, size)
    out = {"qk": ((size[0], (size[1] + size[2]) * size[3]), "f32")}
    got = run_kernel(device, "qk_rope", given, out, NEOX=neox, WIDE=size[-1], **scalars)["qk"]
    assert nmse(got, reference("qk_rope")(**given, **scalars, neox=neox)) < LIMIT


@pytest.mark.parametrize("neox", [0, 1])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_backward(device: Device, rng: np.random.Generator, size: tuple[Any, ...], neox: int) -> None:
    given, scalars = _data(rng, size)
    given["dqk"] = rng.standard_normal((size[0], (size[1] + size[2]) * size[3])).astype(np.float32)
    given["dqkv"] = rng.standard_normal(given["qkv"].shape).astype(np.float32)  # the v columns must stay
    got = run_kernel(device, "qk_rope_backward", given, {}, NEOX=neox, WIDE=size[-1], **scalars)["dqkv"]
    want = reference("qk_rope_backward")(**given, **scalars, neox=neox)
    assert nmse(got, want) < LIMIT
    tail = size[2] * size[3]
    np.testing.assert_array_equal(got[:, -tail:], given["dqkv"][:, -tail:])


@pytest.mark.parametrize("neox", [0, 1])
@pytest.mark.parametrize("norms", [(False, False), (True, True)])
def test_the_gradient_is_that_of_the_forward(rng: np.random.Generator, neox: int, norms: tuple[bool, bool]) -> None:
    given, scalars = _data(rng, (3, 2, 1, 8, 4, norms, 0))
    dqk = rng.standard_normal((3, 3 * 8))

    def loss(qkv: Array) -> float:
        return float((reference("qk_rope")(**{**given, "qkv": qkv}, **scalars, neox=neox) * dqk).sum())

    want = gradient(loss, given["qkv"])
    assert nmse(reference("qk_rope_backward")(**given, dqk=dqk, **scalars, neox=neox), want) < 1e-14


@pytest.mark.parametrize("workgroup", [32, 64])
def test_shapes_of_the_workgroup_do_not_decide_bits(device: Device, rng: np.random.Generator, workgroup: int) -> None:
    size = (9, 5, 1, 16, 8, (True, True), 0)
    given, scalars = _data(rng, size)
    out = {"qk": ((9, 6 * 16), "f32")}
    one = run_kernel(device, "qk_rope", given, out, NEOX=1, WIDE=1, WG=64, **scalars)["qk"]
    other = run_kernel(device, "qk_rope", given, out, NEOX=1, WIDE=0, WG=workgroup, **scalars)["qk"]
    np.testing.assert_array_equal(one, other)
    few = {**given, "qkv": given["qkv"][4:5], "pos": given["pos"][4:5]}
    alone = run_kernel(device, "qk_rope", few, {"qk": ((1, 96), "f32")}, NEOX=1, WIDE=1, WG=64, **scalars)["qk"]
    np.testing.assert_array_equal(alone[0], one[4])


def test_refuses_wide_where_sizes_do_not_allow_it(device: Device, rng: np.random.Generator) -> None:
    given, scalars = _data(rng, (2, 1, 1, 80, 20, (False, False), 0))
    with pytest.raises(ArgumentError, match="qk_rope: turns has 10 elements"):
        run_kernel(device, "qk_rope", given, {"qk": ((2, 160), "f32")}, WIDE=1, **scalars)
