"""Embeddings: dimensions without collisions, identities that must hold, and the picture of similarities."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.flux import BY_NAME, OPCODES, Program, embed, heat_map, similarity
from flux_vk.flux.embedding import DIMENSIONS, SIZE, counts
from tests.flux.programs import code, random_program


def test_dimensions_do_not_collide() -> None:
    """Each of the 122 operations that are executed has its own; nine that always trap share the six that are left."""
    assert set(DIMENSIONS) == set(OPCODES) and set(DIMENSIONS.values()) == set(range(SIZE))
    executed = [DIMENSIONS[byte] for byte, op in OPCODES.items() if op.group != "physics"]
    physics = [DIMENSIONS[byte] for byte, op in OPCODES.items() if op.group == "physics"]
    assert len(executed) == len(set(executed)) == 122
    assert len(physics) == 9 and len(set(physics)) == 6 and not set(physics) & set(executed)
    assert all(DIMENSIONS[byte] == byte for byte in OPCODES if byte < SIZE)
    for a, b in (("HALT", "NOP"), ("YIELD", "MOV"), ("RESOURCE_ACQUIRE", "LOAD"), ("DEBUG_BREAK", "JMP")):
        assert DIMENSIONS[BY_NAME[a].byte] != DIMENSIONS[BY_NAME[b].byte]  # byte mod 128 merges these


def test_a_hand_counted_program() -> None:
    """Operand bytes count nothing, though they look like opcodes; nor does data behind the code."""
    program = code(("MOVI", 1, 0x0101), ("MOVI", 2, 5), ("HALT",)) + b"\xff\x01\x01"
    found = embed(program)
    assert found.dtype == np.float32 and found.shape == (SIZE,)
    assert counts(program).sum() == 3 and np.flatnonzero(found).tolist() == [0x2B, DIMENSIONS[0x80]]
    np.testing.assert_allclose(found[[0x2B, DIMENSIONS[0x80]]], [2 / 5**0.5, 1 / 5**0.5], rtol=1e-7)
    assert not embed(b"").any() and not embed(b"\xff").any()


def test_identities(rng: np.random.Generator) -> None:
    for _ in range(50):
        a, b = (random_program(rng, int(rng.integers(1, 80)), tail=False) for _ in range(2))
        assert abs(float(np.linalg.norm(embed(a).astype(np.float64))) - 1) < 1e-6
        assert similarity([a, a])[0, 1] == pytest.approx(1, abs=1e-7)
        np.testing.assert_array_equal(embed(a + a), embed(a))
        np.testing.assert_array_equal(embed(a + b), embed(b + a))
        assert similarity([a, b])[0, 1] == pytest.approx(float(embed(a) @ embed(b)), abs=1e-6)
    matrix = similarity([code(("INC", 0)), code(("DEC", 0)), Program(code(("INC", 3))), b""])
    np.testing.assert_array_equal(matrix, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    assert similarity([]).shape == (0, 0)


def test_the_heat_map(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    matrix = similarity([b"\x80", b"\x00\x80"])
    for name in ("map.png", "map.svg"):
        heat_map(tmp_path / name, ["a", "b"], matrix)
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(InputError, match="map.xyz: "):
        heat_map(tmp_path / "map.xyz", ["a", "b"], matrix)
    with pytest.raises(InputError, match="cannot be written"):
        heat_map(tmp_path / "none" / "map.png", ["a", "b"], matrix)
    with pytest.raises(InputError, match=r"a matrix of \(2, 2\) with 1 names"):
        heat_map(tmp_path / "map.png", ["a"], matrix)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.png", "map.svg"]


def test_the_heat_map_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'flux_vk\[plots\]'"):
        heat_map(tmp_path / "map.png", ["a"], similarity([b"\x80"]))
