"""`dis`: a listing with labels, offsets and meanings. Not for: judging it (check)."""

from __future__ import annotations

import argparse

from ._programs import PROGRAM_HELP, find_program

NAME = "dis"
HELP = "print a program as assembler text, with offsets and meanings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROGRAM."""
    parser.add_argument("program", metavar="PROGRAM", help=PROGRAM_HELP)


def run(args: argparse.Namespace) -> int:
    """Print the listing."""
    from flux_vk.flux import disassemble

    print(disassemble(find_program(args.program)), end="")
    return 0
