"""Chains without Vulkan: argument errors, symbols, windows, scratch, barriers and how a chain shows itself."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Arena, Buffer, Chain, NullDevice
from flux_vk.gpu.steps import Dispatch


@pytest.fixture
def null() -> NullDevice:
    return NullDevice()


def norm_args(device: NullDevice, rows: int = 4, d: int = 64) -> dict[str, Any]:
    return {"x": device.empty((rows, d)), "w": device.empty((d,)), "y": device.empty((rows, d)), "eps": 1e-6}


def only(chain: Chain) -> Dispatch:
    (step,) = chain.steps
    assert isinstance(step, Dispatch)
    return step


# -- arguments --------------------------------------------------------------------------------------------------------


def test_a_call_becomes_a_dispatch(null: NullDevice) -> None:
    step = only(Chain(null).rms_norm(**norm_args(null, 5, 64), WG=64))
    assert step.grid == (5, 1, 1)
    assert step.push == struct.pack("<IIf", 5, 64, 1e-6)
    assert step.spec == (64,)
    assert list(step.buffers) == ["x", "w", "y"]
    assert step.bytes == 4 * (2 * 5 * 64 + 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w": None}, "rms_norm: w is NoneType, expected a Buffer (see device.array)"),
        ({"w": [1.0]}, "rms_norm: w is list, expected a Buffer"),
        ({"z": 1}, "rms_norm: no argument 'z'; it has buffers w, x, y and scalars D, R, WG, eps"),
        ({"eps": "small"}, "rms_norm: eps is str, expected a number"),
        ({"WG": 64.5}, "rms_norm: WG is 64.5, expected a whole number"),
        ({"eps": 1e60}, "rms_norm: eps is 1e+60, which does not fit float"),
        ({"D": 63}, "rms_norm: x has 64 elements along axis 1, expected D = 63"),
        ({"variant": "fast"}, "kernel rms_norm has no variant 'fast'; it has default"),
    ],
)
def test_wrong_arguments(null: NullDevice, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(message)):
        Chain(null).rms_norm(**{**norm_args(null), **changes})


def test_shapes_and_types_that_do_not_fit(null: NullDevice) -> None:
    good = norm_args(null)
    for changes, message in (
        ({"w": null.empty((65,))}, "rms_norm: w has 65 elements along axis 0, expected D = 64 (with R=4, D=64)"),
        ({"y": null.empty((3, 64))}, "rms_norm: y has 3 elements along axis 0, expected R = 4"),
        ({"x": null.empty((256,))}, "rms_norm: x has shape [256], expected [R, D] (2 dimensions)"),
        ({"x": null.empty((4, 64), "f16")}, "rms_norm: x is f16, expected f32"),
    ):
        with pytest.raises(ArgumentError, match=re.escape(message)):
            Chain(null).rms_norm(**{**good, **changes})
    for name, message in (("x", "buffer 'x' is missing"), ("eps", "eps (float) is missing")):
        left = {k: v for k, v in good.items() if k != name}
        with pytest.raises(ArgumentError, match=re.escape(f"rms_norm: {message}")):
            Chain(null).rms_norm(**left)


def test_unknown_kernels_are_attribute_errors(null: NullDevice) -> None:
    with pytest.raises(AttributeError, match="there is no kernel 'rms_nrom'; did you mean .*rms_norm"):
        Chain(null).rms_nrom(x=1)
    assert not hasattr(Chain(null), "_private")


def test_numpy_scalars_are_numbers(null: NullDevice) -> None:
    import numpy as np

    a = only(Chain(null).rms_norm(**{**norm_args(null), "eps": np.float32(0.5)}, WG=np.int64(128)))
    assert a.spec == (128,)
    assert a.push[-4:] == struct.pack("<f", 0.5)


def test_negative_numbers_do_not_fit_unsigned_fields(null: NullDevice) -> None:
    with pytest.raises(ArgumentError, match="embed: n0 is -1, which does not fit uint"):
        embed(null, Chain(null), 8, 32, n0=-1)


def test_grids_beyond_the_device(null: NullDevice) -> None:
    small = NullDevice(max_grid=[2, 1, 1])
    with pytest.raises(ArgumentError, match="rms_norm: 4 workgroups along axis 0, the device allows 2"):
        Chain(small).rms_norm(**norm_args(small))


def test_nothing_to_do_is_no_step(null: NullDevice) -> None:
    chain = Chain(null).rms_norm(**norm_args(null, rows=0))
    chain.copy(src=null.empty((0,)), dst=null.empty((0,)))
    chain.fill(dst=null.empty((0, 8)))
    assert len(chain) == 0
    chain.run()


def test_optional_buffers(null: NullDevice) -> None:
    x, w, y = null.empty((4, 64)), null.empty((64,)), null.empty((4, 64))
    without = only(Chain(null).layer_norm(x=x, w=w, y=y, eps=1e-5))
    none = only(Chain(null).layer_norm(x=x, w=w, b=None, y=y, eps=1e-5))
    given_ = only(Chain(null).layer_norm(x=x, w=w, b=w, y=y, eps=1e-5))
    assert without.left_out == none.left_out == {"b"} and not given_.left_out
    assert without.buffers["b"] is null.dummy and given_.buffers["b"] is w
    has = [p.name for p in without.contract.push].index("has_b")
    assert struct.unpack_from("<I", without.push, 4 * has) == (0,)
    assert struct.unpack_from("<I", given_.push, 4 * has) == (1,)
    with pytest.raises(ArgumentError, match="layer_norm: b is f16, expected f32"):
        Chain(null).layer_norm(x=x, w=w, b=null.empty((64,), "f16"), y=y, eps=1e-5)


def test_buffers_too_small_for_what_is_written(null: NullDevice) -> None:
    """Where strides say how far a kernel reaches, not the shape."""
    w = replace(null.empty((8, 32)), row_bytes=128)
    args = {"w": w, "x": null.empty((3, 32)), "y_stride": 10}
    Chain(null).matmul_wide(y=null.empty((28,)), **args)
    with pytest.raises(ArgumentError, match=r"matmul_wide: y has 27 elements, expected .*y_stride.* = 28"):
        Chain(null).matmul_wide(y=null.empty((27,)), **args)
    with pytest.raises(ArgumentError, match=r"matmul_wide: residual has 30 elements, expected .* = 31"):
        Chain(null).matmul_wide(y=null.empty((40,)), residual=null.empty((30,)), y_offset=3, **args)
    with pytest.raises(ArgumentError, match=r"matmul_wide: x has 48 elements, expected \(R - 1\) \* W \+ K = 64"):
        Chain(null).matmul_wide(y=null.empty((28,)), **{**args, "x": null.empty((3, 16))})


def test_offsets_that_the_device_cannot_bind() -> None:
    device = NullDevice(storage_alignment=64)
    x = device.empty((8, 8))
    args = {"w": device.empty((8,)), "eps": 1e-6}
    Chain(device).rms_norm(x=x.rows(2, 4), y=device.empty((2, 8)), **args)  # 2 rows of 32 bytes: 64
    with pytest.raises(ArgumentError, match="rms_norm: x begins at byte 32 .* binds at multiples of 64"):
        Chain(device).rms_norm(x=x.rows(1, 3), y=device.empty((2, 8)), **args)


def test_buffers_of_others(null: NullDevice) -> None:
    other = NullDevice()
    with pytest.raises(ArgumentError, match="rms_norm: .* belongs to another device than chain 'mine'"):
        Chain(null, name="mine").rms_norm(**{**norm_args(null), "y": other.empty((4, 64))})
    theirs = Chain(null).scratch((4, 64))
    with pytest.raises(ArgumentError, match="rms_norm: .* is scratch memory of another chain than 'mine'"):
        Chain(null, name="mine").rms_norm(**{**norm_args(null), "y": theirs})


def test_transfers_that_cannot_be(null: NullDevice) -> None:
    chain, x = Chain(null), null.empty((64,))
    with pytest.raises(ArgumentError, match="copy: src has 256 bytes, dst 128"):
        chain.copy(src=x, dst=x.rows(0, 32))
    with pytest.raises(ArgumentError, match="copy: .* overlap"):
        chain.copy(src=x.rows(0, 32), dst=x.rows(16, 48))
    with pytest.raises(ArgumentError, match="fill: .* whole 32-bit words"):
        chain.fill(dst=null.empty((3,), "u8"))
    with pytest.raises(ArgumentError, match="fill: value is -1, expected a 32-bit word"):
        chain.fill(dst=x, value=-1)
    chain.copy(src=x.rows(0, 32), dst=x.rows(32, 64))
    assert len(chain) == 1


def test_indirect_grids(null: NullDevice) -> None:
    grid = null.array(__import__("numpy").ones(3, "u4"))
    step = only(Chain(null).rms_norm(**norm_args(null), indirect=grid))
    assert ("grid", True, False) in [(a.name, a.reads, a.writes) for a in step.accesses()]
    for bad in (null.empty((2,), "u32"), null.empty((3,), "f32")):
        with pytest.raises(ArgumentError, match="rms_norm: indirect is .*, expected a u32 buffer of 3 elements"):
            Chain(null).rms_norm(**norm_args(null), indirect=bad)


# -- windows ----------------------------------------------------------------------------------------------------------


def embed(device: NullDevice, chain: Chain, vocab: int, d: int, row_bytes: int = 0, **more: Any) -> Chain:
    w = device.empty((vocab, row_bytes // 4 if row_bytes else d))
    w = replace(w, shape=(vocab, d), row_bytes=row_bytes)
    return chain.embed(ids=device.empty((3,), "u32"), w=w, y=device.empty((3, d)), **more)


@given(st.integers(1, 400), st.integers(1, 40), st.integers(0, 3), st.sampled_from([16, 32, 64, 256]))
def test_a_large_weight_is_bound_in_windows(vocab: int, d: int, pad: int, alignment: int) -> None:
    most = 4096
    device = NullDevice(max_storage_buffer_range=most, storage_alignment=alignment)
    row = 4 * (d + pad)
    unit = alignment // math.gcd(row, alignment)
    chain = Chain(device)
    if row * vocab > most and unit * row > most:
        with pytest.raises(ArgumentError, match=rf"{unit} rows of w .* at most {most} on this device"):
            embed(device, chain, vocab, d, row)
        return
    embed(device, chain, vocab, d, row)
    at = 0
    for step in chain.steps:
        assert isinstance(step, Dispatch)
        w = step.buffers["w"]
        fields = dict(zip([p.name for p in step.contract.push], struct.unpack("<IIIfI", step.push), strict=True))
        assert w.nbytes <= most and w.offset % alignment == 0
        assert w.offset == at * row and fields["n0"] == at and fields["V"] == w.shape[0] == w.nbytes // row
        at += w.shape[0]
    assert at == vocab, "every row is in exactly one window"
    least = -(-vocab // (most // row))
    assert len(chain) >= least
    if unit == 1 and (len(chain) == 1 or most // row < 64):
        assert len(chain) == least
    assert all(s.buffers["w"].shape[0] % 64 == 0 for s in chain.steps[:-1] if most // row // unit * unit >= 64)


def test_a_first_row_given_by_the_caller_is_kept() -> None:
    device = NullDevice(max_storage_buffer_range=1024)
    chain = embed(device, Chain(device), 32, 32, n0=100)
    assert [struct.unpack("<IIIfI", s.push)[4] for s in chain.steps if isinstance(s, Dispatch)] == [100, 108, 116, 124]


def test_windows_of_one_output_are_ordered() -> None:
    device = NullDevice(max_storage_buffer_range=1024)
    chain = embed(device, Chain(device), 32, 32)
    assert len(chain) == 4
    assert sorted(chain.plan().barriers) == [1, 2, 3]  # all of them write y


def test_an_indirect_grid_cannot_be_windowed() -> None:
    device = NullDevice(max_storage_buffer_range=1024)
    with pytest.raises(ArgumentError, match="embed: an indirect grid cannot serve 4 windows of w"):
        embed(device, Chain(device), 32, 32, indirect=device.empty((3,), "u32"))


def test_what_has_no_window_is_refused_when_too_large() -> None:
    device = NullDevice(max_storage_buffer_range=1024)
    with pytest.raises(ArgumentError, match="rms_norm: x has 2048 bytes; one binding spans at most 1024"):
        Chain(device).rms_norm(**norm_args(device, 8, 64))


# -- scratch, barriers, recordings ------------------------------------------------------------------------------------


def layers(device: NullDevice, chain: Chain, n: int = 6) -> Buffer:
    """x -> norm -> scratch -> norm -> scratch ...: each scratch lives for two steps."""
    w, x = device.empty((64,)), device.empty((4, 64))
    for _ in range(n):
        y = chain.scratch((4, 64))
        chain.rms_norm(x=x, w=w, y=y, eps=1e-6)
        x = y
    out = device.empty((4, 64))
    chain.rms_norm(x=x, w=w, y=out, eps=1e-6)
    return out


def test_scratch_shares_memory_by_lifetime(null: NullDevice) -> None:
    chain = Chain(null)
    layers(null, chain)
    planned = chain.plan()
    assert planned.arena_bytes == 2 * 4 * 64 * 4
    assert sorted(planned.barriers) == [1, 2, 3, 4, 5, 6]
    assert all(b.memory.native is not None for s in planned.steps for b in getattr(s, "buffers", {}).values())


def test_shared_places_are_guarded_by_barriers(null: NullDevice) -> None:
    """Two scratches that never live together get one place: what writes it again waits for who read it."""
    chain = Chain(null)
    x, w, out = null.empty((4, 64)), null.empty((64,)), [null.empty((4, 64)) for _ in range(2)]
    for y in out:
        t = chain.scratch((4, 64))
        chain.rms_norm(x=x, w=w, y=t, eps=1e-6).rms_norm(x=t, w=w, y=y, eps=1e-6)
    planned = chain.plan()
    assert planned.arena_bytes == 1024
    assert {i: b.kind for i, b in planned.barriers.items()} == {1: "RAW", 2: "WAR", 3: "RAW"}


def test_an_arena_is_shared_and_grows(null: NullDevice) -> None:
    arena = Arena(null)
    a, b = Chain(null, arena=arena), Chain(null, arena=arena)
    layers(null, a, 1)
    layers(null, b, 6)
    small = a.plan()
    large = b.plan()
    assert small.arena is not large.arena and arena.nbytes == large.arena_bytes
    assert a.plan().arena is large.arena


def test_scratch_has_no_bytes_of_its_own(null: NullDevice) -> None:
    with pytest.raises(ArgumentError, match="dtype 'q4_k'"):
        Chain(null).scratch((4, 4), "q4_k")
    with pytest.raises(ArgumentError, match="negative"):
        Chain(null).scratch((4, -4))


def test_views_of_scratch_stay_scratch(null: NullDevice) -> None:
    chain = Chain(null)
    t = chain.scratch((8, 64))
    chain.fill(dst=t.rows(0, 4)).fill(dst=t.rows(4, 8), value=1)
    planned = chain.plan()
    assert planned.arena_bytes == 2048 and not planned.barriers


def test_the_dummy_is_tracked(null: NullDevice) -> None:
    """What is left out is bound to the dummy and may be read there: after a write to it, that waits."""
    chain = Chain(null)
    chain.fill(dst=null.dummy).layer_norm(
        x=null.empty((4, 64)), w=null.empty((64,)), y=null.empty((4, 64)), eps=1e-5
    )
    assert chain.plan().barriers[1].name == "b"


def test_what_is_recorded(null: NullDevice) -> None:
    chain = Chain(null)
    a, b = null.empty((64,)), null.empty((64,))
    chain.fill(dst=a, value=7).copy(src=a, dst=b).rms_norm(**norm_args(null))
    recorded = chain.record(copies=2)
    assert len(null.native.recordings) == 2
    for recording in null.native.recordings:
        assert [c[0] for c in recording.calls] == ["barrier", "fill", "barrier", "copy", "dispatch", "end"]
    for _ in range(3):
        recorded.submit()
    recorded.wait()
    assert recorded.submits == 3 and recorded.poll()
    assert [r.submits for r in null.native.recordings] == [2, 1]


# -- showing ----------------------------------------------------------------------------------------------------------


def test_explain(null: NullDevice) -> None:
    chain = Chain(null, name="demo")
    out = layers(null, chain, 1)
    chain.scope("end")
    chain.copy(src=out, dst=null.empty((4, 64)))
    lines = chain.explain().splitlines()
    assert re.match(r"   0  rms_norm grid 4x1x1 \(x=m\d+\[\d+:\d+\], w=m\d+\[\d+:\d+\], y=m\d+\[0:1024\]\)", lines[0])
    assert lines[1] == "      -- barrier, RAW: x touches what step 0 had as y"
    assert lines[4].startswith("   2  end: copy (src=")
    assert lines[-1] == "3 steps (2 dispatches), 2 barriers, 1024 bytes of scratch, 1 submit"
    assert Chain(null).explain() == "0 steps (0 dispatches), 0 barriers, 0 bytes of scratch, 1 submit"


def test_explain_an_indirect_grid(null: NullDevice) -> None:
    chain = Chain(null).rms_norm(**norm_args(null), indirect=null.empty((3,), "u32"))
    assert "rms_norm grid indirect (" in chain.explain()


def test_to_json(null: NullDevice) -> None:
    chain = Chain(null, name="demo")
    layers(null, chain, 1)
    data = json.loads(json.dumps(chain.to_json()))
    assert (data["name"], data["arena_bytes"]) == ("demo", 1024)
    first, second = data["steps"]
    assert first["kernel"] == "rms_norm" and first["grid"] == [4, 1, 1] and first["barrier"] is None
    assert second["barrier"] == "RAW: x touches what step 0 had as y"
    assert [a["name"] for a in second["accesses"]] == ["x", "w", "y"]
    assert first["bytes"] == 4 * (2 * 4 * 64 + 64)


def test_totals(null: NullDevice) -> None:
    chain = Chain(null)
    layers(null, chain, 2)
    chain.fill(dst=null.empty((4,)))
    totals = chain.totals()
    assert totals.steps == 4 and totals.by_name == {"rms_norm": 3, "fill": 1}
    assert totals.bytes == 3 * 4 * (2 * 256 + 64) + 16
