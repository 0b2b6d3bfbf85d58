"""`python -m flux_vk.bench kernels|model|scale|dispatch|tune|peers|train`: how fast things are. See --help.

Not for library use, and not a test: results are checked, speeds are only told.
docs/benchmarks.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from flux_vk.cli import bench_options
from flux_vk.cli.common import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 for a wrong result or a failure, 2 for options and files."""
    args = bench_options.parser().parse_args(argv)
    return guarded(lambda: run(args), args.debug)


def run(args: argparse.Namespace) -> int:
    """What the subcommand's module does."""
    from flux_vk.logs import setup_logging

    setup_logging("debug" if args.debug else None)
    action: Callable[[argparse.Namespace], int] = importlib.import_module(args.module).main
    return action(args)


if __name__ == "__main__":
    sys.exit(main())
