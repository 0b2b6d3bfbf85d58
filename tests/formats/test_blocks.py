"""The NumPy dequantisation, bit for bit against the gguf package; sizes and errors."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from block_data import random_blocks, reference

from flux_vk.errors import InputError
from flux_vk.formats import blocks

TYPES = blocks.RUNNABLE


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", [(1, 256), (3, 512), (2, 3, 768), (1024,)])
def test_bit_equal(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    raw = random_blocks(rng, name, shape)
    got = blocks.dequantize(raw, name, shape)
    assert got.dtype == np.float32
    assert got.shape == shape
    assert np.isfinite(got).all()
    assert np.array_equal(got.view(np.uint32), reference(raw, name, shape).view(np.uint32))


@pytest.mark.parametrize("name", [t for t in TYPES if blocks.BY_NAME[t].weights < 256])
@pytest.mark.parametrize("k", [32, 64, 96, 896, 4864])
def test_awkward_rows(name: str, k: int, rng: np.random.Generator) -> None:
    raw = random_blocks(rng, name, (5, k))
    got = blocks.dequantize(raw, name, (5, k))
    assert np.array_equal(got.view(np.uint32), reference(raw, name, (5, k)).view(np.uint32))


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_quantised_values_come_back(name: str, rng: np.random.Generator) -> None:
    values = rng.standard_normal((4, 256)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name.upper()]
    got = blocks.dequantize(gguf.quants.quantize(values, kind).reshape(-1), name, values.shape)
    bits = int(name[1])
    assert np.abs(got - values).max() < np.abs(values).max() * 2.0 ** (2 - bits)


def test_every_runnable_type_is_covered() -> None:
    assert set(TYPES) == {
        "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
        "iq4_nl", "iq4_xs",
    }  # fmt: skip


def test_errors() -> None:
    raw = np.zeros(18, np.uint8)
    with pytest.raises(InputError, match="'q9_9': found an unknown type, expected one of f32"):
        blocks.dequantize(raw, "q9_9", (1, 32))
    with pytest.raises(InputError, match="'iq1_s': found a type no kernel reads"):
        blocks.dequantize(raw, "iq1_s", (1, 256))
    with pytest.raises(InputError, match="found rows of 33, expected a multiple of 32"):
        blocks.dequantize(raw, "q4_0", (1, 33))
    with pytest.raises(InputError, match="found 18 bytes of uint8, expected 36"):
        blocks.dequantize(raw, "q4_0", (2, 32))
    with pytest.raises(InputError, match="int8"):
        blocks.dequantize(raw.view(np.int8), "q4_0", (1, 32))  # type: ignore[arg-type]
    for shape in ((), (0, 32), (1, 0)):
        with pytest.raises(InputError, match="dimensions"):
            blocks.dequantize(raw, "q4_0", shape)
