"""Lines of assembler text as words with their places. Not for: what they mean (assembler.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ProgramError

_TOKEN = re.compile(
    r"(?P<space>[ \t\r\f\v]+|;.*|//.*)"
    r"|(?P<number>[+-]?(?:0[xX][0-9A-Fa-f_]+|0[bB][01_]+|(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.]))"
    r"|(?P<word>[A-Za-z_.][\w.]*)"
    r'|(?P<string>"(?:[^"\\]|\\.)*")'
    r"|(?P<mark>[,:])"
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", '"': '"', "\\": "\\"}


@dataclass(frozen=True)
class Place:
    """Where something stands in a source; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def error(self, message: str) -> ProgramError:
        """An error that begins with the place."""
        return ProgramError(f"{self.file}:{self.line}:{self.column}: {message}")


@dataclass(frozen=True)
class Token:
    """A word, a number, a string (with its quotes) or a mark."""

    kind: str
    text: str
    place: Place

    def integer(self) -> int | None:
        """The value of a whole number, decimal, 0x or 0b; else None."""
        if self.kind != "number":
            return None
        text = self.text.lower()
        try:
            return int(text, 0)
        except ValueError:
            pass
        try:
            return int(text)  # leading zeros
        except ValueError:
            return None

    def real(self) -> float | None:
        """The value of a number; else None."""
        whole = self.integer()
        if whole is not None:
            try:
                return float(whole)
            except OverflowError:
                return float("inf")
        try:
            return float(self.text) if self.kind == "number" else None
        except ValueError:
            return None

    def string(self) -> bytes:
        """The bytes of a string: UTF-8, with \\n \\t \\r \\0 \\" \\\\ and \\xNN. ProgramError for other escapes."""
        out = bytearray()
        text, at = self.text[1:-1], 0
        for found in _ESCAPE.finditer(text):
            out += text[at : found.start()].encode("utf-8", "replace")
            at = found.end()
            if found[1]:
                out.append(int(found[1], 16))
            elif found[2] in _ESCAPES:
                out += _ESCAPES[found[2]].encode()
            else:
                raise self.place.error(f"unknown escape \\{found[2]}, expected one of \\n \\t \\r \\0 \\\" \\\\ \\xNN")
        return bytes(out + text[at:].encode("utf-8", "replace"))


def scan(text: str, file: str) -> Iterator[tuple[Place, list[Token]]]:
    """(place of the line, its tokens) for each line that has any. Comments begin with ; or //."""
    for number, line in enumerate(text.split("\n"), 1):
        tokens: list[Token] = []
        at = 0
        while at < len(line):
            place = Place(file, number, at + 1)
            found = _TOKEN.match(line, at)
            if found is None:
                what = "a string without an end" if line[at] == '"' else f"unexpected {line[at]!r}"
                raise place.error(f"{what}; expected a label, a mnemonic, a register, a number or a comment")
            if found.lastgroup != "space":
                tokens.append(Token(found.lastgroup or "", found[0], place))
            at = found.end()
        if tokens:
            yield Place(file, number, 1), tokens
