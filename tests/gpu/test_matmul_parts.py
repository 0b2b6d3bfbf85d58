"""What a matrix product may do besides: norm its activations, end with a gated activation, find the logits' maxima."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.matmul import FLOATS, Tuned, matmul
from flux_vk.gpu.reference.quant import matmul as reference
from flux_vk.gpu.reference.sampling import key_of
from flux_vk.gpu.reference.sampling_kernels import block_of
from tests.gpu.harness import Guarded, nmse
from tests.gpu.test_matmul import EPS, LIMIT, VARIANTS, run, skip_unless_able
from tests.gpu.weights import random_raw, values

pytestmark = pytest.mark.kernel
SOME = [v for v in VARIANTS if v.split(".")[0] in ("f32", "f16", "q4_0", "q5_1", "q8_0", "q4_k", "q6_k", "iq4_xs")]


def width(dtype: str) -> int:
    return 333 if dtype in FLOATS else 768


# Each variant with one of the two activations: every pair is a pipeline to compile, and the activation knows nothing of
# the weights' type.
@pytest.mark.parametrize(
    ("variant", "act"), [(v, a) for i, v in enumerate(SOME) for a in (None, ("silu", "gelu")[i // 2 % 2])]
)
def test_norm_and_activation(device: Device, rng: np.random.Generator, variant: str, act: str | None) -> None:
    """26 rows are 13 gate and 13 up rows: nothing that a workgroup divides; 9 tokens take two tiles."""
    skip_unless_able(device, variant)
    dtype = variant.split(".")[0]
    shape, r = (26, width(dtype)), 9
    raw = random_raw(rng, dtype, shape)
    x = rng.standard_normal((r, shape[1])).astype(np.float32) * np.float32(30)
    norm = rng.standard_normal(shape[1]).astype(np.float32)
    bias = rng.standard_normal(26).astype(np.float32)
    w = values(raw, dtype, shape)
    x /= np.float32(30 * np.abs(w).max())
    got = run(device, variant, raw, shape, x, bias, norm=norm, act=act)
    assert nmse(got, reference(w, x, bias, norm=norm, eps=EPS, act=act)) < LIMIT
    alone = run(device, variant, raw, shape, x[4:5], bias, norm=norm, act=act)
    np.testing.assert_array_equal(alone[0].view(np.uint32), got[4].view(np.uint32))


@pytest.mark.parametrize("variant", ["q4_k.lane", "q4_k.sub"])
@pytest.mark.parametrize(("rows", "tokens"), [(8, 1), (8, 2), (8, 8)])
def test_shapes_agree(device: Device, rng: np.random.Generator, variant: str, rows: int, tokens: int) -> None:
    """Every shape of a workgroup gives the same bits, with all parts on."""
    skip_unless_able(device, variant)
    shape = (96, 512)
    w = device.weight(random_raw(rng, "q4_k", shape), "q4_k", shape)
    x, norm = (device.array(rng.standard_normal(s).astype(np.float32)) for s in ((11, 512), (512,)))
    found = []
    for tuned in (None, Tuned(rows, tokens)):
        y = device.empty((11, 48))
        matmul(Chain(device), w=w, x=x, y=y, norm=norm, eps=EPS, act="silu", variant=variant, tuned=tuned).run()
        found.append(y.numpy().view(np.uint32))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("variant", ["q8_0.lane", "q8_0.sub", "f32.lane", "f32.sub"])
@pytest.mark.parametrize("vocab", [1, 63, 4097, 9001])
def test_block_maxima(
    device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, variant: str, vocab: int
) -> None:
    """The keys that sample_stats would find, from the kernel's own results; in windows of the matrix as well."""
    skip_unless_able(device, variant)
    dtype = variant.split(".")[0]
    raw = random_raw(rng, dtype, (vocab, 32))
    x, norm = rng.standard_normal((3, 32)).astype(np.float32), rng.standard_normal(32).astype(np.float32)
    blocks = -(-vocab // 4096) * 64
    for most in (None, 128 * 1024):
        if most:
            monkeypatch.setattr(type(device), "max_range", property(lambda self: 128 * 1024))
        guarded = Guarded(device)
        y, maxima = guarded.empty("y", (3, vocab)), guarded.array("maxima", np.zeros((3, blocks), np.uint32))
        matmul(
            Chain(device), w=guarded.weight("w", raw, dtype, (vocab, 32)), x=guarded.array("x", x), y=y,
            norm=guarded.array("norm", norm), eps=EPS, maxima=maxima, variant=variant,
        ).run()  # fmt: skip
        guarded.check()
        want = np.zeros((3, blocks), np.uint32)
        for row in range(3):
            np.maximum.at(want[row], block_of(vocab), key_of(y.numpy()[row]))
        np.testing.assert_array_equal(maxima.numpy(), want)


def test_arguments_of_the_parts(device: Device) -> None:
    w, x = device.empty((9, 32)), device.empty((2, 32))
    with pytest.raises(ArgumentError, match="with act='silu'"):
        matmul(Chain(device), w=w, x=x, y=device.empty((2, 4)), act="silu")
    with pytest.raises(ArgumentError, match="act is 'relu'"):
        matmul(Chain(device), w=device.empty((8, 32)), x=x, y=device.empty((2, 4)), act="relu")
    with pytest.raises(ArgumentError, match="maxima are of the product alone"):
        y = device.empty((2, 9))
        matmul(Chain(device), w=w, x=x, y=y, residual=y, maxima=device.zeros((2, 64), "u32"))
    with pytest.raises(ArgumentError, match="norm has 31"):
        matmul(Chain(device), w=w, x=x, y=device.empty((2, 9)), norm=device.empty((31,)))
