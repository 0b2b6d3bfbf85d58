"""Programs as a swarm takes them and keeps them in a file, and the checks of names and numbers.

Not for: the swarm itself (swarm.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import flux
from ..errors import InputError
from ..flux.program import Program
from ..flux.trace import short

FORMAT = 1
MAX_NAME = 64


def check_place(path: Path) -> None:
    """Raises InputError where a swarm cannot be saved: no folder, or a folder or device of that name."""
    if not path.parent.is_dir():
        raise InputError(f"swarm {path}: cannot be written (there is no folder {path.parent}); name another file")
    if path.exists() and not path.is_file():
        raise InputError(f"swarm {path}: cannot be written (it is no regular file); name another file")


def program_of(given: Any) -> Program:
    """A verified program: a Program, bytecode, the name of a stock agent, or the path of a file."""
    if isinstance(given, Program):
        program = given
    elif isinstance(given, (bytes, bytearray)):
        program = Program(bytes(given))
    elif isinstance(given, (str, Path)):
        program = _named(given)
    else:
        kind = type(given).__name__
        raise InputError(f"agent {given!r} is a {kind}; expected a stock agent's name, a path, a Program or bytecode")
    flux.check(program, target="gpu")
    return program


def _named(given: str | Path) -> Program:
    if isinstance(given, str) and given in flux.STOCK:
        return flux.stock(given)
    path = Path(given)
    if isinstance(given, Path) or path.suffix or len(path.parts) > 1 or path.is_file():
        return flux.load_program(path)
    names = ", ".join(flux.STOCK)
    hint = closest(given, flux.STOCK)
    raise InputError(f"there is no agent {given!r}{hint}; expected one of {names}, or the path of a .flx file")


def closest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean X?", or nothing."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def agent_name(name: Any) -> str:
    """A name that may stand on a command line and in a file."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InputError(f"agent name {str(name)[:80]!r}; expected 1 to {MAX_NAME} printable characters")
    return name


def unnumbered(name: str, taken: Iterable[str]) -> str:
    """The name, or name-2, name-3, ... where it is taken."""
    others = set(taken)
    number = 2
    found = name
    while found in others:
        found, number = f"{name}-{number}", number + 1
    return found


def real(name: str, value: Any, low: float, high: float) -> float:
    """A number within finite bounds; InputError naming it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} is {value!r}; expected a number")
    if not low <= value <= high:  # nor NaN; without a conversion, that whole numbers may be too large for
        raise InputError(f"{name} is {value!r}; expected a finite number from {low:g} to {high:g}")
    return float(value)


def program_out(program: Program) -> dict[str, Any]:
    """A program as JSON holds it."""
    return {
        "program": program.name, "result": program.result, "code": program.code.hex(),
        "gp": {str(k): int(v) for k, v in sorted(program.gp.items())},
        "fp": {str(k): short(v) for k, v in sorted(program.fp.items())}, "source": program.source,
    }  # fmt: skip


def program_from(entry: Mapping[str, Any]) -> Program:
    """The inverse of `program_out`. InputError naming the agent and what does not fit."""
    name = entry.get("program", entry.get("name"))
    try:
        code = bytes.fromhex(entry["code"])
        constants = {k: {int(n): v for n, v in entry.get(k, {}).items()} for k in ("gp", "fp")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = "expected code in hexadecimal, gp and fp as numbers by register"
        raise InputError(f"agent {name!r}: {type(error).__name__} {error}; {what}") from error
    source = entry.get("source", "")
    numbers = all(
        type(v) is int or (bank == "fp" and type(v) is float) for bank, c in constants.items() for v in c.values()
    )
    if not isinstance(source, str) or not isinstance(name, str) or not numbers:
        raise InputError(f"agent {name!r}: expected texts as program and source, and numbers as constants")
    return Program(code, name, entry.get("result", "R0"), constants["gp"], constants["fp"], source)
