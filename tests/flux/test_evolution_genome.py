"""Programs taken apart, changed and put together: what changes keep, and that everything made is legal."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.flux import STOCK, assemble_program, decode, disassemble, run, stock, verify
from flux_vk.flux.evolution import mutation
from flux_vk.flux.evolution.breeding import checked
from flux_vk.flux.evolution.crossover import crossover
from flux_vk.flux.evolution.genome import (
    MOST_BYTES,
    MOST_GENES,
    Genome,
    digest,
    from_program,
    gene,
    pruned,
    spliced,
    to_program,
)
from flux_vk.flux.evolution.mutation import OPERATORS, SHARES, alike, mutate, random_genome
from flux_vk.flux.opcodes import BY_NAME, OPCODES
from flux_vk.flux.program import Program, Trap
from tests.flux.program_maker import loop_program, random_program

NOP = gene(BY_NAME["NOP"], ())


@pytest.mark.parametrize("name", STOCK)
def test_stock_agents_survive_being_taken_apart(name: str) -> None:
    program = stock(name)
    again = to_program(from_program(program), name)
    assert (again.code, again.result, again.gp) == (program.code, program.result, program.gp)
    assert digest(again) == digest(program)


def test_the_digest_is_of_what_a_program_does() -> None:
    one = assemble_program(".name a\n.result F0\n.const F8 0.7\nFMUL F0, F0, F8")
    assert digest(one) == digest(Program(one.code, "b", "F0", {}, {8: float(np.float32(0.7))}))
    for other in (Program(one.code, "a", "F0"), Program(one.code, "a", "R0", {}, one.fp), Program(b"\0", "a", "F0")):
        assert digest(one) != digest(other)


def test_programs_that_do_not_decode_are_refused() -> None:
    with pytest.raises(InputError, match="byte 1 begins no instruction"):
        from_program(Program(b"\x80\xff"))
    jump = assemble_program("JMP over\nMOVI R0, 1\nover: HALT").code
    with pytest.raises(InputError, match="jump at 0 leads to 5"):
        from_program(Program(jump[:2] + b"\x01\x00" + jump[4:]))
    with pytest.raises(InputError, match="0 bytes of code"):
        to_program(Genome(()))


@pytest.mark.parametrize("flavour", ["", "floats", "loop"])
def test_nothing_put_in_changes_nothing(rng: np.random.Generator, flavour: str) -> None:
    """NOPs anywhere, with all jumps fixed up: the same registers and flags in the end, and taken out again the same."""
    compared = 0
    for _ in range(100):
        program = loop_program(rng) if flavour == "loop" else random_program(rng, flavour=flavour)
        found = decode(program.code)
        # A pushed or computed offset is a number like any other: it does not move with the code.
        if len(program.code) > MOST_BYTES - 8 or any(i.op.name in ("CALL", "CALL_IND") for i in found.instructions):
            continue
        genome = from_program(program)
        at = int(rng.integers(len(genome.genes) + 1))
        longer = to_program(spliced(genome, at, 0, [NOP, NOP]))
        assert to_program(spliced(from_program(longer), at, 2, [])).code == to_program(genome).code
        gp, fp = {0: int(rng.integers(-999, 999)), 2: 3}, {0: float(rng.standard_normal())}
        before, after = (run(p, gp, fp, memory="gpu", max_steps=5000) for p in (program, longer))
        if Trap.STEP_LIMIT in (before.trap, after.trap):
            continue
        compared += 1
        assert (after.gp, after.flags, after.trap) == (before.gp, before.flags, before.trap)
        np.testing.assert_array_equal(after.fp, before.fp)
    assert compared > 5


def test_jumps_follow_what_they_lead_to() -> None:
    code = "start: DEC R8\nJZ R8, end\nINC R0\nJMP start\nend: HALT"
    genome = from_program(assemble_program(code))
    assert [g.target for g in genome.genes] == [None, 4, None, 0, None]
    assert [g.target for g in spliced(genome, 2, 1, []).genes] == [None, 3, 0, None]
    assert [g.target for g in spliced(genome, 4, 1, []).genes] == [None, 4, None, 0]
    assert [g.target for g in spliced(genome, 0, 0, [NOP]).genes] == [None, None, 5, None, 0, None]


def test_alike_operations_fit_the_same_operands() -> None:
    for op in OPCODES.values():
        for other in alike(op):
            assert other.gpu and other.length == op.length and other.byte != op.byte
            assert [k.bank for k in other.operands] == [k.bank for k in op.operands]
    assert BY_NAME["FSUB"] in alike(BY_NAME["FADD"]) and BY_NAME["IADD"] not in alike(BY_NAME["FADD"])


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_makes_legal_programs(rng: np.random.Generator, name: str) -> None:
    """Legal by construction, in every one of several hundred tries; and an operator does what its name says."""
    parents = [from_program(stock(n)) for n in STOCK] + [random_genome(rng) for _ in range(20)]
    done = 0
    for _ in range(300):
        parent = parents[int(rng.integers(len(parents)))]
        genome = OPERATORS[name](rng, parent)
        if genome is None:
            continue
        done += 1
        report = verify(to_program(genome))
        assert report.ok, report.findings
        grown = len(genome.genes) - len(parent.genes)
        assert grown == {"insert": 1, "delete": -1, "term": 2}.get(name, 0)
        if name in ("opcode", "operand"):
            assert sum(a != b for a, b in zip(genome.genes, parent.genes, strict=True)) <= 1
        if name == "immediate":
            assert [g.op for g in genome.genes] == [g.op for g in parent.genes]
    assert done > 50
    assert set(SHARES) == set(OPERATORS)


def test_long_lines_of_descent_stay_legal(rng: np.random.Generator) -> None:
    """Thousands of changes one after the other, with crossover; every child verifies and reads back as listed."""
    genome = from_program(stock("min_p"))
    other = from_program(stock("repetition_window"))
    names = set()
    for i in range(1500):
        if i % 5 == 0:
            crossed = crossover(rng, genome, other)
            genome, other = (crossed if crossed.genes else genome), genome
        genome, done = mutate(rng, genome, 0.4)
        names |= set(done)
        assert len(genome.genes) <= MOST_GENES
        program = checked(genome, "child")
        assert program is not None, "legal by construction"
        if i % 10 == 0:
            again = assemble_program(disassemble(program))
            assert digest(again) == digest(program) and again.name == "child"
    assert names == set(OPERATORS)


def test_crossover_keeps_jumps_inside(rng: np.random.Generator) -> None:
    first, second = from_program(stock("repetition_window")), from_program(stock("penalty"))
    results = set()
    for _ in range(200):
        genome = crossover(rng, first, second)
        results.add(genome.result)
        assert all(g.target is None or 0 <= g.target <= len(genome.genes) for g in genome.genes)
        assert dict(genome.fp).items() >= dict(second.fp).items()
        if genome.genes:
            assert verify(to_program(genome)).ok
    assert results == {"F0"}


def test_the_longest_parents_have_no_longer_children(rng: np.random.Generator) -> None:
    long = Genome((NOP,) * MOST_GENES)
    assert mutation.insert(rng, long) is None and mutation.term(rng, long) is None
    for _ in range(50):
        assert len(crossover(rng, long, long).genes) <= MOST_GENES
        assert len(mutate(rng, long, 0.5)[0].genes) <= MOST_GENES


def test_constants_that_nothing_reads_go() -> None:
    program = assemble_program(".result F0\n.const F8 2\n.const F9 3\n.const R8 1\n.const R14 7\nFMUL F0, F0, F8\nHALT")
    kept = pruned(from_program(program))
    assert dict(kept.fp) == {8: 2.0} and dict(kept.gp) == {}
    leave = pruned(from_program(assemble_program(".const R14 65536\nLEAVE\nHALT")))
    assert dict(leave.gp) == {14: 65536}
