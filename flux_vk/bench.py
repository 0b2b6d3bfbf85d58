"""`python -m flux_vk.bench kernels|model|tune`: how fast kernels and models are on this device. See --help.

Not for library use, and not a test: results are checked, speeds are only told.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flux_vk.cli.common import Parser, guarded, human_bytes, text, whole
from flux_vk.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 for a wrong result or a failure, 2 for options and files."""
    args = _parser().parse_args(argv)
    action: Callable[[argparse.Namespace], int] = args.action
    return guarded(lambda: action(args), args.debug)


def _parser() -> argparse.ArgumentParser:
    p = Parser(prog="python -m flux_vk.bench", description="Benchmarks. Results are checked before anything is timed.")
    commands = p.add_subparsers(dest="command", required=True, metavar="kernels|model|tune")
    k = commands.add_parser("kernels", help="single kernels at model shapes", description="Time single kernels.")
    k.set_defaults(action=run_kernels)
    k.add_argument("--kernel", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    k.add_argument("--type", action="append", metavar="TYPE", help="weights; repeatable; default q4_k q6_k q8_0 q5_0")
    k.add_argument("--rows", type=_numbers, default=[1, 64], metavar="N,N", help="rows (tokens) at once; default 1,64")
    k.add_argument("--shape", default="qwen2.5-0.5b", help="sizes: qwen2.5-0.5b (default), llama-3.2-1b, demo")
    k.add_argument("--context", type=whole(1, 1 << 20), default=512, metavar="N", help="keys in attention; default 512")
    k.add_argument("--repeat", type=whole(1, 10_000), default=7, metavar="N", help="samples; default 7")
    k.add_argument("--warm", action="store_true", help="the same memory every time, so that caches may hold it")
    m = commands.add_parser("model", help="a GGUF model", description="Time a model: prompts, generation, memory.")
    m.set_defaults(action=run_model)
    m.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="GGUF file; default: the demo model")
    m.add_argument("--pp", type=_numbers, default=[64, 128], metavar="N,N", help="prompt lengths; default 64,128")
    m.add_argument("--tg", type=_numbers, default=[32], metavar="N,N", help="tokens to generate; default 32")
    m.add_argument("--depth", type=whole(1), default=8, metavar="N", help="prompt in front of --tg; default 8")
    m.add_argument("-c", "--context", type=whole(1), metavar="N", help="tokens of context")
    m.add_argument("--kv-type", choices=("f16", "f32"), default="f16", help="type of the key/value cache")
    m.add_argument("--repeat", type=whole(1, 10_000), default=3, metavar="N", help="samples; default 3")
    m.add_argument("--check", action="store_true", help="greedy tokens must agree in two runs")
    t = commands.add_parser(
        "tune", help="find the fastest kernel shapes for a model", description="Measure the shapes of a model's matrix "
        "products on this device and keep the best for later runs. Results stay the same to the last bit.",
    )  # fmt: skip
    t.set_defaults(action=run_tune)
    t.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="GGUF file; default: the demo model")
    t.add_argument("--repeat", type=whole(1, 10_000), default=9, metavar="N", help="samples; default 9")
    t.add_argument("--forget", action="store_true", help="forget everything measured on this device, and stop")
    for sub in (k, m, t):
        sub.add_argument("--device", type=text("an index or part of a name"), help="index or name part")
        sub.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the random data; default 0")
        sub.add_argument("--format", choices=("md", "csv", "json", "text"), default="text", help="default: text")
        sub.add_argument("--out", type=Path, metavar="FILE", help="write the table there instead of stdout")
        sub.add_argument("--debug", action="store_true", help="debug log, and tracebacks with errors")
    return p


def _numbers(value: str) -> list[int]:
    """"1,64" -> [1, 64]; "0" -> [] (none)."""
    read = whole(0, 1 << 20)
    found = [read(part) for part in value.split(",")]
    return [n for n in dict.fromkeys(found) if n]


def run_kernels(args: argparse.Namespace) -> int:
    """`bench kernels`."""
    from flux_vk.cli import bench_cases, bench_kernels
    from flux_vk.formats.blocks import runnable
    from flux_vk.gpu import Device
    from flux_vk.logs import setup_logging

    setup_logging("debug" if args.debug else None)
    types = [runnable(t.lower()).name for t in args.type or ("q4_k", "q6_k", "q8_0", "q5_0")]
    if args.shape not in bench_cases.SHAPES:
        raise InputError(f"--shape {args.shape}: expected one of {', '.join(bench_cases.SHAPES)}")
    device = Device(args.device)
    every = bench_cases.cases(bench_cases.SHAPES[args.shape], args.rows, types, args.context)
    chosen = bench_cases.chosen(every, args.kernel)
    results = list(
        bench_kernels.run(
            device, chosen, repeat=args.repeat, warm=args.warm, seed=args.seed, progress=_progress(args, len(chosen))
        )
    )
    if not results:
        raise InputError("no case is left to measure: see --kernel, --type, --rows")
    facts = {"device": device.name, "driver": device.info["driver"], "shape": args.shape, "warm": args.warm}
    note = bench_kernels.note(results)
    _write(args, facts, bench_kernels.HEADER, [r.row() for r in results], note)
    return 0


def run_model(args: argparse.Namespace) -> int:
    """`bench model`."""
    from flux_vk.cli import bench_model
    from flux_vk.cli.options import demo_model
    from flux_vk.cli.terminal import Terminal
    from flux_vk.engine.model import load
    from flux_vk.logs import setup_logging

    setup_logging("debug" if args.debug else None)
    path = args.model or demo_model()
    with Terminal().progress(f"Loading {path.name}", "bytes") as progress:
        model = load(path, args.device, args.context, args.kv_type, sequences=1, progress=progress)
    with model:
        found = bench_model.run(
            model, args.pp, args.tg, depth=args.depth, repeat=args.repeat, seed=args.seed, check=args.check,
            progress=_progress(args, 0),
        )  # fmt: skip
        facts = bench_model.facts(model, path)
    if args.check:
        facts["check"] = "greedy tokens agree in two runs"
    _write(args, facts, bench_model.HEADER, [m.row() for m in found], bench_model.NOTE.format(depth=args.depth))
    return 0


def run_tune(args: argparse.Namespace) -> int:
    """`bench tune`."""
    from flux_vk.cli import bench_tune
    from flux_vk.cli.options import demo_model
    from flux_vk.gpu import Device
    from flux_vk.logs import setup_logging

    setup_logging("debug" if args.debug else None)
    device = Device(args.device)
    if args.forget:
        print(bench_tune.forget(device))
        return 0
    path = args.model or demo_model()
    rows, where = bench_tune.run(device, path, args.repeat, _progress(args, 0))
    facts = {"device": device.name, "driver": device.info["driver"], "model": path.name}
    _write(args, facts, bench_tune.HEADER, rows, f"kept in {where}" if where else "not kept: FLUX_VK_NO_CACHE is set")
    return 0


def _progress(args: argparse.Namespace, total: int) -> Callable[[str], None]:
    """Lines about what is running, on stderr when it is a terminal; what was left out, always."""
    done = 0

    def tell(line: str) -> None:
        nonlocal done
        if "left out" in line:
            print(f"flux_vk: {line}", file=sys.stderr, flush=True)
        elif sys.stderr.isatty():
            done += 1
            count = f"[{done}/{total}] " if total else ""
            print(f"\r\x1b[K{count}{line}", end="", file=sys.stderr, flush=True)

    return tell


def _write(
    args: argparse.Namespace, facts: dict[str, Any], header: Sequence[str], rows: list[list[Any]], note: str
) -> None:
    from flux_vk.cli import tables

    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if args.format == "json":
        lines = [dict(zip(header, row, strict=True)) for row in rows]
        shown = json.dumps({"facts": facts, "results": lines, "note": note}, indent=2)
    elif args.format == "csv":
        shown = tables.as_csv(header, rows)
    else:
        table = tables.markdown(header, rows) if args.format == "md" else tables.aligned(header, rows)
        shown = f"{_facts_line(facts)}\n\n{table}\n\n{note}"
    if args.out is None:
        print(shown)
        return
    partial = args.out.with_name(f"{args.out.name}.{os.getpid()}.part")
    try:
        partial.write_text(shown + "\n", encoding="utf-8")
        partial.replace(args.out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"--out {args.out}: cannot be written ({error.strerror})") from None


def _facts_line(facts: dict[str, Any]) -> str:
    def one(key: str, value: Any) -> str:
        if isinstance(value, bool):
            return f"{key} {'yes' if value else 'no'}"
        if isinstance(value, int):
            return f"{key} {human_bytes(value)}"
        return f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}"

    return "; ".join(one(k.replace("_", " "), v) for k, v in facts.items())


if __name__ == "__main__":
    sys.exit(main())
