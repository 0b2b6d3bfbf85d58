"""Small random changes of a program: opcode, operand, immediate, constant, insert, term, delete; random programs.

Each operator takes (random generator, genome) and gives a changed genome, or None where it has nothing to change.
Nothing here makes code that does not decode or jumps between instructions; whether a child may run on a GPU is judged
by the verifier (breeding.py). Not for: two parents (crossover.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from ..opcodes import BY_NAME, OPCODES, Opcode
from ..operands import Operand
from ..program import ABI_FP, ABI_GP, REGISTERS
from .genome import MOST_GENES, Gene, Genome, gene, single, spliced

Generator = np.random.Generator

FREE = {"R": [r for r in range(REGISTERS) if r not in ABI_GP], "F": [r for r in range(REGISTERS) if r not in ABI_FP]}
"""Registers that constants may be given for."""
INPUTS = {"R": [0, 1, 2, 4, 5, 6, 7], "F": sorted(ABI_FP)}
"""Registers that tell something of the candidate: not its id and no random bits, which are there for who wants them."""
WEIGHTS: Mapping[str, int] = {
    "FADD": 6, "FSUB": 5, "FMUL": 8, "FDIV": 4, "FMIN": 2, "FMAX": 2, "FNEG": 1, "FABS": 1,
    "FEQ": 1, "FLT": 2, "FLE": 1, "FGT": 2, "FGE": 1,
    "IADD": 3, "ISUB": 3, "IMUL": 2, "IDIV": 2, "IMOD": 1, "ISHL": 2, "ISHR": 2, "IAND": 1, "IOR": 1, "IXOR": 1,
    "INEG": 1, "INC": 1, "DEC": 1, "MOV": 2, "MOVI": 3,
    "CMP": 3, "ILT": 1, "IGT": 1, "IEQ": 1, "SETCC": 1,
    "JZ": 2, "JNZ": 3, "JE": 1, "JNE": 1, "JL": 2, "JGE": 2, "JG": 1, "JLE": 1, "HALT": 1,
}  # fmt: skip
"""How often an inserted instruction is which: arithmetic most, no stack and no memory (they are kept where a seed has
them, and an opcode may change into them)."""
_NAMES = list(WEIGHTS)
_SHARES = np.array(list(WEIGHTS.values()), np.float64) / sum(WEIGHTS.values())
_READ = (Operand.RS, Operand.FS)
_WRITTEN = (Operand.RD, Operand.RX, Operand.FD, Operand.FX, Operand.FR)
_NUMBERS = (Operand.ICOND, Operand.CC, Operand.CAST, Operand.U8)


def pick(rng: Generator, values: list[int]) -> int:
    """One of the values."""
    return values[int(rng.integers(len(values)))]


def a_float(rng: Generator) -> float:
    """A new float constant: around 1, around 0, or of any size between 0.001 and 1000, of either sign."""
    kind = int(rng.integers(3))
    if kind == 0:
        return single(float(np.exp(rng.normal(0, 0.4))))
    if kind == 1:
        return single(float(rng.normal(0, 1)))
    return single(float(rng.choice([-1, 1]) * 10 ** rng.uniform(-3, 3)))


def an_int(rng: Generator, low: int = -(2**15), high: int = 2**15 - 1) -> int:
    """A new whole number: small, or a power of two, or any."""
    kind = int(rng.integers(3))
    if kind == 0:
        value = int(rng.integers(-8, 65))
    elif kind == 1:
        value = int(rng.choice([-1, 1])) * 2 ** int(rng.integers(0, 15))
    else:
        value = int(rng.integers(low, high + 1))
    return min(max(value, low), high)


def register(rng: Generator, bank: str, genome: Genome, *, written: bool) -> int:
    """A register for an operand: most often the result, a constant or an input, sometimes any at all."""
    own = int(genome.result[1:]) if genome.result.startswith(bank) else 0
    chance = rng.random()
    if written:
        return own if chance < 0.5 else pick(rng, FREE[bank]) if chance < 0.9 else int(rng.integers(REGISTERS))
    constants = sorted(genome.fp if bank == "F" else genome.gp)
    if chance < 0.3:
        return own
    if chance < 0.6:
        return pick(rng, INPUTS[bank])
    if chance < 0.8 and constants:
        return pick(rng, constants)
    return pick(rng, FREE[bank]) if chance < 0.95 else int(rng.integers(REGISTERS))


def value_of(rng: Generator, kind: Operand, genome: Genome) -> int:
    """A legal number for an operand of this kind. A jump's distance is 0: its target says more."""
    if kind in _WRITTEN or kind in _READ:
        return register(rng, kind.bank, genome, written=kind in _WRITTEN)
    if kind in _NUMBERS:
        return int(rng.integers(kind.low, kind.high + 1))
    return an_int(rng) if kind is Operand.I16 else 0


def with_constants(rng: Generator, genome: Genome, made: Gene) -> Genome:
    """The genome with a constant for each free register that the gene reads, nobody writes and nobody has given."""
    written = {value for g in genome.genes for bank, value in _registers(g, _WRITTEN) if bank == "F"}
    gp, fp = dict(genome.gp), dict(genome.fp)
    for bank, number in _registers(made, _READ):
        if bank == "F" and number in FREE["F"] and number not in fp and number not in written:
            fp[number] = a_float(rng)
        elif bank == "R" and number in FREE["R"] and number not in gp and rng.random() < 0.5:
            gp[number] = an_int(rng)
    return replace(genome, gp=gp, fp=fp)


def _registers(g: Gene, kinds: tuple[Operand, ...]) -> list[tuple[str, int]]:
    pairs = zip(g.op.operands, g.operands, strict=True)
    return [(kind.bank, value) for kind, value in pairs if kind in kinds and isinstance(value, int)]


# -- the operators --------------------------------------------------------------------------------------------------


def insert(rng: Generator, genome: Genome) -> Genome | None:
    """A new instruction anywhere, with constants for what it reads. Its jump, if it is one, goes forward."""
    if len(genome.genes) >= MOST_GENES:
        return None
    at = int(rng.integers(len(genome.genes) + 1))
    op = BY_NAME[_NAMES[int(rng.choice(len(_NAMES), p=_SHARES))]]
    target = int(rng.integers(at + 1, len(genome.genes) + 2)) if Operand.REL in op.operands else None
    operands = [value_of(rng, kind, genome) for kind in op.operands]
    if op.operands[:1] in ((Operand.RD,), (Operand.FD,)) and len(operands) == 3 and rng.random() < 0.6:
        operands[1] = operands[0]  # x = x + y more often than x = y + z
    made = gene(op, operands, target)
    return with_constants(rng, spliced(genome, at, 0, [made]), made)


def term(rng: Generator, genome: Genome) -> Genome | None:
    """Two instructions at the end: an input times a new constant is added to a result that is a float."""
    if genome.result != "F0" or len(genome.genes) + 2 > MOST_GENES:
        return None
    free = [r for r in FREE["F"] if r not in genome.fp]
    if len(free) < 2:
        return None
    factor, product = (int(r) for r in rng.choice(free, 2, replace=False))
    at = len(genome.genes) - (1 if genome.genes and not genome.genes[-1].op.falls else 0)
    made = [
        gene(BY_NAME["FMUL"], (product, pick(rng, INPUTS["F"]), factor)),
        gene(BY_NAME["FADD"], (0, 0, product)),
    ]
    longer = spliced(genome, at, 0, made)
    return replace(longer, fp={**longer.fp, factor: a_float(rng)})


def delete(rng: Generator, genome: Genome) -> Genome | None:
    """One instruction goes; the last one stays."""
    if len(genome.genes) < 2:
        return None
    return spliced(genome, int(rng.integers(len(genome.genes))), 1, [])


@cache
def alike(op: Opcode) -> tuple[Opcode, ...]:
    """Other operations of the GPU whose operands are of the same banks and sizes, in the same order."""
    shape = [(kind.bank, kind.size) for kind in op.operands]
    others = (o for o in OPCODES.values() if o.gpu and o.byte != op.byte and Operand.DATA not in o.operands)
    return tuple(o for o in others if [(kind.bank, kind.size) for kind in o.operands] == shape)


def opcode(rng: Generator, genome: Genome) -> Genome | None:
    """An instruction does something else with the same operands."""
    places = [i for i, g in enumerate(genome.genes) if alike(g.op)]
    if not places:
        return None
    at = pick(rng, places)
    old = genome.genes[at]
    op = alike(old.op)[int(rng.integers(len(alike(old.op))))]
    operands: list[int | bytes] = []
    for kind, value in zip(op.operands, old.operands, strict=True):
        legal = isinstance(value, int) and kind.low <= value <= kind.high
        operands.append(value if legal else value_of(rng, kind, genome))
    if Operand.REL not in op.operands:
        target = None
    else:
        target = old.target if old.target is not None else int(rng.integers(at + 1, len(genome.genes) + 1))
    return _changed(genome, at, gene(op, operands, target))


def operand(rng: Generator, genome: Genome) -> Genome | None:
    """One operand of an instruction changes: a register, a condition, or where a jump leads (forward)."""
    kinds = (*_WRITTEN, *_READ, *_NUMBERS, Operand.REL)
    places = [(i, j) for i, g in enumerate(genome.genes) for j, kind in enumerate(g.op.operands) if kind in kinds]
    if not places:
        return None
    at, which = places[int(rng.integers(len(places)))]
    old = genome.genes[at]
    if old.op.operands[which] is Operand.REL:
        made = replace(old, target=int(rng.integers(at + 1, len(genome.genes) + 1)))
        return _changed(genome, at, made)
    values = list(old.operands)
    values[which] = value_of(rng, old.op.operands[which], genome)
    made = gene(old.op, values, old.target)
    return with_constants(rng, _changed(genome, at, made), made)


def immediate(rng: Generator, genome: Genome) -> Genome | None:
    """A number in the code, or a constant of a register, changes: a little, by a factor, or to something else."""
    places: list[tuple[str, int]] = [("code", i) for i, g in enumerate(genome.genes) if Operand.I16 in g.op.operands]
    places += [("gp", r) for r in sorted(genome.gp)] + [("fp", r) for r in sorted(genome.fp)]
    if not places:
        return None
    where, at = places[int(rng.integers(len(places)))]
    if where == "fp":
        return replace(genome, fp={**genome.fp, at: changed_float(rng, genome.fp[at])})
    if where == "gp":
        return replace(genome, gp={**genome.gp, at: changed_int(rng, genome.gp[at], -(2**31), 2**31 - 1)})
    old = genome.genes[at]
    which = old.op.operands.index(Operand.I16)
    values = list(old.operands)
    value = values[which]
    assert isinstance(value, int)
    values[which] = changed_int(rng, value, Operand.I16.low, Operand.I16.high)
    return _changed(genome, at, replace(old, operands=tuple(values)))


def result(rng: Generator, genome: Genome) -> Genome | None:
    """The score is read from the other bank."""
    return replace(genome, result="F0" if genome.result == "R0" else "R0")


def changed_float(rng: Generator, value: float) -> float:
    """A number near the old one, seldom a new one."""
    chance = rng.random()
    if chance < 0.6:
        value *= float(np.exp(rng.normal(0, 0.15)))
    elif chance < 0.85:
        value += float(rng.normal(0, 0.2))
    elif chance < 0.9:
        value = -value
    else:
        return a_float(rng)
    return single(min(max(value, -1e30), 1e30))


def changed_int(rng: Generator, value: int, low: int, high: int) -> int:
    """The same for whole numbers."""
    chance = rng.random()
    if chance < 0.4:
        value += int(rng.integers(-4, 5))
    elif chance < 0.8:
        value = int(round(value * float(np.exp(rng.normal(0, 0.3)))))
    else:
        value = an_int(rng)
    return min(max(value, low), high)


def _changed(genome: Genome, at: int, made: Gene) -> Genome:
    return replace(genome, genes=(*genome.genes[:at], made, *genome.genes[at + 1 :]))


Operator = Callable[[Generator, Genome], Genome | None]
OPERATORS: Mapping[str, Operator] = {
    "opcode": opcode, "operand": operand, "immediate": immediate, "insert": insert, "term": term, "delete": delete,
    "result": result,
}  # fmt: skip
"""By the name that lineages have."""
SHARES: Mapping[str, float] = {
    "opcode": 0.1, "operand": 0.15, "immediate": 0.3, "insert": 0.22, "term": 0.08, "delete": 0.14, "result": 0.01,
}  # fmt: skip
"""How often each is tried."""


def mutate(rng: Generator, genome: Genome, rate: float) -> tuple[Genome, tuple[str, ...]]:
    """One change, and another with probability `rate` as long as chance has it. Returns genome and operators' names."""
    names, shares = list(SHARES), np.array(list(SHARES.values()))
    done: list[str] = []
    while not done or (rng.random() < rate and len(done) < 16):
        name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        found = OPERATORS[name](rng, genome)
        if found is None:
            name, found = "insert", insert(rng, genome)
        if found is None:
            name, found = "delete", delete(rng, genome)
        assert found is not None, "a genome that cannot grow can shrink"
        genome = found
        done.append(name)
    return genome, tuple(done)


def random_genome(rng: Generator) -> Genome:
    """One to eight random instructions, with the score read from either bank."""
    genome = Genome((), "F0" if rng.random() < 0.75 else "R0")
    for _ in range(int(rng.integers(1, 9))):
        genome = insert(rng, genome) or genome
    return genome
