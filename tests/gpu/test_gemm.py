"""The float products of training: every form, stride and offset against float64, in both families' kernels."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Chain, Device, kernels
from flux_vk.gpu.gemm import gemm
from flux_vk.gpu.reference.gemm import gemm as reference
from tests.gpu.harness import Guarded, nmse

pytestmark = pytest.mark.kernel
LIMIT = kernels.contract("gemm").nmse
FORMS = [(False, False), (False, True), (True, False), (True, True)]
NONE = (0, 0, 0)
SHAPES = [  # m, n, k; extra elements of a stored row of a, b, c; offsets
    (7, 896, 130, NONE, (0, 2, 3)),
    (7, 36, 8, (4, 8, 4), (4, 8, 12)),
    (257, 3, 31, (5, 1, 2), (3, 1, 7)),
    (1, 1, 1, NONE, NONE),
    (70, 41, 257, (0, 3, 0), (1, 0, 2)),
]


def stored(rng: np.random.Generator, rows: int, width: int, extra: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix and the floats it is stored in; what lies between its rows and around them is NaN.

    Positive numbers: in a result of one element sums might cancel out, and the error be all.
    """
    matrix = rng.uniform(0.5, 2, (rows, width)).astype(np.float32)
    whole = np.full(offset + rows * (width + extra), np.nan, np.float32)
    whole[offset:].reshape(rows, width + extra)[:, :width] = matrix
    return matrix, whole


def check(
    device: Device,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    form: tuple[bool, bool],
    extra: tuple[int, int, int] = NONE,
    offsets: tuple[int, int, int] = NONE,
    accumulate: bool = False,
    alpha: float = 1.0,
    splits: int | None = None,
) -> np.ndarray:
    """One guarded product against the reference; nothing beside C may be written."""
    m, n, k = shape
    ta, tb = form
    a, a_whole = stored(rng, *((k, m) if ta else (m, k)), extra[0], offsets[0])
    b, b_whole = stored(rng, *((n, k) if tb else (k, n)), extra[1], offsets[1])
    c, c_whole = stored(rng, m, n, extra[2], offsets[2])
    guarded = Guarded(device)
    out = guarded.array("c", c_whole if accumulate else np.full_like(c_whole, np.nan))
    gemm(
        Chain(device), a=guarded.array("a", a_whole), b=guarded.array("b", b_whole), c=out, m=m, n=n, k=k, ta=ta, tb=tb,
        alpha=alpha, accumulate=accumulate, lda=a.shape[1] + extra[0], a_offset=offsets[0],
        ldb=b.shape[1] + extra[1], b_offset=offsets[1], ldc=n + extra[2], c_offset=offsets[2], splits=splits,
    ).run()  # fmt: skip
    guarded.check()
    got = out.numpy()[offsets[2] :].reshape(m, n + extra[2])
    want = reference(a, b, c if accumulate else None, ta=ta, tb=tb, alpha=alpha)
    assert nmse(got[:, :n], want) < LIMIT, (shape, form, extra, offsets)
    assert np.isnan(got[:, n:]).all() and np.isnan(out.numpy()[: offsets[2]]).all()
    return got[:, :n]


@pytest.fixture(params=["cpu", "gpu"])
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both families' kernels, whatever the device is."""
    monkeypatch.setenv("FLUX_VK_FAMILY", request.param)
    return str(request.param)


@pytest.mark.parametrize(("case", "shape"), list(enumerate(SHAPES)))
def test_forms(device: Device, rng: np.random.Generator, family: str, case: int, shape: tuple) -> None:
    """Forms, ways to store and shapes, shared out: each is a pipeline to compile."""
    sizes, extra, offsets = shape[:3], shape[3], shape[4]
    for number, form in enumerate(FORMS):
        if case < 2 or number % 2 == case % 2:
            check(device, rng, sizes, form, extra, offsets, accumulate=(number + case) % 2 == 0, alpha=0.75)


@pytest.mark.parametrize("form", FORMS)
def test_wide_tiles(device: Device, rng: np.random.Generator, family: str, form: tuple[bool, bool]) -> None:
    """Sizes with full tiles of the largest kind in every form, and a last one that is not full."""
    check(device, rng, (96, 100, 36), form)


def test_families_differ(device: Device, family: str) -> None:
    """What the tests above run is what they say: tiles on GPUs, lanes where the device has what they need."""
    chain = Chain(device)
    b = device.zeros((8, 8), "f32")
    gemm(chain, a=b, b=b, c=device.empty((8, 8)), m=8, n=8, k=8)
    lanes = family == "cpu" and device.features >= {"texel_buffers", "subgroup_shuffle"}
    assert [s.name.split("--")[0] for s in chain.steps] == ["gemm" if lanes else "gemm_tile"]


@pytest.mark.parametrize("form", [(True, False), (False, True)])
def test_parts(device: Device, rng: np.random.Generator, family: str, form: tuple[bool, bool]) -> None:
    """A cut of k: the parts are summed in their order, the last one is short, and one may have nothing in it."""
    for parts in (3, 9):
        check(device, rng, (12, 20, 30), form, (4, 4, 1), (4, 4, 3), True, 0.5, splits=parts)


def test_long_sums_are_cut(device: Device, rng: np.random.Generator, family: str) -> None:
    """A GPU cuts the long sums of a small result; the same product twice has the same bits."""
    seed = rng.integers(1 << 32)
    a, b = (check(device, np.random.default_rng(seed), (8, 40, 1030), (True, False)) for _ in range(2))
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("gone", ["m", "n", "k"])
def test_sizes_of_nothing(device: Device, gone: str) -> None:
    """No rows or columns: nothing to do. No terms: zeros, or what C held."""
    sizes = {"m": 3, "n": 5, "k": 4, gone: 0}
    m, n, k = sizes["m"], sizes["n"], sizes["k"]
    a, b = device.zeros((m, k), "f32"), device.zeros((k, n), "f32")
    c = device.array(np.ones((3, 5), np.float32))
    gemm(Chain(device), a=a, b=b, c=c, **sizes, ldc=5, accumulate=True).run()
    assert (c.numpy() == 1).all()
    gemm(Chain(device), a=a, b=b, c=c, **sizes, ldc=5).run()
    assert (c.numpy() == (0 if gone == "k" else 1)).all()


def test_many_tiles(device: Device, rng: np.random.Generator) -> None:
    """More workgroups than one axis of a grid holds."""
    check(device, rng, (1, 2_100_004, 4), (False, True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": 9}, "a has 32 elements, expected 36: 9 rows of 4, 4 apart"),
        ({"b_offset": 4}, "b has 32 elements, expected 36: 4 rows of 8"),
        ({"ldc": 7}, "c has rows of 8 elements, 7 apart"),
        ({"k": -1}, "m, n, k are 8, 8, -1"),
        ({"splits": 0}, "splits is 0, expected 1 to 65535"),
    ],
)
def test_arguments(device: Device, change: dict[str, int], message: str) -> None:
    """What does not fit is named, with what was wanted."""
    a, b, c = (device.zeros(s, "f32") for s in ((8, 4), (4, 8), (8, 8)))
    values = {"m": 8, "n": 8, "k": 4, **change}
    with pytest.raises(ArgumentError) as error:
        gemm(Chain(device), a=a, b=b, c=c, **values)
    assert message in str(error.value)


def test_operands_of_another_kind(device: Device) -> None:
    """A result over its own operand, and a type that is not float32."""
    a = device.zeros((8, 8), "f32")
    with pytest.raises(ArgumentError, match="c .* overlaps b"):
        gemm(Chain(device), a=device.zeros((8, 8), "f32"), b=a, c=a, m=8, n=8, k=8)
    with pytest.raises(ArgumentError, match="a is u32, expected f32"):
        gemm(Chain(device), a=a.cast("u32"), b=a, c=device.zeros((8, 8), "f32"), m=8, n=8, k=8)
