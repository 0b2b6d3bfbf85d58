"""The command line of `python -m flux_vk.train merge`. Not for library use, which is `flux_vk.train.merging`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from flux_vk.cli.common import Parser, guarded, text


def main(argv: Sequence[str] | None = None) -> int:
    """The command line, without the word `merge`. Returns the exit code: 0, 1 after a failure, 2 for bad input."""
    args = parser().parse_args(argv)
    return guarded(lambda: run(args), args.debug)


def parser() -> argparse.ArgumentParser:
    """Its options."""
    p = Parser(
        prog="python -m flux_vk.train merge",
        description="Write a model with its adapters in its weights: W + (alpha / rank) B A, quantised on the device. "
        "Metadata, tokenizer and everything that no adapter changes stay.",
        epilog="exit codes: 0 done, 1 a failure, 2 bad input",
    )
    p.add_argument("model", type=text("a GGUF file"), metavar="MODEL", help="the GGUF model the adapter was made for")
    p.add_argument(
        "adapters", type=text("an adapter"), nargs="+", metavar="ADAPTER[:SCALE]",
        help="PEFT folder, .safetensors or GGUF LoRA; several are added up; SCALE multiplies its own alpha / rank",
    )  # fmt: skip
    p.add_argument("-o", "--out", type=text("a file to write"), metavar="FILE", required=True, help="the file to write")
    p.add_argument(
        "-t", "--type", metavar="TYPE", help="q4_k_m, q8_0, f16 ... for the file; default: each tensor keeps its own"
    )
    p.add_argument("--pure", action="store_true", help="with --type: one type for all matrices, not the mixture")
    p.add_argument("--output-type", metavar="TYPE", help="with --type: type of the output matrix")
    p.add_argument("--force", action="store_true", help="replace FILE where it is there already")
    p.add_argument("--device", type=text("an index or part of a name"), help="index or part of a name")
    p.add_argument("-q", "--quiet", action="store_true", help="nothing but errors")
    p.add_argument("--debug", action="store_true", help="debug log, and tracebacks with errors")
    return p


def run(args: argparse.Namespace) -> int:
    """Merge, and say what was written."""
    from flux_vk.cli.quantize import report
    from flux_vk.cli.terminal import Terminal
    from flux_vk.errors import InputError
    from flux_vk.logs import setup_logging
    from flux_vk.train.merging import merge

    setup_logging("debug" if args.debug else None)
    if args.type is None and (args.pure or args.output_type):
        raise InputError("--pure and --output-type say how --type is meant; give --type too")
    terminal = Terminal(args.quiet)
    started = time.perf_counter()
    with terminal.progress(f"Writing {args.out}", "bytes") as progress:
        work = merge(
            args.model, args.adapters, args.out, args.type, pure=args.pure,
            output_type=args.output_type.lower() if args.output_type else None,
            force=args.force, device=args.device, progress=progress,
        )  # fmt: skip
    report(terminal, args.out, work, time.perf_counter() - started)
    return 0
