"""Generations: elitism, reproducibility, resuming, and the files; marks come from a stand-in that is not a device."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from flux_vk.errors import InputError
from flux_vk.flux import STOCK, assemble_program, decode, stock, verify
from flux_vk.flux.evolution import running
from flux_vk.flux.evolution.breeding import Breeding, Individual
from flux_vk.flux.evolution.checkpoint import CHECKPOINT, LINEAGE, load_checkpoint
from flux_vk.flux.evolution.fitness import Fitness
from flux_vk.flux.evolution.genome import digest
from flux_vk.flux.evolution.population import Generation, Options, elites, first_generation, next_generation
from flux_vk.flux.program import Program

OPTIONS = Options(population=24, elite=4, seed=7)
SEEDS = [stock(name) for name in STOCK]


def score(programs: Sequence[Program]) -> list[Fitness]:
    """Likes multiplications, few bytes and a constant near 3."""
    found = []
    for program in programs:
        names = [i.op.name for i in decode(program.code).instructions]
        near = max((-abs(v - 3) for v in program.fp.values()), default=-10.0)
        total = min(names.count("FMUL"), 3) + near - 0.01 * len(program.code)
        found.append(Fitness(total, near, 0.0, 0.0, 0.0, len(names)))
    return found


def quiet(generation: Generation, best: list[float]) -> None:
    pass


def evolve(folder: Path, generations: int, options: Options = OPTIONS) -> tuple[Generation, list[float]]:
    folder.mkdir()
    return running.evolve(folder, options, SEEDS, score, generations, quiet)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_first_generation_has_the_seeds_and_random_programs() -> None:
    first = first_generation(OPTIONS, [*SEEDS, replace(SEEDS[0], name="again")], score)
    made = sorted(first.members, key=lambda m: m.id)
    assert [m.operators for m in made[: len(SEEDS)]] == [(f"seed {name}",) for name in STOCK]
    assert all(m.operators == ("random",) for m in made[len(SEEDS) :])
    assert len({digest(m.program) for m in made}) == len(made) == OPTIONS.population
    assert all(verify(m.program).ok for m in made)


def test_best_fitness_never_falls_and_elites_live_on() -> None:
    generation = first_generation(OPTIONS, SEEDS, score)
    for _ in range(25):
        last, generation = generation, next_generation(OPTIONS, generation, score)
        assert generation.best.order <= last.best.order
        ids = {m.id: m for m in generation.members}
        assert all(ids[m.id] == m for m in elites(last, OPTIONS.elite))
        assert len(generation.members) == OPTIONS.population
        assert [m.order for m in generation.members] == sorted(m.order for m in generation.members)
        assert all(verify(m.program).ok for m in generation.members)
    first = first_generation(OPTIONS, SEEDS, score).best.fitness
    assert first is not None and generation.best.fitness is not None
    assert generation.best.fitness.total > first.total + 0.5


def test_elites_are_of_different_kinds() -> None:
    def member(number: int, total: float, loglik: float) -> Individual:
        return Individual(number, SEEDS[0], (), ("random",), 0, Fitness(total, loglik, 0.1, 0.9, 0.0, 3))

    last = Generation(3, tuple(member(i, -i, -float(i // 3)) for i in range(9)), 9)
    assert [m.id for m in elites(last, 2)] == [0, 3]
    assert [m.id for m in elites(last, 3)] == [0, 3, 6]
    assert [m.id for m in elites(last, 5)] == [0, 1, 2, 3, 6]


def test_a_seed_gives_the_same_again_and_another_does_not(tmp_path: Path) -> None:
    evolve(tmp_path / "a", 6)
    evolve(tmp_path / "b", 6)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    evolve(tmp_path / "c", 6, replace(OPTIONS, seed=8))
    assert files(tmp_path / "a")[LINEAGE] != files(tmp_path / "c")[LINEAGE]


@pytest.mark.parametrize("stopped", [0, 3, 8])
def test_resuming_is_going_on(tmp_path: Path, stopped: int) -> None:
    """The same files and numbers as without a stop, whatever was written beyond the last checkpoint."""
    whole = evolve(tmp_path / "whole", 8)
    evolve(tmp_path / "parts", stopped)
    with (tmp_path / "parts" / LINEAGE).open("a") as file:
        file.write('{"id": 99999, "generation": 9}\n{"id": 100000, "gen')
    parts = running.resume(tmp_path / "parts", OPTIONS, score, 8, quiet)
    assert parts == whole
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_stopped_in_the_middle_of_a_generation(tmp_path: Path) -> None:
    """What a report raises stops the run behind a checkpoint; what scoring raises, before it."""
    whole = evolve(tmp_path / "whole", 5)
    (tmp_path / "parts").mkdir()
    calls = 0

    def failing(programs: Sequence[Program]) -> list[Fitness]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return score(programs)

    with pytest.raises(KeyboardInterrupt):
        running.evolve(tmp_path / "parts", OPTIONS, SEEDS, failing, 5, quiet)
    assert load_checkpoint(tmp_path / "parts")[1].number == 2
    assert running.resume(tmp_path / "parts", OPTIONS, score, 5, quiet) == whole
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_the_lineage_names_every_program_once(tmp_path: Path) -> None:
    last, best = evolve(tmp_path / "x", 5)
    lines = [json.loads(line) for line in (tmp_path / "x" / LINEAGE).read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(last.next_id))
    for line in lines:
        assert all(parent < line["id"] for parent in line["parents"])
        assert bool(line["parents"]) == (line["generation"] > 0)
        assert ("crossover" in line["operators"]) == (len(line["parents"]) == 2)
        assert len(line["hash"]) == 16 and line["operators"] and line["fitness"]["total"] <= best[-1]
    hashes = {line["id"]: line["hash"] for line in lines}
    assert all(hashes[m.id] == digest(m.program) for m in last.members)
    used = {name for line in lines for name in line["operators"]}
    assert {"crossover", "insert", "immediate", "opcode", "operand", "delete"} <= used


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    evolve(tmp_path / "x", 2)
    with pytest.raises(InputError, match="made with"):
        running.resume(tmp_path / "x", replace(OPTIONS, elite=5), score, 4, quiet)
    with pytest.raises(InputError, match="generation 2, expected at most 1"):
        running.resume(tmp_path / "x", OPTIONS, score, 1, quiet)
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(tmp_path)
    path = tmp_path / "x" / CHECKPOINT
    for text, word in (("{", "no JSON"), ("[]", "no checkpoint"), ('{"flux_evolution": 1}', "missing or wrong")):
        path.write_text(text)
        with pytest.raises(InputError, match=word):
            load_checkpoint(tmp_path / "x")
    for given in ({"elite": 24}, {"elite": 0}):
        with pytest.raises(InputError, match="elite"):
            replace(OPTIONS, **given)
    for breeding in (Breeding(tournament=0), Breeding(mutation_rate=1.5), Breeding(crossover_rate=-0.1)):
        with pytest.raises(InputError):
            Options(breeding=breeding)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"generation": 2,', '"generation": "2",'),
        ('"generation": 2,', '"generation": 3,'),
        (r'"members": \[', '"members": [], "others": ['),
        ('"population": ', '"population": 1'),
        ('"total": -?[0-9.e-]+', '"total": NaN'),
        ('"total": -?[0-9.e-]+', '"total": -1e999'),
        ('"total": -?[0-9.e-]+', '"total": 1' + 400 * "0"),
        ('"code": "', '"code": "ff'),
        ('"code": "', '"code": "01c803'),
    ],
)
def test_a_spoilt_checkpoint_is_refused(tmp_path: Path, before: str, after: str) -> None:
    """In one line that names it; above all, what is no legal program never reaches a device."""
    evolve(tmp_path / "x", 2)
    path = tmp_path / "x" / CHECKPOINT
    text = path.read_text()
    changed, times = re.subn(before, after, text)
    assert times
    path.write_text(changed)
    with pytest.raises(InputError, match=f"{CHECKPOINT}: a checkpoint with a part missing or wrong"):
        load_checkpoint(tmp_path / "x")


def test_a_seed_that_the_gpu_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match="not offer"):
        first_generation(OPTIONS, [assemble_program("TELL 1\nHALT")], score)
