"""Files of an evolution: the checkpoint of a generation, and the lineage of all programs that ever were.

Both are JSON; whole files are written under a temporary name and renamed. Not for: recordings (recording.py).
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import write_whole
from ..program import Program
from ..verifier import check
from .breeding import Breeding, Individual
from .fitness import Fitness, Weights
from .genome import digest
from .population import Generation, Options

VERSION = 1
CHECKPOINT = "checkpoint.json"
LINEAGE = "lineage.jsonl"


def save_checkpoint(folder: Path, options: Options, generation: Generation, best: list[float]) -> None:
    """The state after a generation. best: the best fitness of every generation so far."""
    state = {
        "flux_evolution": VERSION, "options": asdict(options), "generation": generation.number,
        "next_id": generation.next_id, "best": best, "members": [_member(m) for m in generation.members],
    }  # fmt: skip
    write_whole(folder / CHECKPOINT, json.dumps(state, indent=1) + "\n")


def load_checkpoint(folder: Path) -> tuple[Options, Generation, list[float]]:
    """What `save_checkpoint` wrote. Raises InputError naming the file and what is wrong with it."""
    path = folder / CHECKPOINT
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); nothing to resume from") from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error})") from error
    if not isinstance(state, Mapping) or state.get("flux_evolution") != VERSION:
        raise InputError(f"{path}: is no checkpoint of version {VERSION}; start again without --resume")
    try:
        given = dict(state["options"])
        weights, breeding = Weights(**given.pop("weights")), Breeding(**given.pop("breeding"))
        options = Options(**given, weights=weights, breeding=breeding)
        members = tuple(_read_member(m) for m in state["members"])
        last = Generation(operator.index(state["generation"]), members, operator.index(state["next_id"]))
        best = [float(x) for x in state["best"]]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{path}: a checkpoint with a part missing or wrong ({error!r})") from error
    if len(members) != options.population or len(best) != last.number + 1:
        found = f"{len(members)} members of {options.population}, {len(best)} best of generation {last.number}"
        raise InputError(f"{path}: a checkpoint with a part missing or wrong ({found})")
    return options, last, best


def _member(m: Individual) -> dict[str, Any]:
    p = m.program
    program = {
        "name": p.name, "code": p.code.hex(), "result": p.result,
        "gp": {str(k): v for k, v in p.gp.items()}, "fp": {str(k): v for k, v in p.fp.items()},
    }  # fmt: skip
    return {
        "id": m.id, "parents": m.parents, "operators": m.operators, "generation": m.generation,
        "fitness": None if m.fitness is None else asdict(m.fitness), "program": program,
    }  # fmt: skip


def _read_member(found: Mapping[str, Any]) -> Individual:
    p = found["program"]
    program = Program(
        bytes.fromhex(p["code"]), p["name"], p["result"],
        {int(k): v for k, v in p["gp"].items()}, {int(k): v for k, v in p["fp"].items()},
    )  # fmt: skip
    check(program, "gpu")
    fitness = Fitness(**found["fitness"])
    if not math.isfinite(fitness.total):
        raise ValueError(f"fitness {fitness.total}")
    parents, operators = tuple(found["parents"]), tuple(found["operators"])
    return Individual(found["id"], program, parents, operators, found["generation"], fitness)


# -- lineage --------------------------------------------------------------------------------------------------------


def lineage_lines(generation: Generation) -> Iterator[str]:
    """A line for each program made in this generation: id, generation, parents, operators, hash and fitness."""
    for m in generation.born:
        entry = {
            "id": m.id, "generation": m.generation, "parents": m.parents, "operators": m.operators,
            "hash": digest(m.program), "bytes": len(m.program.code),
            "fitness": None if m.fitness is None else asdict(m.fitness),
        }  # fmt: skip
        yield json.dumps(entry) + "\n"


def begin_lineage(folder: Path) -> None:
    """An empty lineage."""
    write_whole(folder / LINEAGE, "")


def append_lineage(folder: Path, generation: Generation) -> None:
    """Add what was born in a generation."""
    path = folder / LINEAGE
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(lineage_lines(generation)))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def cut_lineage(folder: Path, last: int) -> None:
    """Drop what was born after generation `last`: a run that was stopped may have written it, and will again."""
    path = folder / LINEAGE
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it belongs to the checkpoint") from error
    kept = []
    for line in lines:
        try:
            if not line.endswith("\n") or json.loads(line)["generation"] > last:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    write_whole(path, "".join(kept))
