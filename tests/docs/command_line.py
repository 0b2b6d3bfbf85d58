"""The option tables of docs/command-line.md, written from the command lines' own parsers.

python -m tests.docs.command_line        writes them into the page again, after an option has changed
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"
COMMANDS = ("run", "info", "bench", "quantize", "flux", "train")
FIRST_WORDS = {"train": ("merge",)}
"""Commands whose first word may be one of these, with a parser of its own: flux_vk.cli.COMMAND.WORD.parser()."""
END = "<!-- end of the table -->"


class _Found(Exception):
    """Carries the parser out of a command's main()."""


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of `python -m flux_vk.COMMAND`, whatever it is called inside."""

    def caught(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Found(self)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", caught):
        try:
            module = importlib.import_module(f"flux_vk.{command}")
            if not hasattr(module, "main"):  # a room that can be run
                module = importlib.import_module(f"flux_vk.{command}.__main__")
            module.main([])
        except _Found as found:
            parser = found.args[0]
            assert isinstance(parser, argparse.ArgumentParser)
            return parser
    raise AssertionError(f"flux_vk.{command}.main() parses no options")


def parsers(command: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """(words after `python -m flux_vk.`, parser): one, or one for each subcommand."""
    parser = parser_of(command)
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield command, parser
    for action in inner:
        for name, sub in action.choices.items():
            yield f"{command} {name}", sub
    for word in FIRST_WORDS.get(command, ()):
        yield f"{command} {word}", importlib.import_module(f"flux_vk.cli.{command}.{word}").parser()


def rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """(how it is written, what it does) of every argument but --help."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = "" if action.nargs == 0 else str(action.metavar or "")
        if action.choices is not None:
            value = value or "{" + ",".join(str(c) for c in action.choices) + "}"
        if action.option_strings and not value and action.nargs != 0:
            value = action.dest.upper()
        if isinstance(action, argparse.BooleanOptionalAction):
            value = ""
        names = list(action.option_strings) or [value or action.dest]
        if action.option_strings and value:
            names[-1] += f" {value}"
        written = ", ".join(f"`{name}`" for name in names)
        if not action.option_strings and action.nargs == "?":
            written = f"[{written}]"
        yield written, " ".join((action.help or "").replace("%%", "%").split())


def table(words: str, parser: argparse.ArgumentParser) -> str:
    """One table between its two marks."""
    lines = [start_mark(words), "", "| | |", "|---|---|"]
    lines += [f"| {written} | {text} |" for written, text in rows(parser)]
    return "\n".join([*lines, "", END])


def start_mark(words: str) -> str:
    return f"<!-- options of {words}; written by `python -m tests.docs.command_line` -->"


def written(page: str) -> str:
    """The page with all its tables made afresh. ValueError where a command has no place on it."""
    for command in COMMANDS:
        for words, parser in parsers(command):
            pattern = re.escape(start_mark(words)) + r".*?" + re.escape(END)
            fresh = table(words, parser)
            page, n = re.subn(pattern, lambda _, fresh=fresh: fresh, page, flags=re.S)  # type: ignore[misc]
            if n != 1:
                raise ValueError(f"{PAGE.name} has {n} tables for {words}; expected once:\n{start_mark(words)}\n{END}")
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
