"""Compares flux_vk with llama.cpp (the `xllamacpp` package) on one GGUF file: `python bench/compare_llamacpp.py FILE`.

Each program runs in processes of its own that take turns, so that neither has the machine's better minutes to itself.
xllamacpp is no dependency of the project: pip install xllamacpp.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flux_vk.cli.common import Parser, guarded, whole
from flux_vk.cli.tables import aligned, markdown
from flux_vk.errors import FluxError, InputError

REPO = Path(__file__).resolve().parent.parent
WORKER = "--worker"
HEADER = ("test", "flux_vk", "spread %", "llama.cpp", "spread %", "ratio")


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == [WORKER]:
        return worker(*given[1:])
    args = _parser().parse_args(given)
    return guarded(lambda: compare(args), args.debug)


def _parser() -> argparse.ArgumentParser:
    p = Parser(prog="compare_llamacpp.py", description="flux_vk and llama.cpp on one GGUF file, in turns.")
    p.add_argument("model", type=Path, metavar="MODEL")
    p.add_argument("--pp", type=whole(1), default=64, metavar="N", help="prompt length; default 64")
    p.add_argument("--tg", type=whole(2), default=16, metavar="N", help="tokens to generate; default 16")
    p.add_argument("--turns", type=whole(1), default=3, metavar="N", help="processes of each; default 3")
    p.add_argument("--threads", type=whole(1), default=os.cpu_count() or 1, metavar="N", help="of llama.cpp")
    p.add_argument("--gpu-layers", type=whole(0), default=0, metavar="N", help="of llama.cpp; default 0 (CPU)")
    p.add_argument("--device", help="of flux_vk: index or name part")
    p.add_argument("--format", choices=("text", "md", "json"), default="text")
    p.add_argument("--debug", action="store_true")
    return p


def compare(args: argparse.Namespace) -> int:
    """Run both in turns and print medians and ratios (above 1: flux_vk is faster)."""
    if not args.model.is_file():
        raise InputError(f"{args.model}: there is no such file")
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for _ in range(args.turns):
        ours.append(_flux(args))
        theirs.append(_process([sys.executable, __file__, WORKER, *_worker_arguments(args)], "llama.cpp"))
    rows = [_row(name, [o[name] for o in ours], [t[name] for t in theirs]) for name in ours[0]]
    if args.format == "json":
        print(json.dumps({"model": args.model.name, "results": [dict(zip(_KEYS, r, strict=True)) for r in rows]}))
        return 0
    table = markdown(HEADER, rows) if args.format == "md" else aligned(HEADER, rows)
    where = f"{args.gpu_layers} layers on a GPU" if args.gpu_layers else f"{args.threads} CPU threads"
    print(f"{args.model.name}, tokens/s, median of {args.turns} processes each, in turns; llama.cpp: {where}\n")
    print(table)
    return 0


_KEYS = ("test", "flux_vk", "flux_vk_spread_percent", "llama_cpp", "llama_cpp_spread_percent", "ratio")


def _row(name: str, ours: list[float], theirs: list[float]) -> list[str | float | int | None]:
    def spread(v: list[float]) -> float:
        return (max(v) - min(v)) / statistics.median(v) * 100

    a, b = statistics.median(ours), statistics.median(theirs)
    return [name, a, spread(ours), b, spread(theirs), a / b]


def _flux(args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "flux_vk.bench", "model", str(args.model), "--pp", str(args.pp)]
    command += ["--tg", str(args.tg), "--repeat", "1", "--format", "json", "-c", str(_context(args))]
    if args.device:
        command += ["--device", args.device]
    found = _process(command, "flux_vk")
    return {row["test"]: row["tokens/s"] for row in found["results"]}


def _context(args: argparse.Namespace) -> int:
    return max(int(args.pp), 8 + int(args.tg)) + 8


def _worker_arguments(args: argparse.Namespace) -> list[str]:
    return [str(v) for v in (args.model, args.pp, args.tg, _context(args), args.threads, args.gpu_layers)]


def _process(command: list[str], name: str) -> Any:
    """The JSON that a process prints as its last line or as its whole output."""
    paths = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths}
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FluxError(f"{name} ended with code {done.returncode}: {last}")
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        return json.loads(done.stdout.strip().splitlines()[-1])


def worker(model: str, pp: str, tg: str, context: str, threads: str, layers: str) -> int:
    """One measurement of llama.cpp in this process; prints {"ppN": tokens/s, "tgN": tokens/s}."""
    try:
        import xllamacpp
    except ModuleNotFoundError:
        print("flux_vk: the xllamacpp package is missing: pip install xllamacpp", file=sys.stderr)
        return 2
    p = xllamacpp.CommonParams()
    p.model.path = model
    p.n_ctx, p.n_parallel, p.n_gpu_layers = int(context), 1, int(layers)
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(threads)
    p.verbosity = -1
    server = xllamacpp.Server(p)
    rng = random.Random(0)

    def timed(n_prompt: int, n: int) -> dict[str, float]:
        ids = [rng.randrange(300, 900) for _ in range(n_prompt)]
        found = server.handle_completions(
            {"prompt": ids, "max_tokens": n, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        )
        timings: dict[str, float] = found["timings"]
        return timings

    timed(int(pp), 1)  # not counted, as in flux_vk's benchmark
    prompt = timed(int(pp), 1)
    generated = timed(8, int(tg))
    if generated["predicted_n"] != int(tg):
        print(f"flux_vk: {generated['predicted_n']} tokens came, expected {tg}", file=sys.stderr)
        return 1
    time.sleep(0.05)  # let the server's log threads finish their lines
    print("\n" + json.dumps({f"pp{pp}": prompt["prompt_per_second"], f"tg{tg}": generated["predicted_per_second"]}))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
