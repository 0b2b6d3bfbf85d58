"""`asm`: source to raw bytecode. Not for: judging it (check)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flux_vk.errors import InputError
from flux_vk.files import write_whole

NAME = "asm"
HELP = "assemble a .flx source into a file of raw bytecode"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SOURCE, where to write, or only to show."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a .flx source")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: SOURCE with the ending .bin")
    parser.add_argument("--hex", action="store_true", help="print the bytes as hexadecimal digits, write no file")


def run(args: argparse.Namespace) -> int:
    """Assemble, then write or print."""
    from flux_vk.flux import load_program
    from flux_vk.flux.assembler import is_source

    if not is_source(args.source):
        raise InputError(f"{args.source}: not named as a source, expected a name that ends in .flx")
    program = load_program(args.source)
    if args.hex:
        print(program.code.hex())
        return 0
    output = args.output or args.source.with_suffix(".bin")
    if is_source(output):
        raise InputError(f"{output}: bytecode cannot be read back from a .flx file, choose another ending")
    write_whole(output, program.code)
    print(f"{output}: {len(program.code)} bytes", file=sys.stderr)
    if program.gp or program.fp or program.result != "R0":
        note = "raw bytecode holds neither .const nor .result; load the source where they are needed"
        print(f"{args.source}: {note}", file=sys.stderr)
    return 0
