"""--grammar and --json-schema: what a text must follow. Not for: what is done with it (flux_vk.text.grammar)."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flux_vk.cli.common import text

if TYPE_CHECKING:
    from flux_vk.engine.generation import Generation
    from flux_vk.text import Grammar


@dataclass(frozen=True)
class GrammarFile:
    """A file that was named. schema: it is a JSON schema whatever it is called."""

    path: str
    schema: bool = False

    def read(self) -> Grammar:
        """The grammar, checked. Raises GrammarError; FluxError where llguidance is not installed."""
        from flux_vk.text import Grammar

        return Grammar.from_file(self.path, kind="json-schema" if self.schema else None)


def add_grammar_options(parser: argparse.ArgumentParser) -> None:
    """A group with the two options, of which one may be given."""
    group = parser.add_argument_group("grammar (needs the extra `grammar`)").add_mutually_exclusive_group()
    group.add_argument(
        "--grammar", type=text("a path"), metavar="FILE", help="the text follows this grammar (.gbnf, .lark, .regex)"
    )
    group.add_argument(
        "--json-schema", type=text("a path"), metavar="FILE", help="the text is JSON that satisfies this schema"
    )


def grammar_file(args: argparse.Namespace) -> GrammarFile | None:
    """What the two options say."""
    if args.json_schema is not None:
        return GrammarFile(args.json_schema, schema=True)
    return None if args.grammar is None else GrammarFile(args.grammar)


def cut_note(generation: Generation) -> str | None:
    """What to say where a text ended before its grammar did."""
    why = {
        "length": "-n N allows more tokens", "context": "-c or --context-shift makes room for more",
        "cancelled": "it was interrupted",
    }.get(generation.finish_reason or "")  # fmt: skip
    if why is None:
        return None
    return f"(only the beginning of what the grammar asks for, {len(generation.tokens)} tokens: {why})"
