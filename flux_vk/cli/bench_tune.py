"""`bench tune`: the matrix products of a model measured in all shapes, the best kept for this device.

Not for: what a shape is (flux_vk.gpu.matmul) and how choices are stored (flux_vk.gpu.tuner).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from flux_vk.cli import bench_report
from flux_vk.cli.options import demo_model
from flux_vk.cli.tables import Cell
from flux_vk.engine.model import Model, load
from flux_vk.gpu import Buffer, Chain, Device
from flux_vk.gpu.steps import Dispatch
from flux_vk.gpu.tune_matmul import tune
from flux_vk.gpu.tune_tile import tune_tiles
from flux_vk.gpu.tuner import tuner_of

HEADER = ("product", "rows", "tokens", "us", "rule us", "gain")


def main(args: argparse.Namespace) -> int:
    """`bench tune`."""
    device = Device(args.device)
    if args.forget:
        print(forget(device))
        return 0
    path = args.model or demo_model()
    rows, where = run(device, path, args.repeat, bench_report.progress())
    facts = {"device": device.name, "driver": device.info["driver"], "model": path.name}
    kept = f"kept in {where}; `python -m flux_vk.info --verbose` lists it"
    if where is None:
        kept = "not kept: FLUX_VK_NO_CACHE is set"
    bench_report.write(args, facts, HEADER, rows, kept)
    return 0


def run(
    device: Device, path: Path, repeat: int, progress: Callable[[str], None]
) -> tuple[list[list[Cell]], Path | None]:
    """Rows of the table, and the file the choices were written to (None where nothing is kept)."""
    tuner = tuner_of(device)
    assert tuner is not None
    with load(path, device, sequences=1) as model:
        wanted = matrices(model)
    rows: list[list[Cell]] = []
    for name, choice in chain(tune(device, wanted, repeat), tune_tiles(device, wanted, repeat)):
        progress(name)
        gain = choice.rule_us / choice.us if choice.us else 1.0
        shape = [choice.values.get(a, choice.values.get(b, 0)) for a, b in (("rows", "bm"), ("tokens", "bn"))]
        rows.append([name, *shape, choice.us, choice.rule_us, gain])
    tuner.save()
    return rows, tuner.path


def matrices(model: Model) -> list[tuple[str, int, int]]:
    """(type, rows, row length) of every matrix product of a decode step, each once."""
    found: list[Buffer] = []
    last: Dispatch | None = None
    chain: Chain = model.runner.decode_chain(1)
    for step in chain.steps:
        if not isinstance(step, Dispatch) or not step.contract.name.startswith("matmul"):
            continue
        w = step.buffers["w"]
        whole = found[-1].joined(w) if last is not None and step.buffers["y"] is last.buffers["y"] else None
        if whole is not None:  # the next window of a matrix that is too large for one binding
            found[-1] = whole
        else:
            found.append(w)
        last = step
    return list(dict.fromkeys((w.dtype, w.shape[0], w.shape[1]) for w in found))


def forget(device: Device) -> str:
    """Forget what was measured on a device; says what was done."""
    tuner = tuner_of(device)
    assert tuner is not None
    n = len(tuner)
    tuner.clear()
    return f"forgot {n} measured shapes of {device.name}"
