"""Random texts that a grammar allows, drawn from its masks without a model, and schemas to draw them from."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from flux_vk.text.matching import Matcher

NUMBER = {"type": "integer", "minimum": -9, "maximum": 99999}  # without bounds a small model may never end one
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["man", "woman", 3, None, "\u00e9t\u00e9 \"x\""]},
        "home": {
            "type": "object",
            "properties": {"street": {"type": "string", "minLength": 1, "maxLength": 6}, "number": NUMBER},
            "required": ["street"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "kind", "home"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "person": PERSON,
    "numbers": {
        "type": "array", "minItems": 1, "maxItems": 4,
        "items": {"anyOf": [{"type": "integer", "minimum": -5, "maximum": 1500}, {"type": "number", "maximum": 2.5}]},
    },
    "strings": {
        "type": "array", "minItems": 2, "maxItems": 3,
        "items": {"type": "string", "pattern": "^[A-Z][a-z\u00e4\u20ac\\\\\"]{0,5}$"},
    },
    "nested": {
        "$defs": {"tree": {
            "type": "object", "properties": {"v": {"type": "boolean"}, "l": {"$ref": "#/$defs/leaf"}},
            "required": ["v"], "additionalProperties": False,
        }, "leaf": {"anyOf": [{"type": "null"}, {"const": [1, {"a": "b"}]}]}},
        "type": "object", "properties": {"tree": {"$ref": "#/$defs/tree"}}, "required": ["tree"],
        "patternProperties": {"^x[a-z\u00e9]{0,4}$": NUMBER}, "maxProperties": 3, "additionalProperties": False,
    },
    "dates": {"type": "object", "properties": {"at": {"type": "string", "format": "date"}}, "required": ["at"],
              "additionalProperties": False},
}  # fmt: skip
LIST = r"""# a list as llama.cpp's own example has it
root ::= item{1,4}
item ::= "- " [^\r\n\x0b\x0c\u0085\u2028\u2029]{1,12} "\n"
"""
ARITHMETIC = r"""
root  ::= (expr "=" ws term "\n"){1,2}
expr  ::= term ([-+*/] term){0,3}
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]{0,5} ws
num   ::= [0-9]{1,4} ws
ws    ::= [ \t\n]?
"""
LARK = r"""start: greeting " " NAME "!"
greeting: "hello" | "he" "llo"? | "caf\u00e9"
NAME: /[a-z\u00e4]{1,9}/
"""


def is_list(text: str) -> bool:
    """What LIST describes."""
    return re.fullmatch("(- [^\r\n\x0b\x0c\x85\u2028\u2029]{1,12}\n){1,4}", text) is not None


def is_arithmetic(text: str) -> bool:
    """What ARITHMETIC describes, by a parser of the test's own."""
    at = 0

    def skip() -> None:
        nonlocal at
        at += at < len(text) and text[at] in " \t\n"

    def term() -> bool:
        nonlocal at
        if text[at : at + 1] == "(":
            at += 1
            skip()
            if not expr() or text[at : at + 1] != ")":
                return False
            at += 1
        else:
            found = re.compile(r"[a-z][a-z0-9_]{0,5}|[0-9]{1,4}").match(text, at)
            if not found:
                return False
            at = found.end()
        skip()
        return True

    def expr() -> bool:
        nonlocal at
        if not term():
            return False
        for _ in range(3):
            if text[at : at + 1] not in tuple("-+*/"):
                break
            at += 1
            if not term():
                return False
        return True

    for _ in range(2):
        if not expr() or text[at : at + 1] != "=":
            return False
        at += 1
        skip()
        if not term():
            return False
        # The term's own white space may have been the newline that ends the line.
        if text[at : at + 1] == "\n":
            at += 1
        elif text[at - 1] != "\n":
            return False
        if at == len(text):
            return True
    return False


def allowed(matcher: Matcher) -> list[int]:
    """Ids of a matcher's mask."""
    return np.flatnonzero(np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")).tolist()


def walk(matcher: Matcher, rng: np.random.Generator, ends: frozenset[int], most: int = 400) -> tuple[list[int], bool]:
    """Tokens drawn evenly from the masks until the text ends (True) or has `most`."""
    tokens: list[int] = []
    while len(tokens) < most:
        token = int(rng.choice(allowed(matcher)))
        if token in ends:
            return tokens, True
        matcher.accept(token)
        tokens.append(token)
        if matcher.finished:
            return tokens, True
    return tokens, False
