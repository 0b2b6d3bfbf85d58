"""`similarity`: how alike programs are, as a table and a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flux_vk.cli.tables import aligned

from ._programs import PROGRAM_HELP, find_program

NAME = "similarity"
HELP = "print the cosine similarity of programs, or draw it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROGRAMs and a picture."""
    parser.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"{PROGRAM_HELP}; default: all stock agents"
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a heat map (png, svg or pdf); needs matplotlib")
    parser.add_argument("--json", action="store_true", help="one JSON object: names and matrix")


def run(args: argparse.Namespace) -> int:
    """Print the matrix; draw it where asked for."""
    from flux_vk.flux import STOCK, heat_map, similarity

    names = args.programs or list(STOCK)
    matrix = similarity([find_program(text) for text in names])
    if args.plot:
        heat_map(args.plot, [Path(name).stem for name in names], matrix)
    if args.json:
        print(json.dumps({"programs": names, "similarity": [[float(v) for v in row] for row in matrix]}))
    else:
        rows = [[name, *(f"{value:.3f}" for value in row)] for name, row in zip(names, matrix, strict=True)]
        print(aligned(["", *names], rows))
    return 0
