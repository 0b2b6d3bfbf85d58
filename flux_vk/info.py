"""`python -m flux_vk.info [FILE]`: this machine's devices and kernels, or what is in a file. See --help.

Not for library use.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flux_vk import __version__
from flux_vk.cli.common import Parser, guarded, text, whole


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 without a usable device, 2 for a broken file."""
    args = _parser().parse_args(argv)
    return guarded(lambda: run(args), args.debug)


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m flux_vk.info",
        description="Devices, limits, features, kernel variants and versions; with FILE: what a GGUF file holds and "
        "whether it would run here, or what a LoRA adapter changes.",
        epilog="exit codes: 0 done, 1 no usable device, 2 a broken file or an unknown device",
    )
    p.add_argument("file", nargs="?", type=text("a path"), metavar="FILE", help="a GGUF file or an adapter")
    p.add_argument("--verbose", action="store_true", help="with every kernel shape that `bench tune` has chosen here")
    p.add_argument("--json", action="store_true", help="one JSON object")
    p.add_argument("--device", type=text("an index or part of a name"), help="index or part of a name")
    p.add_argument("-c", "--context", type=whole(1), metavar="N", help="context for the memory needed by FILE")
    p.add_argument("--kv-type", choices=("f16", "f32"), default="f16", help="type of the key/value cache")
    p.add_argument("--debug", action="store_true", help="debug log, and tracebacks with errors")
    return p


def run(args: argparse.Namespace) -> int:
    """Collect and print."""
    from flux_vk.cli import info_adapter, info_device, info_file
    from flux_vk.cli.terminal import Terminal
    from flux_vk.logs import setup_logging

    setup_logging("debug" if args.debug else None)
    terminal = Terminal()
    shown: Callable[[dict[str, Any]], str]
    if args.file is not None and info_adapter.is_adapter(Path(args.file)):
        found, code, shown = info_adapter.collect(Path(args.file)), 0, info_adapter.as_text
    elif args.file is not None:
        found = info_file.collect(Path(args.file), args.device, args.context, args.kv_type)
        code = 0
        shown = info_file.as_text
    else:
        found = info_device.collect(args.device, __version__)
        code, shown = (1 if found["error"] else 0), partial(info_device.as_text, verbose=args.verbose)
    terminal.write((json.dumps(found, indent=2) if args.json else shown(found)) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
