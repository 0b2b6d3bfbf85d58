"""`bench scale`: tokens a second against context, number of streams and model, next to what the bytes moved let expect.

Not for: how a single test is timed (bench_model.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flux_vk.cli import bench_model, bench_report
from flux_vk.cli.bench_model import Measured, Setup
from flux_vk.cli.bench_plots import Point, scaling
from flux_vk.cli.bench_yardsticks import Copy
from flux_vk.cli.options import demo_model
from flux_vk.cli.tables import Cell
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Device
from flux_vk.models import read_config

HEADER = (
    "model", "file MB", "batch", "depth", "tokens/s", "±", "ms per step", "MB per token", "GB/s", "of copy %",
    "by bytes tokens/s", "reached %", "note",
)  # fmt: skip
NOTE = (
    "MB per token: weights and keys and values that a step must read, divided by its streams. GB/s: that times "
    "tokens/s; of copy: next to {copy:.1f} GB/s read and written by {how}. by bytes: the tokens/s of the model's first "
    "line, scaled by the bytes of a step (speed that follows bytes moved reaches 100 %; more means that the first line "
    "was held back by something else)."
)
Runs = Sequence[tuple[str, Sequence[Measured]]]


def main(args: argparse.Namespace) -> int:
    """`bench scale`."""
    if args.plot:
        bench_report.need_matplotlib()
    files = args.model or [demo_model()]
    tell = bench_report.progress()
    depths, batches = sorted(args.depth), sorted(args.batch)
    runs: list[tuple[str, list[Measured]]] = []
    sizes: list[int] = []
    for path in files:
        runs.append((path.name, _measure(args, path, depths, batches, tell)))
        sizes.append(path.stat().st_size)
    device = Device(args.device)
    copy = Copy(device)
    for _ in range(5):
        copy.sample()
    rows: list[list[Cell]] = []
    for (name, found), size in zip(runs, sizes, strict=True):
        rows += [_row(name, size, m, found[0], copy.rate()) for m in found]
    facts = {"device": device.name, "driver": device.info["driver"], "tokens": str(args.tg), "kv_type": args.kv_type}
    bench_report.write(args, facts, HEADER, rows, NOTE.format(copy=copy.rate() / 1e9, how=copy))
    if args.plot:
        plot(args.plot, runs, device.name)
    return 0


def _measure(
    args: argparse.Namespace, path: Path, depths: list[int], batches: list[int], tell: bench_report.Tell
) -> list[Measured]:
    """One axis after the other: depths with the fewest streams, numbers of streams at the least depth."""
    found: list[Measured] = []
    depths = fitting(path, depths, args.tg)
    deep = Setup((), [args.tg], depths, batches[:1], args.repeat, args.seed)
    wide = Setup((), [args.tg], depths[:1], batches[1:], args.repeat, args.seed)
    for setup in (deep, wide):
        if not setup.batches:
            continue
        with bench_model.opened(path, args.device, setup, None, args.kv_type) as model:
            found += bench_model.run(model, setup, lambda line: tell(f"{path.name} {line}"))
    return found


def fitting(path: Path, depths: list[int], generated: int) -> list[int]:
    """The depths, those beyond the model's own context cut to the deepest that leaves room for what is generated."""
    with open_gguf(path) as file:
        deepest = max(0, read_config(file).context_length - generated - 1)
    return sorted({min(depth, deepest) for depth in depths})


def _row(name: str, size: int, m: Measured, first: Measured, copy_rate: float) -> list[Cell]:
    each, predicted = m.bytes / m.batch, by_bytes(m, first)
    rate = each * m.rate
    return [
        name, size / 1e6, m.batch, m.depth, m.rate, m.deviation, 1e3 * m.batch / m.rate, each / 1e6, rate / 1e9,
        rate / copy_rate * 100, predicted, m.rate / predicted * 100, m.note,
    ]  # fmt: skip


def by_bytes(m: Measured, first: Measured) -> float:
    """Tokens per second if the time of a step grew as its bytes do, from the first measurement on."""
    steps = first.rate / first.batch * first.bytes / m.bytes
    return steps * m.batch


def plot(path: Path, runs: Runs, title: str) -> None:
    """Speed against depth and against streams, a line for each model; against bytes where there are several models."""
    deep: list[Point] = []
    wide: list[Point] = []
    large: list[Point] = []
    firsts: list[tuple[str, Measured]] = []
    for name, found in runs:
        steps = [m for m in found if m.step is not None]
        if not steps:
            continue
        firsts.append((name, steps[0]))
        for m in steps:
            tokens = m.name.split(" ")[0]
            if m.batch == steps[0].batch:
                deep.append(_point(f"{name} {tokens}, batch {m.batch}", m.depth or 0, m, steps[0]))
            if m.depth == steps[0].depth:
                wide.append(_point(f"{name} {tokens}, depth {m.depth}", m.batch, m, steps[0]))
    if len(firsts) > 1:
        large = [_point("one stream", m.bytes / 1e6, m, firsts[0][1]) for _, m in firsts]
    panels = {
        "tokens in the cache": deep if len({p.x for p in deep}) > 1 else [],
        "streams decoded together": wide if len({p.x for p in wide}) > 1 else [],
        "MB read for a token (models)": large,
    }
    if not any(panels.values()):
        panels = {"tokens in the cache": deep}
    scaling(path, panels, title)


def _point(series: str, x: float, m: Measured, first: Measured) -> Point:
    return Point(series, x, m.rate, m.deviation, by_bytes(m, first))


