"""Grammars and JSON schemas that a text must follow: checked when they are given, matched token by token.

The work is done by the library `llguidance` (the extra `grammar`). Here stand texts, files and messages. Not for:
matching tokens (matching.py).
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flux_vk.errors import FluxError, GrammarError
from flux_vk.text.gbnf import is_gbnf, plain_escapes

if TYPE_CHECKING:
    import llguidance

log = logging.getLogger("flux_vk.text")

Kind = Literal["json-schema", "lark", "gbnf", "regex"]
MAX_BYTES = 4 << 20
_ENDINGS: dict[str, Kind] = {".json": "json-schema", ".lark": "lark", ".gbnf": "gbnf", ".regex": "regex"}
_KINDS = {"json-schema": "a JSON schema", "lark": "a Lark grammar", "gbnf": "a GBNF grammar", "regex": "an expression"}
_DENSE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LOOSE = {"whitespace_pattern": r"[ \n\r\t]{1,32}"}


def library() -> Any:
    """The module llguidance. Raises FluxError that says how to install it."""
    try:
        import llguidance
    except ImportError as error:
        raise FluxError(
            f"grammars and JSON schemas need the package llguidance ({error}): pip install 'flux_vk[grammar]'"
        ) from None
    return llguidance


def limits() -> llguidance.LLParserLimits:
    """The library's own limits, with messages that do not tell a parser's state."""
    found: llguidance.LLParserLimits = library().LLParserLimits(verbose_errors=False)
    return found


@dataclass(frozen=True, eq=False)
class Grammar:
    """What a text must follow, whatever the model. Make one with `from_json_schema`, `from_text`, `from_file` or
    `regex`; each raises GrammarError where it is malformed, unsupported or cannot be met.

    name: how messages call it. source: the form that the library takes.
    """

    name: str
    kind: Kind
    source: str

    @classmethod
    def from_json_schema(
        cls, schema: str | Mapping[str, Any] | bool, *, name: str = "the JSON schema", whitespace: bool = False
    ) -> Grammar:
        """JSON that satisfies a schema (text or object).

        whitespace: False writes ", " and ": " and no other white space between values, as Python's json.dumps does;
        True leaves it to the model, up to 32 characters in a row. A key "x-guidance" in the schema goes before it.
        """
        found = _parsed(schema, name) if isinstance(schema, str) else schema
        if found is False:
            raise GrammarError(f"{name}: the schema is false, which no text satisfies; give an object")
        if found is True:
            found = {}
        if not isinstance(found, Mapping):
            raise GrammarError(f"{name}: found {type(found).__name__}, expected a JSON schema: an object")
        try:
            text = json.dumps(dict(found))
            source = library().LLMatcher.grammar_from_json_schema(text, defaults=_LOOSE if whitespace else _DENSE)
        except (TypeError, ValueError) as error:
            raise GrammarError(f"{name}: {error}; expected a JSON schema") from None
        return cls(name, "json-schema", source)._checked()

    @classmethod
    def from_text(cls, text: str, *, name: str = "the grammar", kind: Kind | None = None) -> Grammar:
        """A grammar in llama.cpp's notation (GBNF: rules `name ::= ...`, beginning with `root`) or in Lark as
        llguidance has it (`name: ...`, beginning with `start`). Which of the two is seen from the rules unless `kind`
        says it.
        """
        kind = kind or ("gbnf" if is_gbnf(text) else "lark")
        if kind == "json-schema":
            return cls.from_json_schema(text, name=name)
        if kind == "regex":
            return cls.regex(text, name=name)
        if not text.strip():
            raise GrammarError(f"{name}: found no text, expected a grammar")
        if kind == "gbnf":
            text = _lark_of(text, name)
        return cls(name, kind, library().LLMatcher.grammar_from_lark(text))._checked()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], kind: Kind | None = None) -> Grammar:
        """A grammar file: .gbnf, .lark, .json (a JSON schema) or .regex; others are looked at as in `from_text`."""
        name, place = os.fspath(path), Path(path)
        kind = kind or _ENDINGS.get(place.suffix.lower())
        try:
            with place.open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise GrammarError(f"{name}: cannot be read ({reason}); check path and permissions") from None
        if len(data) > MAX_BYTES:
            raise GrammarError(f"{name}: more than {MAX_BYTES} bytes; expected a grammar or a JSON schema")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise GrammarError(f"{name}: byte {error.start} is not UTF-8; expected a text file") from None
        return cls.from_text(text.removesuffix("\n") if kind == "regex" else text, name=name, kind=kind)

    @classmethod
    def regex(cls, pattern: str, *, name: str = "the regular expression") -> Grammar:
        """The whole text matches a regular expression (Rust's syntax: no look-around, no back-references)."""
        return cls(name, "regex", library().LLMatcher.grammar_from_regex(pattern))._checked()

    def _checked(self) -> Grammar:
        failed, messages = library().LLMatcher.validate_grammar_with_warnings(self.source, limits=limits())
        if failed:
            raise GrammarError(self.refusal(messages[0] if messages else "unknown"))
        for message in messages:
            log.warning("%s: %s", self.name, message)
        return self

    def refusal(self, message: str) -> str:
        """What the library says against this grammar, as one line with what to do."""
        place, said = "", _one_line(message)
        at = re.match(r"at (\d+)\((\d+)\): |(\d+)\((\d+)\): ", said)
        if at:
            said = said[at.end() :]
            if self.kind == "lark":
                line, column = (g for g in at.groups() if g)
                place = f"line {line}, column {column}: "
        return f"{self.name}: {place}{said}; {_hint(said, self.kind)}"


def _one_line(message: str) -> str:
    """The first paragraph of a message, without the library's view of the text around the place."""
    lines = message.replace("<non-verbose/>", "").splitlines()
    kept = [line.strip() for line in lines if not re.match(r"\s*(\d+ \||\^+\s*$|\|)", line)]
    return " ".join(filter(None, kept))[:500] or "no reason was given"


def _hint(said: str, kind: Kind) -> str:
    if "Unimplemented keys" in said:
        return 'remove these keys, or let them be ignored with "x-guidance": {"lenient": true} in the schema'
    if "Unsatisfiable" in said or "NoExtension" in said:
        return "no text follows it: look for parts that contradict each other or never end"
    if "Too many items" in said or "fuel" in said or "too complex" in said.lower():
        return "it never ends or is too complex: make rules end, and strings and numbers whole terminals"
    return f"expected {_KINDS[kind]} as docs/grammar.md describes it"


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise GrammarError(f"{name}: {error}; expected a JSON schema") from None
    except RecursionError:
        raise GrammarError(f"{name}: nested too deeply; expected a JSON schema") from None


def _lark_of(text: str, name: str) -> str:
    library()
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return gbnf_to_lark(plain_escapes(text))
    except Exception as error:  # the converter raises plain exceptions
        said = " ".join(str(error).split())
        raise GrammarError(f"{name}: {said}; expected a GBNF grammar as docs/grammar.md describes it") from None
