"""Programs as vectors: how often each operation stands in them, in 128 dimensions, and how alike programs are.

Every operation that this machine executes (122 of 131) has a dimension of its own. 128 are too few for 131, so three
pairs must share; those are taken from the nine physics operations, which always trap and which no program for the GPU
holds. Opcodes below 128 are their own dimension; the rest take the numbers that no opcode below 128 uses. Not for: what
operands say, or the order of instructions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from .instructions import decode
from .opcodes import OPCODES
from .program import Program, code_of

SIZE = 128
# Physics operations that share the dimension of another: attenuation with absorption, visibility with scattering,
# refraction with the speed of sound.
_SHARED = {"PHY_ATTEN": "PHY_ABSORB", "PHY_VISIB": "PHY_SCATTER", "PHY_REFRAC": "PHY_SOUNDV"}


def _dimensions() -> dict[int, int]:
    found = {byte: byte for byte in OPCODES if byte < SIZE}
    free = iter(dimension for dimension in range(SIZE) if dimension not in OPCODES)
    by_name = {op.name: op.byte for op in OPCODES.values()}
    for byte, op in OPCODES.items():
        if byte >= SIZE and op.name not in _SHARED:
            found[byte] = next(free)
    found |= {by_name[name]: found[by_name[other]] for name, other in _SHARED.items()}
    return found


DIMENSIONS: Mapping[int, int] = MappingProxyType(_dimensions())
"""The dimension of each opcode byte."""


def counts(program: bytes | Program) -> npt.NDArray[np.int64]:
    """How often the operations of each dimension stand in the code, int64[128]. Data behind the code counts nothing."""
    found = np.zeros(SIZE, np.int64)
    for instruction in decode(code_of(program)).instructions:
        found[DIMENSIONS[instruction.op.byte]] += 1
    return found


def embed(program: bytes | Program) -> npt.NDArray[np.float32]:
    """The program as float32[128]: counts of its operations, divided by their Euclidean norm.

    Zeros for code without instructions. Neither the order of instructions nor repeating the whole code changes it.
    """
    row: npt.NDArray[np.float32] = _normalised([program])[0].astype(np.float32)
    return row


def similarity(programs: Sequence[bytes | Program]) -> npt.NDArray[np.float32]:
    """Cosines between programs, float32[n, n]: 1 on the diagonal (0 for code without instructions), 0 where two have no
    operation in common."""
    rows = _normalised(programs)
    return np.clip(rows @ rows.T, 0.0, 1.0).astype(np.float32)


def _normalised(programs: Sequence[bytes | Program]) -> npt.NDArray[np.float64]:
    rows = np.array([counts(program) for program in programs], np.float64).reshape(len(programs), SIZE)
    norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return rows / np.where(norms > 0, norms, 1.0)
