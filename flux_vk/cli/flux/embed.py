"""`embed`: programs as vectors of 128 numbers."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

from flux_vk.cli.tables import Row, aligned
from flux_vk.files import write_whole

from ._programs import PROGRAM_HELP, find_program

NAME = "embed"
HELP = "print the embeddings of programs: normalised counts of operations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROGRAMs and where to."""
    parser.add_argument("programs", nargs="+", metavar="PROGRAM", help=PROGRAM_HELP)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write float32[programs, 128] as .npy")
    parser.add_argument("--json", action="store_true", help="one JSON object: all 128 numbers by program")


def run(args: argparse.Namespace) -> int:
    """Print what is not 0, or all numbers as JSON, or write them."""
    import numpy as np

    from flux_vk.flux import OPCODES, embed
    from flux_vk.flux.embedding import DIMENSIONS, counts

    programs = [find_program(text) for text in args.programs]
    vectors = np.array([embed(program) for program in programs])
    if args.output:
        file = io.BytesIO()
        np.save(file, vectors)
        write_whole(args.output, file.getvalue())
    if args.json:
        print(json.dumps({text: [float(v) for v in row] for text, row in zip(args.programs, vectors, strict=True)}))
    elif not args.output:
        names: dict[int, list[str]] = {}
        for byte, dimension in DIMENSIONS.items():
            names.setdefault(dimension, []).append(OPCODES[byte].name)
        for text, program, row in zip(args.programs, programs, vectors, strict=True):
            found = counts(program)
            used = [int(d) for d in np.flatnonzero(found)]
            rows: list[Row] = [[d, "/".join(names[d]), int(found[d]), f"{row[d]:.6f}"] for d in used]
            print(f"{text}:\n{aligned(['dimension', 'operation', 'count', 'value'], rows, '  ')}")
    return 0
