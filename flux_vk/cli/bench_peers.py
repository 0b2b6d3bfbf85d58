"""`bench peers`: one GGUF file through flux_vk and through llama.cpp, in turns, a process for every run.

In turns, so that neither has the machine's better minutes to itself. Not for: finding and asking the other program
(peers.py).
"""

from __future__ import annotations

import argparse
import json
import statistics

from flux_vk.cli import bench_report, peers
from flux_vk.cli.options import demo_model
from flux_vk.cli.tables import Cell
from flux_vk.errors import InputError

HEADER = (
    "test", "flux_vk", "spread %", "on", "peer", "peer tokens/s", "peer spread %", "peer on", "ratio", "ratio spread %",
)  # fmt: skip
NOTE = (
    "tokens/s, median of {turns} processes of each, in turns; ratio: flux_vk by peer, median of the turns (above 1: "
    "flux_vk is faster); spreads: (largest - smallest) / median. on: what each computed with{cpu}."
)
_CPU = "; the peer ran its own CPU code, not a Vulkan backend, which is another comparison"


def main(args: argparse.Namespace) -> int:
    """`bench peers`."""
    peer = peers.find(args.peer)
    path = args.model or demo_model()
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    ask = peers.Ask(path, args.pp, args.tg, args.threads, args.gpu_layers)
    tell = bench_report.progress()
    ours: list[dict[str, float]] = []
    theirs: list[peers.Answer] = []
    device = ""
    for turn in range(args.repeat):
        tell(f"turn {turn + 1} of {args.repeat}: flux_vk")
        rates, device = _own(args, ask)
        ours.append(rates)
        tell(f"turn {turn + 1} of {args.repeat}: {peer.name}")
        theirs.append(peer.run(ask))
    backend = theirs[-1].backend
    rows = [
        _row(f"pp{ask.pp}", [o["pp"] for o in ours], [t.pp for t in theirs], device, peer.name, backend),
        _row(f"tg{ask.tg}", [o["tg"] for o in ours], [t.tg for t in theirs], device, peer.name, backend),
    ]
    facts = {
        "model": path.name, "device": device, "peer": f"{peer.name} ({peer.where})", "peer_on": backend,
        "threads": str(args.threads), "gpu_layers": str(args.gpu_layers),
    }  # fmt: skip
    note = NOTE.format(turns=args.repeat, cpu=_CPU if backend == "CPU" else "")
    bench_report.write(args, facts, HEADER, rows, note)
    return 0


def _row(name: str, ours: list[float], theirs: list[float], device: str, peer: str, backend: str) -> list[Cell]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [
        name, statistics.median(ours), _spread(ours), device, peer, statistics.median(theirs), _spread(theirs), backend,
        statistics.median(ratios), _spread(ratios),
    ]  # fmt: skip


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values) * 100


def _own(args: argparse.Namespace, ask: peers.Ask) -> tuple[dict[str, float], str]:
    """Our own rates from `bench model` in a new process, and the device's name."""
    command = ["model", str(ask.model), "--pp", str(ask.pp), "--tg", str(ask.tg), "--repeat", "1", "--format", "json"]
    command += ["-c", str(ask.pp + ask.tg + 2)]
    if args.device:
        command += ["--device", args.device]
    found = json.loads(peers.output(peers.python("flux_vk.bench", command), "flux_vk")[0])
    prompt, generated = (line["tokens/s"] for line in found["results"])
    return {"pp": prompt, "tg": generated}, str(found["facts"]["device"])
