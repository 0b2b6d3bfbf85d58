"""The product of q, k and v with what follows it in one dispatch: the bits of the kernels alone, and when they stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from flux_vk.gpu import Buffer, Chain, Device, kernels
from flux_vk.gpu.fusion import fuse
from flux_vk.gpu.matmul import matmul, variant_for
from flux_vk.gpu.operations import operations_of
from tests.gpu.weights import random_raw

pytestmark = pytest.mark.kernel
PAGE, PAGES, SLOTS = 32, 6, 8


@dataclass
class Case:
    """One layer's heads and what surrounds them. cuts: where q, k, v are split into products, in heads."""

    heads: int = 4
    kv_heads: int = 2
    width: int = 64
    dtype: str = "q8_0"
    cuts: tuple[int, ...] = ()
    rows: int = 1
    normed: bool = False
    bias: bool = True
    neox: int = 1
    window: int = 0
    softcap: float = 0.0
    kv_type: str = "f16"
    positions: list[int] = field(default_factory=list)

    @property
    def all_heads(self) -> int:
        return self.heads + 2 * self.kv_heads


class Layer:
    """Random weights, a filled cache, rows at random positions."""

    def __init__(self, device: Device, rng: np.random.Generator, case: Case) -> None:
        c, dim = case, 96
        self.device, self.case, self.dim = device, case, dim
        n = c.all_heads * c.width
        self.w = device.weight(random_raw(rng, c.dtype, (n, dim)), c.dtype, (n, dim))

        def floats(*shape: int) -> Buffer:
            return device.array(rng.standard_normal(shape).astype(np.float32))

        self.x, self.norm, self.bias = floats(c.rows, dim), floats(dim), floats(n)
        self.qnorm, self.knorm = (floats(c.width) if c.normed else None for _ in range(2))
        self.turns = device.array(rng.integers(0, 1 << 32, c.width // 2, dtype=np.uint32))
        at = c.positions or rng.integers(0, PAGE * PAGES, c.rows).tolist()
        self.pos = device.array(np.array(at, np.uint32))
        slots = np.arange(c.rows) if c.rows < 8 else np.array([0, 1, 2, SLOTS, 4, 5, 6, 7])  # one row is padding
        self.slot = device.array(slots.astype(np.uint32))
        self.pages = device.array(rng.permutation(SLOTS * PAGES).reshape(SLOTS, PAGES).astype(np.uint32))
        self.slot_info = device.zeros((SLOTS, 4), "u32")
        shape = (SLOTS * PAGES, c.kv_heads, PAGE, c.width)
        dtype = np.float16 if c.kv_type == "f16" else np.float32
        self.caches = [rng.standard_normal(shape).astype(dtype) for _ in range(2)]
        self.counters = device.zeros((64,), "u32")

    def run(self, fused: bool, times: int = 1) -> tuple[list[str], list[np.ndarray]]:
        """Kernels of the chain, and the results: attention, keys, values, counters."""
        c, device = self.case, self.device
        n = c.all_heads * c.width
        kcache, vcache = (device.array(a) for a in self.caches)
        out = device.empty((c.rows, c.heads * c.width))
        chain = Chain(device)
        qkv = chain.scratch((c.rows, n))
        edges = [0, *c.cuts, c.all_heads]
        for first, last in zip(edges, edges[1:], strict=False):
            a, b = first * c.width, last * c.width
            bias = self.bias.rows(a, b) if c.bias else None
            matmul(
                chain, w=self.w.rows(a, b), x=self.x, y=qkv, bias=bias, norm=self.norm, eps=1e-5, y_stride=n, y_offset=a
            )
        place = {
            "pos": self.pos, "slot": self.slot, "pages": self.pages, "slot_info": self.slot_info, "kcache": kcache,
            "vcache": vcache, "heads": c.heads, "kv_heads": c.kv_heads, "PS": PAGE,
        }  # fmt: skip
        norms = {"qnorm": self.qnorm, "knorm": self.knorm}
        chain.rope_store(
            qkv=qkv, turns=self.turns, head_dim=c.width, n_rot=c.width, mscale=0.9, eps=1e-6, NEOX=c.neox, WG=16,
            **place, **norms,
        )  # fmt: skip
        lane = {"WG": 8, "variant": f"{c.kv_type}.lane"} if device.family == "cpu" else {"WG": 32}
        chain.attention(
            q=qkv, y=out, scale=0.3, softcap=c.softcap, window=c.window, context=1, HEAD_DIM=c.width,
            GROUP=c.heads // c.kv_heads, CHUNK=2, counters=self.counters, **lane, **place,
        )  # fmt: skip
        fuse(chain, passes=("attention",) if fused else ())
        step = chain.record()
        for _ in range(times):
            step.submit()
            step.wait()
        names = [o.call.kernel for o in operations_of(chain)]
        return names, [b.numpy() for b in (out, kcache, vcache, self.counters)]


def skip_unless_able(device: Device) -> None:
    lane = variant_for(device, "q8_0").endswith(".lane") and device.limits["subgroup_size"] >= 8
    needed = set(kernels.contract("matmul_attention").variants[0].requires) - set(device.features)
    if needed or not lane:
        pytest.skip("the kernel is for CPU drivers with subgroups of eight and texel buffers")


CASES = {
    "one row": Case(),
    "three types of weights": Case(cuts=(4, 6)),
    "v alone": Case(cuts=(6,), dtype="q5_0"),
    "many heads to a kv head": Case(heads=14, kv_heads=2, dtype="q4_0"),
    "one kv head": Case(heads=3, kv_heads=1, width=32, neox=0, bias=False),
    "as many kv heads": Case(heads=4, kv_heads=4, width=96, dtype="q5_1"),
    "norms of q and k": Case(normed=True, width=128, rows=3),
    "window and soft-cap": Case(window=40, softcap=20.0, rows=2, positions=[150, 39]),
    "rows": Case(rows=5, heads=8, kv_heads=2, dtype="iq4_nl"),
    "eight rows, one of them padding": Case(rows=8, width=32),
    "first and last position": Case(rows=2, positions=[0, PAGE * PAGES - 1]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_bits_of_three_kernels(device: Device, rng: np.random.Generator, name: str) -> None:
    skip_unless_able(device)
    layer = Layer(device, rng, CASES[name])
    names, want = layer.run(fused=False)
    assert names[-2:] == ["rope_store", "attention"]
    names, got = layer.run(fused=True, times=3)
    assert names[-1] == "matmul_attention" and "rope_store" not in names and "attention" not in names
    rows = layer.slot.numpy() < SLOTS
    np.testing.assert_array_equal(got[0][rows].view(np.uint32), want[0][rows].view(np.uint32))
    for a, b in zip(got[1:3], want[1:3], strict=True):
        np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16))
    assert not got[3].any(), "counters are 0 again after every run"


WHOLE = [name for name, case in CASES.items() if not case.cuts]


@pytest.mark.parametrize("name", [*WHOLE, "floats", "another head size"])
def test_the_bits_of_two_kernels_on_a_gpu(
    device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Product and rope_store become one there, attention stays."""
    monkeypatch.setenv("FLUX_VK_FAMILY", "gpu")
    more = {
        "floats": Case(dtype="f16", rows=4),
        "another head size": Case(dtype="q8_0", rows=2, heads=8, kv_heads=4, width=48),
    }
    layer = Layer(device, rng, {**CASES, **more}[name])
    names, want = layer.run(fused=False)
    assert names == ["matmul", "rope_store", "attention"]
    names, got = layer.run(fused=True, times=3)
    assert names == ["matmul_rope", "attention"]
    rows = layer.slot.numpy() < SLOTS
    np.testing.assert_array_equal(got[0][rows].view(np.uint32), want[0][rows].view(np.uint32))
    for a, b in zip(got[1:3], want[1:3], strict=True):
        np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16))
    assert not got[3].any(), "counters are 0 again after every run"


def test_products_of_parts_stay_on_a_gpu(
    device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_VK_FAMILY", "gpu")
    names, _ = Layer(device, rng, CASES["v alone"]).run(fused=True)
    assert names == ["matmul", "matmul", "rope_store", "attention"]


@pytest.mark.parametrize(
    "case",
    [
        Case(kv_type="f32"),  # no such variant
        Case(rows=9),  # a prompt's rows
        Case(dtype="f32"),  # weights without blocks
        Case(heads=4, kv_heads=2, cuts=(5,)),  # the last product has a key of one KV head only
    ],
)
def test_left_as_three(device: Device, rng: np.random.Generator, case: Case) -> None:
    skip_unless_able(device)
    if case.rows == 9:
        case.positions = list(range(9))
    layer = Layer(device, rng, case)
    if case.rows == 9:
        layer.slot = device.array(np.zeros(9, np.uint32))
    chain_names: Any = layer.run(fused=True)[0]
    assert chain_names[-2:] == ["rope_store", "attention"]
