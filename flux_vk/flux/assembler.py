"""Assembler: text to bytecode in two passes. docs/flux.md has the syntax. Not for: judging programs (verifier.py)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ProgramError
from .instructions import encode
from .opcodes import BY_NAME, Opcode
from .operands import NAMES, Operand
from .program import ABI_FP, ABI_GP, ALIASES, MAX_HOST_CODE, MAX_NAME, Program, constant_problem
from .scanner import Place, Token, scan

MAX_SOURCE = 16 * MAX_HOST_CODE
"""Bytes of a source file."""

SOURCE_ENDING = ".flx"

_REGISTER = re.compile(r"([RFV])([0-9]{1,3})", re.I)
_BANKS = {"R": "an integer register R0 to R15 (or SP, FP, LR)", "F": "a float register F0 to F15",
          "V": "a vector register V0 to V15"}  # fmt: skip
# With one operand left out, the first stands for it too: IADD R0, R1 is IADD R0, R0, R1.
_REPEATED = {(Operand.RD, Operand.RS, Operand.RS): 3, (Operand.FD, Operand.FS, Operand.FS): 3}
_REPEATED_PAIRS = ("INEG", "INOT", "FNEG", "FABS")


def assemble(text: str, file: str = "<text>") -> bytes:
    """The bytecode of a source. Raises ProgramError with file, line and column."""
    return assemble_program(text, file).code


def assemble_program(text: str, file: str = "<text>") -> Program:
    """The program that a source describes, with its name, constants and result.

    A source without `.name` is called as its file without the ending. Raises ProgramError with file, line and column.
    """
    return _Source(text, file).program()


def load_program(path: str | Path) -> Program:
    """Read a program from a file: source where it ends in .flx, else raw bytecode.

    Raises ProgramError for what cannot be read or assembled. The code is not verified.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:  # devices have no size and no end
            data = file.read(MAX_SOURCE + 1)
    except OSError as error:
        raise ProgramError(f"{path}: {error.strerror}; expected a .flx source or a file of bytecode") from None
    if len(data) > MAX_SOURCE:
        raise ProgramError(f"{path}: more than {MAX_SOURCE} bytes; that is no FLUX program")
    if not is_source(path):
        return Program(data, name_of(path))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProgramError(
            f"{path}: byte {error.start} is not UTF-8; a .flx file is source text, bytecode needs another ending"
        ) from None
    return assemble_program(text, str(path))


def is_source(path: str | Path) -> bool:
    """Whether a file is taken as source by its name: it ends in .flx, in letters of either case."""
    return str(path).lower().endswith(SOURCE_ENDING)


def name_of(path: str | Path) -> str:
    """What a program is called that says no name itself: its file without the ending, "?" for what cannot be shown."""
    stem = Path(path).stem.removesuffix(SOURCE_ENDING)[:MAX_NAME]
    return "".join(letter if letter.isprintable() else "?" for letter in stem) or "agent"


def register(text: str) -> tuple[str, int] | None:
    """("R", 11) of "SP" and the like; None of what is no register."""
    if text.upper() in ALIASES:
        return "R", ALIASES[text.upper()]
    found = _REGISTER.fullmatch(text)
    if found is None or int(found[2]) > 15:
        return None
    return found[1].upper(), int(found[2])


def suggestion(word: str, known: Iterable[str]) -> str:
    """"; did you mean X?" or nothing."""
    close = difflib.get_close_matches(word, list(known), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


@dataclass
class _Line:
    """Something that takes room: an instruction whose jumps may wait for labels, or plain bytes."""

    place: Place
    offset: int
    op: Opcode | None = None
    operands: list[int | bytes | Token] = field(default_factory=list)
    data: bytes = b""

    def size(self) -> int:
        if self.op is None:
            return len(self.data)
        payload = sum(len(value) for value in self.operands if isinstance(value, bytes))
        return 1 + sum(kind.size for kind in self.op.operands) + payload


class _Source:
    """A source while it is assembled."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.labels: dict[str, tuple[int, Place]] = {}
        self.lines: list[_Line] = []
        self.offset = 0
        self.name = self.result = ""
        self.gp: dict[int, int] = {}
        self.fp: dict[int, float] = {}
        self.directives: dict[str, Callable[[Token, list[Token]], None]] = {
            ".ascii": self._strings, ".asciz": self._strings, ".byte": self._numbers, ".const": self._const,
            ".dword": self._numbers, ".fill": self._fill, ".name": self._name, ".result": self._result,
            ".word": self._numbers,
        }  # fmt: skip

    def program(self) -> Program:
        for _, tokens in scan(self.text, self.file):
            self._line(tokens)
        code = b"".join(self._encoded(line) for line in self.lines)
        name = self.name or (name_of(self.file) if is_source(self.file) else "agent")
        return Program(code, name, self.result or "R0", self.gp, self.fp, self.text)

    # --- first pass ---------------------------------------------------------------------------------------------------

    def _line(self, tokens: list[Token]) -> None:
        while len(tokens) >= 2 and tokens[0].kind == "word" and tokens[1].text == ":":
            self._label(tokens[0])
            tokens = tokens[2:]
        if not tokens:
            return
        first, rest = tokens[0], tokens[1:]
        if first.kind != "word":
            raise first.place.error(f"found {first.text!r}, expected a mnemonic, a directive or a label")
        if first.text.startswith("."):
            if first.text.lower() not in self.directives:
                known = ", ".join(self.directives)
                hint = suggestion(first.text.lower(), self.directives)
                raise first.place.error(f"unknown directive {first.text}{hint} (there are {known})")
            self.directives[first.text.lower()](first, _operands(rest))
        else:
            self._instruction(first, _operands(rest))
        if self.offset > MAX_HOST_CODE:
            raise first.place.error(f"the code is longer than {MAX_HOST_CODE} bytes")

    def _label(self, token: Token) -> None:
        if token.text.startswith(".") or register(token.text):
            raise token.place.error(f"a label cannot be called {token.text!r}: that is a register or a directive")
        if token.text in self.labels:
            before = self.labels[token.text][1].line
            raise token.place.error(f"the label {token.text!r} is already in line {before}; labels stand once")
        self.labels[token.text] = self.offset, token.place

    def _add(self, line: _Line) -> None:
        self.lines.append(line)
        self.offset += line.size()

    def _instruction(self, word: Token, given: list[Token]) -> None:
        op = BY_NAME.get(word.text.upper())
        if op is None:
            raise word.place.error(f"unknown mnemonic {word.text!r}{suggestion(word.text.upper(), BY_NAME)}")
        if Operand.DATA in op.operands:
            payload = b"".join(_bytes_of(token, 1) for token in given)
            if len(payload) > Operand.DATA.high:
                raise word.place.error(f"a payload of {len(payload)} bytes, expected at most {Operand.DATA.high}")
            self._add(_Line(word.place, self.offset, op, [payload]))
            return
        tokens = _completed(op, word, given)
        pairs = zip(op.operands, tokens, strict=True)
        self._add(_Line(word.place, self.offset, op, [_operand(kind, token) for kind, token in pairs]))

    # --- directives ---------------------------------------------------------------------------------------------------

    def _numbers(self, word: Token, given: list[Token]) -> None:
        size = {".byte": 1, ".word": 2, ".dword": 4}[word.text.lower()]
        if not given:
            raise word.place.error(f"{word.text} without numbers, expected at least one")
        self._add(_Line(word.place, self.offset, data=b"".join(_bytes_of(token, size) for token in given)))

    def _strings(self, word: Token, given: list[Token]) -> None:
        if not given or any(token.kind != "string" for token in given):
            raise word.place.error(f'{word.text} expects strings in double quotes, as in {word.text} "text"')
        end = b"\0" if word.text.lower() == ".asciz" else b""
        self._add(_Line(word.place, self.offset, data=b"".join(token.string() + end for token in given)))

    def _fill(self, word: Token, given: list[Token]) -> None:
        if len(given) not in (1, 2):
            raise word.place.error(f".fill has {len(given)} operands, expected a count and, if not 0, a byte")
        count = _number(given[0], 0, MAX_HOST_CODE, "a count")
        value = _bytes_of(given[1], 1) if len(given) == 2 else b"\0"
        self._add(_Line(word.place, self.offset, data=value[:1] * count))

    def _name(self, word: Token, given: list[Token]) -> None:
        name = given[0].string().decode(errors="replace") if given and given[0].kind == "string" else ""
        if len(given) == 1 and given[0].kind == "word":
            name = given[0].text
        if len(given) != 1 or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise word.place.error(f".name expects one word, or a text in quotes, of 1 to {MAX_NAME} characters")
        if self.name:
            raise word.place.error(f"a second .name; the program is called {self.name!r} already")
        self.name = name

    def _result(self, word: Token, given: list[Token]) -> None:
        if len(given) != 1 or given[0].text.upper() not in ("R0", "F0"):
            found = " ".join(token.text for token in given) or "nothing"
            raise word.place.error(f".result {found}, expected R0 (the score is R0 / 65536) or F0")
        if self.result:
            raise word.place.error(f"a second .result; it is {self.result} already")
        self.result = given[0].text.upper()

    def _const(self, word: Token, given: list[Token]) -> None:
        if len(given) != 2:
            raise word.place.error(f".const has {len(given)} operands, expected a register and a number: .const F8 0.7")
        found = register(given[0].text)
        if found is None or found[0] == "V":
            raise given[0].place.error(f"found {given[0].text!r}, expected a register such as R8 or F8")
        bank, number = found
        value = given[1].integer() if bank == "R" else given[1].real()
        if value is None:
            kind = "a whole number" if bank == "R" else "a number"
            raise given[1].place.error(f"found {given[1].text!r}, expected {kind} for {bank}{number}")
        if number in (self.gp if bank == "R" else self.fp):
            raise given[0].place.error(f"a second .const for {bank}{number}")
        problem = constant_problem(bank, number, value, ABI_GP if bank == "R" else ABI_FP)
        if problem:
            raise given[0].place.error(f"{bank}{number}: {problem}")
        if isinstance(value, int):
            self.gp[number] = value
        else:
            self.fp[number] = value

    # --- second pass --------------------------------------------------------------------------------------------------

    def _encoded(self, line: _Line) -> bytes:
        if line.op is None:
            return line.data
        end = line.offset + line.size()
        return encode(line.op, [self._distance(v, end) if isinstance(v, Token) else v for v in line.operands])

    def _distance(self, token: Token, end: int) -> int:
        """From the end of a jump to the label."""
        if token.text not in self.labels:
            raise token.place.error(f"unknown label {token.text!r}{suggestion(token.text, self.labels)}")
        distance = self.labels[token.text][0] - end
        if not Operand.REL.low <= distance <= Operand.REL.high:
            raise token.place.error(f"{token.text!r} is {distance} bytes away, expected -32768 to 32767")
        return distance


# --- operands --------------------------------------------------------------------------------------------------------


def _operands(tokens: list[Token]) -> list[Token]:
    """Tokens without the commas between them."""
    found: list[Token] = []
    comma: Token | None = None
    for token in tokens:
        if token.text == ",":
            if comma is not None or not found:
                raise token.place.error("found a comma, expected an operand")
            comma = token
        elif token.kind == "mark":
            raise token.place.error(f"unexpected {token.text!r}; a label stands at the beginning of its line")
        else:
            found.append(token)
            comma = None
    if comma is not None:
        raise comma.place.error("a comma without an operand behind it")
    return found


def _completed(op: Opcode, word: Token, given: list[Token]) -> list[Token]:
    """The operands with those that may be left out."""
    kinds = op.operands
    if len(given) == len(kinds) - 1:
        if kinds in _REPEATED or op.name in _REPEATED_PAIRS:
            return [*given[:1], *given]
        if Operand.PAD in kinds:
            filler = Token("number", "0", word.place)
            at = kinds.index(Operand.PAD)
            return [*given[:at], filler, *given[at:]]
    if len(given) != len(kinds):
        wanted = " ".join(_described(kind).split(" (")[0] + "," for kind in kinds).rstrip(",") or "none"
        place = given[len(kinds)].place if len(given) > len(kinds) else word.place
        raise place.error(f"{op.name} has {len(given)} operands, expected {len(kinds)}: {wanted}")
    return given


def _described(kind: Operand) -> str:
    if kind.bank:
        return _BANKS[kind.bank]
    if kind in NAMES:
        return f"a condition ({', '.join(NAMES[kind])})"
    if kind is Operand.REL:
        return "a label or a distance in bytes"
    return f"a number from {kind.low} to {kind.high}"


def _operand(kind: Operand, token: Token) -> int | Token:
    """The number that an operand stands for; the token itself where it is a label."""
    if kind.bank or (kind is Operand.PAD and token.kind == "word"):
        found = register(token.text)
        banks = "RF" if kind is Operand.FR else "R" if kind is Operand.PAD else kind.bank
        if found is None or found[0] not in banks:
            raise token.place.error(f"found {token.text!r}, expected {_BANKS[banks[-1]]}")
        return found[1]
    if kind in NAMES and token.text.upper() in NAMES[kind]:
        return NAMES[kind].index(token.text.upper())
    if kind is Operand.REL and token.kind == "word":
        return token
    return _number(token, kind.low, kind.high, _described(kind))


def _number(token: Token, low: int, high: int, wanted: str) -> int:
    value = token.integer()
    if value is None:
        raise token.place.error(f"found {token.text!r}, expected {wanted}")
    if not low <= value <= high:
        raise token.place.error(f"{token.text} is out of range, expected {low} to {high}")
    return value


def _bytes_of(token: Token, size: int) -> bytes:
    """A string, or a number of so many bytes, with or without sign."""
    if token.kind == "string":
        return token.string()
    value = _number(token, -(1 << (8 * size - 1)), (1 << (8 * size)) - 1, "a number or a string in double quotes")
    return (value % (1 << (8 * size))).to_bytes(size, "little")
