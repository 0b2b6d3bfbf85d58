"""The file that tells how agents voted for every token: JSON lines, written while a text is generated, and its reader.

Not for: how votes are counted or read from the device (flux_vk/decode/), or for showing them.

The first line is the header, an object with these keys:

    flux_trace   1, the format's version
    model        name of the model ("" where there is none)
    seed         the seed as decimal digits, a string: it has 64 bits, more than many JSON readers keep
    vote         "sum", "prob", "borda" or "majority"
    candidates   most candidates of a token, a number, or "all" for the whole vocabulary
    trust_rate   the rate that trust changes at, 0 to 1
    agents       list of programs in the order that every other list has: {"name", "weight", "result" ("R0" or "F0"),
                 "code" (bytecode, hexadecimal), "gp" ({"8": 3}: integer constants by register), "fp" (floats)}

Every further line is an object with the key "type":

    "token"      index (0 for the first generated token), position (0-based, in the whole context), id, text;
                 n (number of candidates), best (largest logit), entropy (nats) and logsumexp of the model's logits over
                 the whole vocabulary;
                 agents: for each {"weight", "trust" (before this token's update), "traps" (candidates on which its
                 program trapped), "trap" (largest trap code, 0 for none)};
                 candidates: the leading ones by consensus, best first, and the chosen one where it is not among them:
                 {"id", "text", "rank" (by logit, 0 the best), "logit", "count" (occurrences in the window), "distance"
                 (to the last occurrence, -1 for never), "consensus" (the logit that goes to the samplers; null for
                 minus infinity), "total", "score": [one an agent], "contribution": [one an agent]}.
                 Contributions add up to the total, which is the consensus for sum and borda, and a share of 1 whose
                 natural logarithm is the consensus for prob and majority. The list is empty for a token that was drawn
                 before the agents joined.
    "replace"    index (of the first token voted on with the new program), agent (its place in the list), program (an
                 object like those of the header's "agents")

Numbers that the device has as 32-bit floats have the fewest digits that give the same 32-bit float again.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

import numpy as np

from ..errors import FluxError, InputError
from .program import Program

VERSION = 1
VOTES = ("sum", "prob", "borda", "majority")
T = TypeVar("T")


@dataclass(frozen=True)
class TracedProgram:
    """An agent's program as a trace keeps it."""

    name: str
    weight: float
    code: bytes
    result: str = "R0"
    gp: Mapping[int, int] = field(default_factory=dict)
    fp: Mapping[int, float] = field(default_factory=dict)

    @property
    def program(self) -> Program:
        """The program, to disassemble and run. Raises InputError where its constants cannot be."""
        return Program(self.code, self.name, self.result, self.gp, self.fp)


@dataclass(frozen=True)
class TraceHeader:
    """What holds for the whole text; `candidates` 0 means the whole vocabulary."""

    agents: tuple[TracedProgram, ...]
    model: str = ""
    seed: int = 0
    vote: str = "sum"
    candidates: int = 256
    trust_rate: float = 0.0


@dataclass(frozen=True)
class TracedAgent:
    """An agent at one token: its trust before the token's update, and on how many candidates it trapped."""

    weight: float
    trust: float
    traps: int = 0
    trap: int = 0


@dataclass(frozen=True)
class TracedCandidate:
    """A candidate of one token. `score` and `contribution` have one number an agent."""

    id: int
    text: str
    rank: int
    logit: float
    count: int
    distance: int
    consensus: float
    total: float
    score: tuple[float, ...]
    contribution: tuple[float, ...]


@dataclass(frozen=True)
class TracedToken:
    """A generated token and the vote for it; the module's text has the fields' meaning."""

    index: int
    position: int
    id: int
    text: str
    n: int
    best: float
    entropy: float
    logsumexp: float
    agents: tuple[TracedAgent, ...]
    candidates: tuple[TracedCandidate, ...]

    @property
    def chosen(self) -> TracedCandidate | None:
        """The candidate that was drawn; None where no vote was recorded."""
        return next((c for c in self.candidates if c.id == self.id), None)


@dataclass(frozen=True)
class Replacement:
    """From token `index` on, agent number `agent` ran another program."""

    index: int
    agent: int
    program: TracedProgram


@dataclass(frozen=True)
class Trace:
    """A whole file. `truncated`: its last line was cut off (the writer was stopped), and is left out."""

    header: TraceHeader
    tokens: tuple[TracedToken, ...]
    replacements: tuple[Replacement, ...] = ()
    truncated: bool = False

    def programs(self, index: int) -> tuple[TracedProgram, ...]:
        """The programs that voted on token `index`."""
        programs = list(self.header.agents)
        for r in self.replacements:
            if r.index <= index:
                programs[r.agent] = r.program
        return tuple(programs)

    def token(self, index: int) -> TracedToken:
        """The token with that index; InputError naming those that are there."""
        found = next((t for t in self.tokens if t.index == index), None)
        if found is None:
            there = f"{self.tokens[0].index} to {self.tokens[-1].index}" if self.tokens else "none"
            raise InputError(f"the trace has no token {index}; it has {there}")
        return found


class TraceWriter:
    """Writes a trace line by line, each flushed, so that what is there can be read at any time. A context manager."""

    def __init__(self, path: str | Path, header: TraceHeader) -> None:
        """Raises InputError where the file cannot be made. A line that cannot be written raises FluxError."""
        self.path = Path(path)
        try:
            self._file: TextIO = self.path.open("w", encoding="utf-8")
        except OSError as error:
            raise InputError(f"trace {self.path}: cannot be written ({error.strerror}); name another file") from error
        self._line(
            {
                "flux_trace": VERSION, "model": header.model, "seed": str(header.seed), "vote": header.vote,
                "candidates": header.candidates or "all", "trust_rate": header.trust_rate,
                "agents": [_program_out(p) for p in header.agents],
            }
        )  # fmt: skip

    def token(self, token: TracedToken) -> None:
        """Append a token."""
        self._line({"type": "token", **{f.name: _out(getattr(token, f.name)) for f in fields(token)}})

    def replace(self, change: Replacement) -> None:
        """Append the change of an agent's program."""
        program = _program_out(change.program)
        self._line({"type": "replace", "index": change.index, "agent": change.agent, "program": program})

    def _line(self, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            self.close()
            raise FluxError(
                f"trace {self.path}: cannot be written ({error.strerror}); make room, or name another file"
            ) from error

    def close(self) -> None:
        """Close the file; may be called again. Every line has been flushed: what is left could not be written."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def short(x: float) -> float:
    """The shortest decimal number that is the same 32-bit float."""
    return float(str(np.float32(x)))


def _single(x: float) -> float:
    """The 32-bit float nearest to a number of the file: the one that was written."""
    with np.errstate(over="ignore"):
        return float(np.float32(_real(x)))


def _real(x: float) -> float:
    """A number of the file; whole ones beyond all floats are infinite."""
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def _out(value: Any) -> Any:
    if isinstance(value, float):
        return short(value) if math.isfinite(value) else None
    if isinstance(value, tuple):
        return [_out(v) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _out(getattr(value, f.name)) for f in fields(value)}
    return value


def _program_out(p: TracedProgram) -> dict[str, Any]:
    return {
        "name": p.name, "weight": p.weight, "result": p.result, "code": p.code.hex(),
        "gp": {str(k): int(v) for k, v in sorted(p.gp.items())},
        "fp": {str(k): short(v) for k, v in sorted(p.fp.items())},
    }  # fmt: skip


def read_trace(path: str | Path) -> Trace:
    """Read a trace. A last line that was cut off is left out and told as `truncated`.

    Raises InputError naming file, line and key, what was found and what is expected.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"trace {path}: cannot be read ({error.strerror})") from error
    lines = raw.split(b"\n")
    whole, rest = lines[:-1], lines[-1]
    if not whole:
        raise InputError(f"trace {path}: no complete line; expected a header with 'flux_trace' (written by --trace)")
    header = _header(_Line(path, 1, whole[0]))
    tokens: list[TracedToken] = []
    changes: list[Replacement] = []
    for number, text in enumerate(whole[1:], 2):
        if not text.strip():
            continue
        line = _Line(path, number, text)
        kind = line.get("type", str)
        if kind == "token":
            tokens.append(_token(line, len(header.agents)))
        elif kind == "replace":
            changes.append(_replacement(line, len(header.agents)))
        else:
            raise line.error("type", repr(kind), "'token' or 'replace'")
    return Trace(header, tuple(tokens), tuple(changes), bool(rest.strip()))


class _Line:
    """An object of the file that knows where it stands."""

    def __init__(self, path: Path, number: int, text: bytes | Mapping[str, Any], inside: str = "") -> None:
        self.path, self.number, self.inside = path, number, inside
        if isinstance(text, bytes):
            try:
                text = json.loads(text)
            except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both
                raise InputError(f"trace {path}, line {number}: not JSON ({error}); expected an object") from error
        if not isinstance(text, Mapping):
            where = f", {inside}" if inside else ""
            raise InputError(f"trace {path}, line {number}{where}: a {type(text).__name__}; expected an object")
        self.values = text

    def error(self, key: str, found: str, expected: str) -> InputError:
        name = f"{self.inside}.{key}" if self.inside else key
        return InputError(f"trace {self.path}, line {self.number}: {name} is {found}; expected {expected}")

    def get(self, key: str, kind: type[T]) -> T:
        value = self.values.get(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = _real(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            found = repr(value)[:60] if key in self.values else "missing"
            names = {int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "an object"}
            raise self.error(key, found, names[kind])
        return value

    def real(self, key: str) -> float:
        """A 32-bit float; null is minus infinity."""
        return -math.inf if key in self.values and self.values[key] is None else _single(self.get(key, float))

    def items(self, key: str) -> list[_Line]:
        values = self.get(key, list)
        return [_Line(self.path, self.number, v, f"{key}[{i}]") for i, v in enumerate(values)]

    def reals(self, key: str, count: int) -> tuple[float, ...]:
        values = self.get(key, list)
        if len(values) != count or not all(type(v) in (int, float) or v is None for v in values):
            raise self.error(key, repr(values)[:60], f"{count} numbers, one an agent")
        return tuple(-math.inf if v is None else _single(v) for v in values)


def _header(line: _Line) -> TraceHeader:
    if line.values.get("flux_trace") != VERSION:
        found = repr(line.values.get("flux_trace", "missing"))[:60]
        raise line.error("flux_trace", found, f"{VERSION}, the format's version that this program reads")
    seed, vote, candidates = line.get("seed", str), line.get("vote", str), line.values.get("candidates")
    if not (seed.isascii() and seed.isdigit() and int(seed) < 2**64):
        raise line.error("seed", repr(seed), "decimal digits of a number below 2^64")
    if vote not in VOTES:
        raise line.error("vote", repr(vote), f"one of {', '.join(VOTES)}")
    return TraceHeader(
        agents=tuple(_program(p) for p in line.items("agents")), model=line.get("model", str), seed=int(seed),
        vote=vote, candidates=0 if candidates == "all" else line.get("candidates", int),
        trust_rate=line.get("trust_rate", float),
    )  # fmt: skip


def _program(line: _Line) -> TracedProgram:
    text = line.get("code", str)
    try:
        code = bytes.fromhex(text)
    except ValueError as error:
        raise line.error("code", repr(text)[:60], "bytecode in hexadecimal") from error
    result = line.get("result", str)
    if result not in ("R0", "F0"):
        raise line.error("result", repr(result), "'R0' or 'F0'")
    gp = _constants(line, "gp", lambda v: type(v) is int)
    fp = _constants(line, "fp", lambda v: type(v) in (int, float))
    floats = {k: _single(v) for k, v in fp.items()}
    return TracedProgram(line.get("name", str), line.get("weight", float), code, result, gp, floats)


def _constants(line: _Line, key: str, right: Callable[[Any], bool]) -> dict[int, Any]:
    found = line.get(key, dict)
    for register, value in found.items():
        if not (register.isascii() and register.isdigit() and int(register) < 16 and right(value)):
            raise line.error(key, f"{{{register!r}: {value!r}}}", "numbers by register, '0' to '15'")
    return {int(k): v for k, v in found.items()}


def _token(line: _Line, agents: int) -> TracedToken:
    votes = tuple(
        TracedAgent(a.real("weight"), a.real("trust"), a.get("traps", int), a.get("trap", int))
        for a in line.items("agents")
    )
    if len(votes) != agents:
        raise line.error("agents", f"a list of {len(votes)}", f"{agents}, as in the header")
    found = tuple(_candidate(c, agents) for c in line.items("candidates"))
    index, position, chosen, n = (line.get(key, int) for key in ("index", "position", "id", "n"))
    best, entropy, logsumexp = (line.real(key) for key in ("best", "entropy", "logsumexp"))
    return TracedToken(index, position, chosen, line.get("text", str), n, best, entropy, logsumexp, votes, found)


def _candidate(line: _Line, agents: int) -> TracedCandidate:
    token, rank, count, distance = (line.get(key, int) for key in ("id", "rank", "count", "distance"))
    logit, consensus, total = (line.real(key) for key in ("logit", "consensus", "total"))
    score, contribution = line.reals("score", agents), line.reals("contribution", agents)
    return TracedCandidate(
        token, line.get("text", str), rank, logit, count, distance, consensus, total, score, contribution
    )


def _replacement(line: _Line, agents: int) -> Replacement:
    index, agent = line.get("index", int), line.get("agent", int)
    if not 0 <= agent < agents:
        raise line.error("agent", str(agent), f"0 to {agents - 1}")
    return Replacement(index, agent, _program(_Line(line.path, line.number, line.get("program", dict), "program")))
