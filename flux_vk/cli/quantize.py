"""The command line of `python -m flux_vk.quantize`. Not for library use, which is `fx.quantize`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flux_vk.cli.common import Parser, guarded, human_bytes, text

if TYPE_CHECKING:
    from flux_vk.cli.terminal import Terminal
    from flux_vk.engine.quantize import Plan


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 after a failure, 2 for bad input."""
    args = _parser().parse_args(argv)
    return guarded(lambda: run(args), args.debug)


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m flux_vk.quantize",
        description="Write a GGUF model in another type, quantised on the device, with llama.cpp's rules for which "
        "tensor gets which type.",
        epilog="types: q4_k_m, q5_k_m, q6_k, q8_0, q4_0, f16, bf16, f32, the others of llama-quantize but the iq ones\n"
        "exit codes: 0 done, 1 a failure, 2 bad input",
    )
    p.add_argument("model", type=text("a GGUF file"), metavar="IN", help="the GGUF file, or any part of a split one")
    p.add_argument("out", type=text("a file to write"), metavar="OUT", help="the file to write")
    p.add_argument(
        "-t", "--type", default="q4_k_m", metavar="TYPE", help="q4_k_m (the default), q5_k_m, q6_k, q8_0, f16 ..."
    )
    p.add_argument("--pure", action="store_true", help="one type for all matrices, not the mixture")
    p.add_argument("--output-type", metavar="TYPE", help="type of the output matrix, or of the embedding that is one")
    p.add_argument("--allow-requantize", action="store_true", help="also from a model that is quantised already")
    p.add_argument("--dry-run", action="store_true", help="only show the types and sizes; needs no device")
    p.add_argument("--force", action="store_true", help="replace OUT where it is there already")
    p.add_argument("--device", type=text("an index or part of a name"), help="index or part of a name")
    p.add_argument("-q", "--quiet", action="store_true", help="nothing but errors")
    p.add_argument("--debug", action="store_true", help="debug log, and tracebacks with errors")
    return p


def run(args: argparse.Namespace) -> int:
    """Plan, show, write."""
    from flux_vk.cli.terminal import Terminal
    from flux_vk.engine import quantize as engine
    from flux_vk.formats.gguf import open_gguf
    from flux_vk.logs import setup_logging

    setup_logging("debug" if args.debug else None)
    terminal = Terminal(args.quiet)
    output_type = args.output_type.lower() if args.output_type else None
    with open_gguf(args.model) as f:
        work = engine.plan(f, args.type, pure=args.pure, output_type=output_type)
        if args.dry_run:
            terminal.write(listed(work))
            return 0
        engine.check_requantised(f, work, args.allow_requantize)
        if work.requantised:
            terminal.note(f"warning: {len(work.requantised)} tensors are quantised already and lose precision twice")
        started = time.perf_counter()
        with terminal.progress(f"Writing {args.out}", "bytes") as progress:
            engine.write_planned(f, args.out, work, force=args.force, device=args.device, progress=progress)
        report(terminal, args.out, work, time.perf_counter() - started)
    return 0


def report(terminal: Terminal, out: str, work: Plan, seconds: float) -> None:
    """What was written, in two lines on stderr."""
    terminal.note(f"{out}: {summary(work)}")
    kinds = ", ".join(f"{n} {name}" for name, n in work.counts.items())
    terminal.note(f"{kinds}; {seconds:.1f} s, {work.weights / max(seconds, 1e-9) / 1e6:.1f} M weights/s")


def summary(work: Plan) -> str:
    """ "540.0 MB (16.00 bits a weight) -> 160.2 MB (4.75 bits a weight)"."""
    sizes = (f"{human_bytes(n)} ({8 * n / work.weights:.2f} bits a weight)" for n in (work.before, work.after))
    return " -> ".join(sizes)


def listed(work: Plan) -> str:
    """A line for each tensor, and the sum."""
    from flux_vk.cli.tables import Row, aligned

    rows: list[Row] = []
    for t in work.tensors:
        shape, target = " x ".join(map(str, t.shape)), t.target if t.target != t.source else ""
        rows.append([t.name, shape, t.source, target, human_bytes(t.after)])
    return f"{aligned(['tensor', 'shape', 'from', 'to', 'size'], rows)}\n{summary(work)}\n"
