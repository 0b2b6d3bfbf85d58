"""The command line of FLUX programs: one module of this folder for each subcommand.

A module has NAME, HELP, add_arguments(parser) and run(args) -> exit code; those whose name begins with _ are no
subcommands. They import little at the top, since every one is loaded for --help.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol, cast

from flux_vk.cli.common import Parser, guarded

# Subcommands in the order in which help shows them; others follow by name.
ORDER = ("asm", "dis", "run", "check", "embed", "similarity", "demo", "evolve", "explain")


class Command(Protocol):
    """What a module of this folder offers."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the subcommand's options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit code."""


def commands() -> list[Command]:
    """The subcommands that are there."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    found = [cast(Command, importlib.import_module(f"{__name__}.{name}")) for name in names]
    return sorted(found, key=lambda c: (ORDER.index(c.NAME) if c.NAME in ORDER else len(ORDER), c.NAME))


def parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    p = Parser(
        prog="python -m flux_vk.flux",
        description="Assemble, look into, run, check and compare FLUX programs.\nPROGRAM is a .flx source, a file of "
        "bytecode, or the name of a stock agent.",
        epilog="exit codes: 0 done, 1 a failure or a trapped program, 2 wrong options, sources or programs",
    )
    subparsers = p.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for command in commands():
        sub = subparsers.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.add_arguments(sub)
        sub.add_argument("--debug", action="store_true", help="debug log, and tracebacks with errors")
        sub.set_defaults(run=command.run)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    args = parser().parse_args(argv)
    return guarded(lambda: _run(args), args.debug)


def _run(args: argparse.Namespace) -> int:
    from flux_vk.logs import setup_logging

    setup_logging("debug" if args.debug else None)
    code: int = args.run(args)
    return code
