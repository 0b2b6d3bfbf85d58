"""Programs as evolution changes them: a list of instructions whose jumps name other instructions, and constants.

So an instruction can be put in or taken out anywhere, and the distances of jumps are worked out afresh afterwards. Not
for: the changes themselves (mutation.py, crossover.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...errors import InputError
from ..instructions import decode, encode
from ..opcodes import Opcode
from ..operands import Operand
from ..program import FP, Program

MOST_GENES = 64
"""Longest program that evolution makes, in instructions."""
MOST_BYTES = 256
"""The same in bytes of code: no instruction that a GPU takes is longer than 4."""


@dataclass(frozen=True)
class Gene:
    """An instruction. `target`: number of the gene that a direct jump leads to; one behind the last is the end."""

    op: Opcode
    operands: tuple[int | bytes, ...] = ()
    target: int | None = None


@dataclass(frozen=True)
class Genome:
    """A program taken apart. `gp`, `fp`: constants by register; floats are 32-bit values."""

    genes: tuple[Gene, ...]
    result: str = "R0"
    gp: Mapping[int, int] = field(default_factory=dict)
    fp: Mapping[int, float] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of the code."""
        return sum(len(encode(g.op, g.operands)) for g in self.genes)


def single(value: float) -> float:
    """The nearest 32-bit float, as a Python float of few digits that reads back as the same 32-bit float."""
    return float(str(np.float32(value)))


def from_program(program: Program) -> Genome:
    """Take a program apart. Raises InputError where it holds bytes that are no instruction, or jumps between two."""
    found = decode(program.code)
    if found.tail:
        raise InputError(
            f"program {program.name!r}: byte {found.end} begins no instruction; evolution takes code that decodes whole"
        )
    numbers = {instruction.offset: i for i, instruction in enumerate(found.instructions)}
    numbers[len(program.code)] = len(found.instructions)
    genes = []
    for instruction in found.instructions:
        target = instruction.target
        if target is not None and target not in numbers:
            raise InputError(
                f"program {program.name!r}: the jump at {instruction.offset} leads to {target}, where no instruction is"
            )
        genes.append(gene(instruction.op, instruction.operands, None if target is None else numbers[target]))
    return Genome(tuple(genes), program.result, dict(program.gp), {k: single(v) for k, v in program.fp.items()})


def gene(op: Opcode, operands: Sequence[int | bytes], target: int | None = None) -> Gene:
    """A gene in its one form: the distance of a jump is 0, because only `target` counts."""
    kept = tuple(0 if kind is Operand.REL else value for kind, value in zip(op.operands, operands, strict=True))
    return Gene(op, kept, target)


def to_program(genome: Genome, name: str = "agent") -> Program:
    """Put a program together. Raises InputError if it has no instruction or is longer than evolution makes them."""
    sizes = [len(encode(g.op, g.operands)) for g in genome.genes]
    offsets = [0, *np.cumsum(sizes).tolist()]
    if not 0 < offsets[-1] <= MOST_BYTES:
        raise InputError(f"program {name!r}: {offsets[-1]} bytes of code, expected 1 to {MOST_BYTES} for evolution")
    code = b""
    for i, g in enumerate(genome.genes):
        operands = list(g.operands)
        if g.target is not None:
            operands[g.op.operands.index(Operand.REL)] = offsets[g.target] - offsets[i + 1]
        code += encode(g.op, operands)
    return Program(code, name, genome.result, dict(genome.gp), dict(genome.fp))


def spliced(genome: Genome, at: int, removed: int, added: Sequence[Gene]) -> Genome:
    """`removed` genes from `at` on give way to `added`, whose own targets are numbers of the result.

    Jumps to a gene that is taken out lead to what then stands there; jumps to gene `at` lead to the first added one.
    """
    shift = len(added) - removed

    def moved(target: int | None) -> int | None:
        if target is None or target <= at:
            return target
        return at + len(added) if target < at + removed else target + shift

    kept = [replace(g, target=moved(g.target)) for g in genome.genes]
    return replace(genome, genes=(*kept[:at], *added, *kept[at + removed :]))


def pruned(genome: Genome) -> Genome:
    """The genome without constants of registers that no instruction names."""
    named = {(kind.bank, value) for g in genome.genes for kind, value in zip(g.op.operands, g.operands, strict=True)}
    named |= {("R", FP) for g in genome.genes if g.op.group == "stack"}  # ENTER and LEAVE do not spell it
    gp = {r: v for r, v in genome.gp.items() if ("R", r) in named}
    return replace(genome, gp=gp, fp={r: v for r, v in genome.fp.items() if ("F", r) in named})


def digest(program: Program) -> str:
    """What a program does, as 16 hexadecimal digits: code, result and constants, not its name."""
    constants = [sorted(program.gp.items()), sorted((k, single(v)) for k, v in program.fp.items())]
    text = json.dumps([program.code.hex(), program.result, constants])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
