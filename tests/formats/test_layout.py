"""The planar row layout: packing is exact both ways, and means what its description says."""

from __future__ import annotations

import gguf
import numpy as np
import planar
import pytest
from block_data import random_blocks, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_vk.errors import InputError
from flux_vk.formats import blocks, layout

TYPES = blocks.RUNNABLE
WIDTHS = (32, 64, 96, 256, 512, 768, 896, 1024, 2560, 4864)
CASES = [(t, k) for t in TYPES for k in WIDTHS if k % blocks.BY_NAME[t].weights == 0]
CASES += [(t, k) for t in ("f32", "f16", "bf16") for k in (1, 5, 7, 33, 100)]


@pytest.mark.parametrize(("name", "k"), CASES)
def test_any_bytes_come_back(name: str, k: int, rng: np.random.Generator) -> None:
    for rows in (1, 2, 7):
        raw = rng.integers(0, 256, rows * blocks.BY_NAME[name].row_bytes(k), dtype=np.uint8)
        packed = layout.pack(raw, name, (rows, k))
        assert packed.shape == (rows, layout.row_stride(name, k))
        assert np.array_equal(layout.unpack(packed, name, (rows, k)), raw)


@settings(max_examples=300)
@given(
    st.sampled_from(CASES),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 100, 3000, 2**19]),
)
def test_any_bytes_in_any_chunks(case: tuple[str, int], rows: int, seed: int, chunk: int) -> None:
    name, k = case
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, rows * blocks.BY_NAME[name].row_bytes(k), dtype=np.uint8)
    whole = layout.pack(raw, name, (rows, k))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK_BYTES", chunk)
        packed = layout.pack(raw, name, (rows, k))
        assert np.array_equal(layout.unpack(packed, name, (rows, k)), raw)
    assert np.array_equal(packed, whole)


@pytest.mark.parametrize(("name", "k"), [c for c in CASES if c[1] % 32 == 0])
def test_values_read_from_the_planes(name: str, k: int, rng: np.random.Generator) -> None:
    raw = random_blocks(rng, name, (3, k))
    got = planar.values(layout.pack(raw, name, (3, k)), name, k)
    assert np.array_equal(got.view(np.uint32), reference(raw, name, (3, k)).view(np.uint32))


@pytest.mark.parametrize("name", ["f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_values_of_real_quantisations(name: str, rng: np.random.Generator) -> None:
    kind = gguf.GGMLQuantizationType[name.upper()]
    values = rng.standard_normal((6, 896)).astype(np.float32)
    raw = gguf.quants.quantize(values, kind).reshape(-1).view(np.uint8)
    got = planar.values(layout.pack(raw, name, (6, 896)), name, 896)
    assert np.array_equal(got.view(np.uint32), reference(raw, name, (6, 896)).view(np.uint32))


@pytest.mark.parametrize(("name", "k"), [c for c in CASES if c[1] % 32 == 0])
def test_planes_and_padding(name: str, k: int, rng: np.random.Generator) -> None:
    where, stride = planar.offsets(name, k)
    assert layout.row_stride(name, k) == stride
    assert {p.name: (p.offset, p.nbytes) for p in layout.planes(name, k)} == where
    assert layout.packed_nbytes(name, (2, 3, k)) == 6 * stride

    raw = rng.integers(1, 256, 5 * blocks.BY_NAME[name].row_bytes(k), dtype=np.uint8)
    guarded = np.full(5 * stride + 32, 0xA5, np.uint8)
    layout.pack_into(raw, name, (5, k), guarded[16:-16])
    assert (guarded[:16] == 0xA5).all()
    assert (guarded[-16:] == 0xA5).all()
    padding = np.ones(stride, bool)
    for offset, nbytes in where.values():
        assert offset % 16 == 0
        padding[offset : offset + nbytes] = False
    assert not guarded[16:-16].reshape(5, stride)[:, padding].any()


def test_odd_rows_of_plain_types_are_padded() -> None:
    raw = np.arange(1, 21, dtype=np.uint8)
    packed = layout.pack(raw, "f16", (2, 5))
    assert packed.shape == (2, 16)
    assert packed[:, :10].tolist() == raw.reshape(2, 10).tolist()
    assert not packed[:, 10:].any()


@pytest.mark.parametrize("name", TYPES)
def test_more_dimensions_and_unaligned_input(name: str, rng: np.random.Generator) -> None:
    size = 6 * blocks.BY_NAME[name].row_bytes(512)
    memory = rng.integers(0, 256, size + 1, dtype=np.uint8)
    raw = memory[1:]
    raw.flags.writeable = False
    packed = layout.pack(raw, name, (2, 3, 512))
    assert np.array_equal(packed, layout.pack(raw.copy(), name, (6, 512)))
    assert np.array_equal(layout.pack(raw[: size // 6], name, (512,)), packed[:1])
    assert np.array_equal(layout.unpack(packed, name, (2, 3, 512)), raw)


def test_many_chunks_at_the_real_size(rng: np.random.Generator) -> None:
    for name in ("q5_0", "q4_k", "q6_k"):
        rows = 3 * layout.CHUNK_BYTES // layout.row_stride(name, 2048) + 5
        raw = rng.integers(0, 256, rows * blocks.BY_NAME[name].row_bytes(2048), dtype=np.uint8)
        packed = layout.pack(raw, name, (rows, 2048))
        assert np.array_equal(packed[-3:], layout.pack(raw.reshape(rows, -1)[-3:], name, (3, 2048)))
        assert np.array_equal(layout.unpack(packed, name, (rows, 2048)), raw)


def test_errors() -> None:
    raw = np.zeros(34, np.uint8)
    with pytest.raises(InputError, match="'q8_1': found a type no kernel reads"):
        layout.planes("q8_1", 32)
    with pytest.raises(InputError, match="rows of 48 q8_0 weights: expected a positive multiple of 32"):
        layout.row_stride("q8_0", 48)
    with pytest.raises(InputError, match="rows of 0"):
        layout.row_stride("q8_0", 0)
    with pytest.raises(InputError, match="found 34 bytes of uint8, expected 68"):
        layout.pack(raw, "q8_0", (2, 32))
    with pytest.raises(InputError, match="the buffer for q8_0 weights .*: found 47 .* expected 48"):
        layout.pack_into(raw, "q8_0", (1, 32), np.zeros(47, np.uint8))
    with pytest.raises(InputError, match="scattered"):
        layout.pack_into(raw, "q8_0", (1, 32), np.zeros(96, np.uint8)[::2])
    with pytest.raises(InputError, match="packed q8_0 weights"):
        layout.unpack(np.zeros(40, np.uint8), "q8_0", (1, 32))
    with pytest.raises(InputError, match="rows of 0"):
        layout.unpack(raw, "q8_0", ())
