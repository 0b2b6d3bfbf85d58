"""Passes over chains: what they change, what they must leave alone, and that results stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flux_vk.gpu import Buffer, Chain, Device
from flux_vk.gpu.fusion import PASSES, fuse
from flux_vk.gpu.matmul import matmul
from flux_vk.gpu.operations import operations_of
from flux_vk.settings import FUSIONS
from tests.gpu.harness import nmse
from tests.gpu.weights import random_raw

pytestmark = pytest.mark.kernel
DIM, WIDE, ROWS = 64, 96, 5
Build = Callable[["Parts", Chain], Buffer]


class Parts:
    """The weights and inputs of a small block."""

    def __init__(self, device: Device, rng: np.random.Generator) -> None:
        self.device = device
        self.x = device.array(rng.standard_normal((ROWS, DIM)).astype(np.float32))
        self.norm = device.array(rng.standard_normal(DIM).astype(np.float32))
        self.gate_up = device.weight(random_raw(rng, "q8_0", (2 * WIDE, DIM)), "q8_0", (2 * WIDE, DIM))
        self.down = device.weight(random_raw(rng, "q4_0", (DIM, WIDE)), "q4_0", (DIM, WIDE))
        self.out = device.empty((ROWS, DIM))


def block(p: Parts, chain: Chain) -> Buffer:
    """x + down(silu(gate n) * up n), n = norm(x)."""
    n, g, h = (chain.scratch(s) for s in ((ROWS, DIM), (ROWS, 2 * WIDE), (ROWS, WIDE)))
    chain.rms_norm(x=p.x, w=p.norm, y=n, eps=1e-5)
    matmul(chain, w=p.gate_up, x=n, y=g)
    chain.swiglu(x=g, y=h)
    matmul(chain, w=p.down, x=h, y=p.out, residual=p.x)
    return p.out


def kernels_of(chain: Chain) -> list[str]:
    return [o.call.kernel for o in operations_of(chain)]


def run(device: Device, build: Build, parts: Parts, passes: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    chain = Chain(device)
    out = build(parts, chain)
    fuse(chain, passes=passes)
    chain.run()
    return kernels_of(chain), out.numpy()


def test_every_pass_has_its_switch() -> None:
    assert set(PASSES) < set(FUSIONS)


def test_a_block(device: Device, rng: np.random.Generator) -> None:
    """Activations fold bit for bit, norms but for rounding; each pass works alone."""
    parts = Parts(device, rng)
    names, plain = run(device, block, parts, ())
    assert names == ["rms_norm", "matmul", "swiglu", "matmul"]
    names, got = run(device, block, parts, ("act",))
    assert names == ["rms_norm", "matmul", "matmul"]
    np.testing.assert_array_equal(got.view(np.uint32), plain.view(np.uint32))
    names, got = run(device, block, parts, ("norm",))
    assert names == ["matmul", "swiglu", "matmul"]
    assert nmse(got, plain) < 1e-12
    names, got = run(device, block, parts, ("norm", "act"))
    assert names == ["matmul", "matmul"]
    assert nmse(got, plain) < 1e-12


def test_the_settings_decide(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(device, rng)
    for text, n in (("all", 2), ("none", 4), ("act", 3), ("norm, act", 2)):
        monkeypatch.setenv("FLUX_VK_FUSION", text)
        chain = Chain(device)
        block(parts, chain)
        fuse(chain)
        assert len(kernels_of(chain)) == n


def kept_norm(p: Parts, chain: Chain) -> Buffer:
    n = p.device.empty((ROWS, DIM))  # not scratch: somebody may want it
    chain.rms_norm(x=p.x, w=p.norm, y=n, eps=1e-5)
    matmul(chain, w=p.gate_up, x=n, y=p.device.empty((ROWS, 2 * WIDE)))
    return n


def norm_read_twice(p: Parts, chain: Chain) -> Buffer:
    n = chain.scratch((ROWS, DIM))
    chain.rms_norm(x=p.x, w=p.norm, y=n, eps=1e-5)
    matmul(chain, w=p.gate_up, x=n, y=chain.scratch((ROWS, 2 * WIDE)))
    chain.add(a=n, b=p.x, y=p.out)
    return p.out


def input_overwritten(p: Parts, chain: Chain) -> Buffer:
    n, x = chain.scratch((ROWS, DIM)), chain.scratch((ROWS, DIM))
    chain.copy(src=p.x, dst=x)
    chain.rms_norm(x=x, w=p.norm, y=n, eps=1e-5)
    chain.fill(dst=x)
    matmul(chain, w=p.gate_up, x=n, y=chain.scratch((ROWS, 2 * WIDE)))
    return p.x


def gates_read_twice(p: Parts, chain: Chain) -> Buffer:
    g = chain.scratch((ROWS, 2 * WIDE))
    matmul(chain, w=p.gate_up, x=p.x, y=g)
    chain.swiglu(x=g, y=chain.scratch((ROWS, WIDE)))
    chain.geglu(x=g, y=chain.scratch((ROWS, WIDE)))
    return p.x


def gates_of_two_products(p: Parts, chain: Chain) -> Buffer:
    g = chain.scratch((ROWS, 2 * WIDE))
    matmul(chain, w=p.gate_up.rows(0, WIDE), x=p.x, y=g, y_stride=2 * WIDE)
    matmul(chain, w=p.gate_up.rows(WIDE, 2 * WIDE), x=p.x, y=g, y_stride=2 * WIDE, y_offset=WIDE)
    chain.swiglu(x=g, y=chain.scratch((ROWS, WIDE)))
    return p.x


@pytest.mark.parametrize(
    "build", [kept_norm, norm_read_twice, input_overwritten, gates_read_twice, gates_of_two_products]
)
def test_left_alone(device: Device, rng: np.random.Generator, build: Any) -> None:
    """Results that something else reads, or that could not be computed later, stay where they are."""
    chain = Chain(device)
    build(Parts(device, rng), chain)
    before = kernels_of(chain)
    fuse(chain, passes=tuple(PASSES))
    assert kernels_of(chain) == before


def test_a_norm_for_several_products(device: Device, rng: np.random.Generator) -> None:
    """Weights of different types read one norm: each norms for itself."""

    def two(p: Parts, chain: Chain) -> Buffer:
        n = chain.scratch((ROWS, DIM))
        chain.rms_norm(x=p.x, w=p.norm, y=n, eps=1e-5)
        matmul(chain, w=p.gate_up.rows(0, DIM), x=n, y=p.out)
        matmul(chain, w=p.gate_up.rows(DIM, 2 * DIM), x=n, y=p.out, residual=p.out)
        return p.out

    parts = Parts(device, rng)
    names, plain = run(device, two, parts, ())
    fused, got = run(device, two, parts, ("norm",))
    assert (names, fused) == (["rms_norm", "matmul", "matmul"], ["matmul", "matmul"])
    assert nmse(got, plain) < 1e-12
