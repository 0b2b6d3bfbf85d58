"""Attention in training, forward and backward, against float64 and its finite differences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Chain, Device, kernels
from flux_vk.gpu.attention_train import MOST_TURNS, attention_backward, attention_forward, shape_for
from flux_vk.gpu.reference import training_attention as reference
from tests.gpu.differences import gradient
from tests.gpu.harness import Guarded, nmse, run_kernel

pytestmark = pytest.mark.kernel
Array = npt.NDArray[Any]
LIMIT = 1e-10


@dataclass(frozen=True)
class Size:
    """A packed batch: the sequences' lengths, rows of padding behind them, and a model's heads."""

    lengths: tuple[int, ...]
    padding: int
    heads: int
    kv_heads: int
    head_dim: int
    softcap: float = 0.0
    window: int = 0

    @property
    def rows(self) -> int:
        return sum(self.lengths) + self.padding

    @property
    def sizes(self) -> dict[str, Any]:
        return {
            "heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim, "scale": self.head_dim**-0.5,
            "softcap": self.softcap, "window": self.window,
        }  # fmt: skip


SIZES = [
    Size((1,), 0, 1, 1, 4),
    Size((7,), 0, 2, 1, 4, softcap=2.0),
    Size((33,), 3, 7, 1, 32, window=5),
    Size((50, 1, 77), 2, 14, 2, 64),
    Size((64, 66), 0, 14, 2, 64, softcap=1.5, window=40),
    Size((3, 2, 1, 20, 9), 30, 2, 2, 32, window=2),  # the last of eight keys is seen by the first row behind
    Size((40,), 1, 6, 3, 80, softcap=3.0),
    Size((130,), 0, 4, 2, 80, window=64),
    Size((33, 5), 2, 2, 1, 256),
    Size((300,), 4, 2, 2, 32),
]


def batch(size: Size) -> tuple[Array, Array]:
    """(first, last) of the rows, as training packs them."""
    ends = np.cumsum((0, *size.lengths))
    first = np.concatenate([np.full(n, at) for n, at in zip(size.lengths, ends[:-1], strict=True)])
    last = np.concatenate([np.full(n, at) for n, at in zip(size.lengths, ends[1:], strict=True)])
    alone = np.arange(ends[-1], size.rows)
    return np.r_[first, alone].astype(np.uint32), np.r_[last, alone + 1].astype(np.uint32)


def data(rng: np.random.Generator, size: Size) -> dict[str, Array]:
    first, last = batch(size)
    width = {"qk": size.heads + size.kv_heads, "qkv": size.heads + 2 * size.kv_heads, "dy": size.heads}
    shapes = {name: (size.rows, n * size.head_dim) for name, n in width.items()}
    found: dict[str, Array] = {n: 1.5 * rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return {**found, "first": first, "last": last}


@pytest.fixture(params=["lane", "tile"])
def form(request: pytest.FixtureRequest, device: Device, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels of CPU drivers and those of GPUs, on whatever device this is."""
    wanted: str = request.param
    needs = kernels.contract("attention_train").variant("lane").requires
    if wanted == "lane" and (device.limits["subgroup_size"] < 8 or not device.features.issuperset(needs)):
        pytest.skip("subgroups of this device are too small for the form of eight lanes")
    monkeypatch.setenv("FLUX_VK_FAMILY", {"lane": "cpu", "tile": "gpu"}[wanted])
    return wanted


def run(device: Device, given: dict[str, Array], size: Size) -> dict[str, Array]:
    """y, lse, dqk and dqkv of guarded buffers; what is written was poison before, dqkv's other columns zero."""
    guarded = Guarded(device)
    b = {name: guarded.array(name, a) for name, a in given.items()}
    b["y"] = guarded.empty("y", given["dy"].shape)
    b["lse"] = guarded.empty("lse", (size.rows, size.heads))
    b["dqk"] = guarded.empty("dqk", given["qk"].shape)
    b["dqkv"] = guarded.array("dqkv", np.full_like(given["qkv"], 7))
    chain = Chain(device)
    attention_forward(chain, **{n: b[n] for n in ("qk", "qkv", "first", "y", "lse")}, **size.sizes)
    attention_backward(chain, **b, **size.sizes)
    chain.run()
    guarded.check()
    return {name: b[name].numpy() for name in ("y", "lse", "dqk", "dqkv")}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_against_the_reference(device: Device, rng: np.random.Generator, form: str, size: Size) -> None:
    given = data(rng, size)
    got = run(device, given, size)
    qk, qkv, first, dy = (given[n] for n in ("qk", "qkv", "first", "dy"))
    y, lse = reference.attention_train(qk, qkv, first, **size.sizes)
    dqk, dv = reference.attention_backward(qk, qkv, first, dy, **size.sizes)
    q, v = size.heads * size.head_dim, size.kv_heads * size.head_dim
    # Each part by itself: queries of one visible key have a gradient of nothing, which the others' must not hide.
    errors = {
        "y": nmse(got["y"], y), "lse": nmse(got["lse"], lse), "dv": nmse(got["dqkv"][:, -v:], dv),
        "dq": ((got["dqk"][:, :q] - dqk[:, :q]) ** 2).sum() / ((dqk[:, :q] ** 2).sum() + 1e-2 * (dy**2).sum()),
        "dk": ((got["dqk"][:, q:] - dqk[:, q:]) ** 2).sum() / ((dqk[:, q:] ** 2).sum() + 1e-2 * (dy**2).sum()),
    }  # fmt: skip
    assert max(errors.values()) < LIMIT, errors
    assert (got["dqkv"][:, :-v] == 7).all()


@pytest.mark.parametrize("size", [Size((5, 2), 1, 4, 2, 4), Size((6,), 0, 2, 1, 4, 0.7, 3)], ids=str)
def test_the_gradient_is_that_of_the_forward(rng: np.random.Generator, size: Size) -> None:
    given = data(rng, size)
    v = size.kv_heads * size.head_dim

    def loss(name: str, x: Array) -> float:
        moved = {**given, name: x}
        y, _ = reference.attention_train(moved["qk"], moved["qkv"], given["first"], **size.sizes)
        return float((y * given["dy"]).sum())

    dqk, dv = reference.attention_backward(given["qk"], given["qkv"], given["first"], given["dy"], **size.sizes)
    assert nmse(dqk, gradient(lambda x: loss("qk", x), given["qk"])) < 1e-14
    assert nmse(dv, gradient(lambda x: loss("qkv", x), given["qkv"])[:, -v:]) < 1e-14


@pytest.mark.parametrize("size", [SIZES[3], SIZES[4]], ids=str)
def test_a_sequence_has_the_same_bits_alone_and_packed(
    device: Device, rng: np.random.Generator, form: str, size: Size
) -> None:
    """And two runs agree."""
    given = data(rng, size)
    packed, again = run(device, given, size), run(device, given, size)
    for name, a in packed.items():
        np.testing.assert_array_equal(a, again[name])
    at = 0
    for n in size.lengths:
        rows = slice(at, at + n)
        one = replace(size, lengths=(n,), padding=0)
        first, last = batch(one)
        mine = {name: a[rows] for name, a in given.items()} | {"first": first, "last": last}
        for name, a in run(device, mine, one).items():
            np.testing.assert_array_equal(a, packed[name][rows], err_msg=name)
        at += n


def test_delta(device: Device, rng: np.random.Generator) -> None:
    y, dy = (rng.uniform(0.5, 2, (11, 3 * 20)).astype(np.float32) for _ in range(2))
    got = run_kernel(device, "attention_delta", {"y": y, "dy": dy}, {"delta": ((11, 3), "f32")}, heads=3, HEAD_DIM=20)
    assert nmse(got["delta"], reference.attention_delta(y, dy, heads=3, head_dim=20)) < LIMIT


def test_large_scores_stay_finite(device: Device, rng: np.random.Generator, form: str) -> None:
    size = Size((40,), 0, 2, 1, 32)
    given = data(rng, size)
    given["qk"] *= 1000
    for name, a in run(device, given, size).items():
        assert np.isfinite(a).all(), name


@pytest.mark.parametrize(
    ("change", "message"), [({"heads": 3, "kv_heads": 2}, "heads is 3"), ({"head_dim": 6}, "head_dim is 6")]
)
def test_refuses_heads_that_do_not_fit(device: Device, change: dict[str, int], message: str) -> None:
    b = device.zeros((2, 8))
    first = device.zeros((2,), "u32")
    sizes = {**Size((2,), 0, 2, 1, 4).sizes, **change}
    with pytest.raises(ArgumentError, match=message):
        attention_forward(Chain(device), qk=b, qkv=b, first=first, y=b, lse=b, **sizes)


def test_rows_of_a_workgroup_decide_no_bits(device: Device, rng: np.random.Generator) -> None:
    """Of the form for GPUs, kernel by kernel; the columns of dqk and dqkv that are another kernel's stay."""
    size = Size((70, 9), 1, 2, 1, 32, window=50)
    given = data(rng, size)
    numbers: dict[str, Any] = {"heads": 2, "kv_heads": 1, "HEAD_DIM": 32, "scale": 0.2, "window": 50}
    state = (given["qk"], given["qkv"], given["first"])
    y, lse = reference.attention_train(*state, heads=2, kv_heads=1, head_dim=32, scale=0.2, window=50)
    delta = reference.attention_delta(y, given["dy"], heads=2, head_dim=32)
    given |= {"lse": lse.astype(np.float32), "delta": delta.astype(np.float32)}
    given |= {"dqk": np.full_like(given["qk"], 7), "dqkv": np.full_like(given["qkv"], 7)}
    outputs = {"y": (given["dy"].shape, "f32"), "lse": ((size.rows, 2), "f32")}
    for kernel in ("attention_train", "attention_back_q", "attention_back_kv"):
        out = outputs if kernel == "attention_train" else {}
        names = {b.name for b in kernels.contract(kernel).bindings} - set(out)
        inputs = {name: a for name, a in given.items() if name in names}
        runs = [run_kernel(device, kernel, inputs, out, variant="tile", OWN=n, **numbers) for n in (16, 32, 64)]
        for name, a in runs[0].items():
            np.testing.assert_array_equal(runs[1][name], a)
            np.testing.assert_array_equal(runs[2][name], a)
            assert kernel != "attention_back_q" or (a[:, 64:] == 7).all()
            assert kernel != "attention_back_kv" or (a[:, :64] == 7).all()


def test_refuses_what_a_cpu_driver_would_cut_short(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """llvmpipe ends the loops of an invocation, without a word, after 65,535 turns."""
    if device.kind != "cpu":
        pytest.skip("no CPU driver")
    for family in ("cpu", "gpu"):
        monkeypatch.setenv("FLUX_VK_FAMILY", family)
        shape_for(device, "attention_back_kv", 2048, 14, 2, 64)
        with pytest.raises(ArgumentError, match=f"attention_back_kv: 80000 rows .* this driver allows {MOST_TURNS}"):
            shape_for(device, "attention_back_kv", 80_000, 14, 2, 64)
