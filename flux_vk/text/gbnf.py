"""llama.cpp's grammar notation (GBNF), prepared for the converter of `llguidance`, which turns it into Lark.

The converter leaves escapes as they are, and Lark's strings and expressions read some of them differently. Here they
become the characters that they stand for, or forms that both read alike. Not for: checking rules (the converter does).
"""

from __future__ import annotations

import re

_RULE = re.compile(r"^[ \t]*[A-Za-z0-9_-]+[ \t]*::=", re.MULTILINE)
_PARTS = re.compile(
    r"""(?P<comment>\#[^\r\n]*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])|(?P<any>\.)""", re.VERBOSE
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_IN_TEXT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_IN_SET = {**_IN_TEXT, '"': '"', "[": "\\[", "]": "\\]", "&": "\\x26", "~": "\\x7e", "^": "\\x5e", "-": "\\x2d"}
_LITERAL = {"n": "\n", "r": "\r", "t": "\t"}
ANY = "[\\x00-\U0010ffff]"  # the dot of GBNF takes a newline too


def is_gbnf(text: str) -> bool:
    """Whether a grammar has a rule of the form `name ::= ...`."""
    return _RULE.search(text) is not None


def plain_escapes(text: str) -> str:
    """The same grammar with escapes that Lark reads as GBNF means them."""
    return _PARTS.sub(_part, text)


def _part(match: re.Match[str]) -> str:
    found = match.group()
    if match.lastgroup == "comment":
        return found
    if match.lastgroup == "any":
        return ANY
    if match.lastgroup == "set":
        inner = found[1:-1]
        negated, inner = ("^", inner[1:]) if inner.startswith("^") else ("", inner)
        inner = re.sub(r"[&~]", lambda m: _IN_SET[m.group()], inner)
        return f"[{negated}{_ESCAPE.sub(lambda m: _spelled(m, _IN_SET), inner)}]"
    return _text(found[1:-1])


def _text(inner: str) -> str:
    """A string; a control character in it, which a Lark string cannot hold, becomes a set of one."""
    spelled = _ESCAPE.sub(lambda m: _spelled(m, _IN_TEXT), inner)
    pieces = re.split(r"(\\x[0-9a-f]{2})", spelled)
    if len(pieces) == 1:
        return f'"{spelled}"'
    return "(" + " ".join(f"[{p}]" if p.startswith("\\x") else f'"{p}"' for p in pieces if p) + ")"


def _spelled(match: re.Match[str], special: dict[str, str]) -> str:
    code = next((g for g in match.groups()[:3] if g), None)
    letter = match.group(4)
    if code is None and letter not in _LITERAL and letter not in '"\\[]':
        return match.group()  # the converter says that there is no such escape
    char = chr(min(int(code, 16), 0x10FFFF)) if code else _LITERAL.get(letter, letter)
    if char in special:
        return special[char]
    return f"\\x{ord(char):02x}" if ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 else char
