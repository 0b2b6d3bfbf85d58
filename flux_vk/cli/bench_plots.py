"""The pictures of the benchmarks: a roofline of kernels, and speed against depth and batch. Needs matplotlib.

Not for: measuring. matplotlib is loaded when a picture is drawn (the `plots` extra).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_vk.cli.bench_report import PLOTS
from flux_vk.errors import InputError

if TYPE_CHECKING:
    from flux_vk.cli.bench_kernels import Result


LEAST_INTENSITY = 0.01
"""Kernels with fewer operations per byte only move data: they are in the table, not in the roofline."""


@dataclass(frozen=True)
class Point:
    """One measurement of a scaling plot; `predicted` is what the bytes moved let expect."""

    series: str
    x: float
    measured: float
    error: float
    predicted: float


def new_figure(columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure and its axes, side by side. InputError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"{PLOTS} ({error})") from None
    figure = Figure(figsize=(8 if columns == 1 else 6.2 * columns, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def save_figure(figure: Any, path: Path) -> None:
    """Write the picture whole or not at all; the ending of the name gives the format. InputError where that fails."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(partial, format=path.suffix.lstrip(".").lower() or "png", dpi=120)
        partial.replace(path)
    except ValueError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"--plot {path}: {error}") from None
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"--plot {path}: cannot be written ({error.strerror})") from None


def roofline(path: Path, results: Sequence[Result], copy_rate: float, fma_rate: float, title: str) -> None:
    """GFLOP/s against operations per byte, under the lines of the device's own copy and multiply-add rates."""
    import numpy as np

    figure, (axes,) = new_figure()
    shown = [r for r in results if r.bytes > 0 and r.intensity >= LEAST_INTENSITY and r.kernel != "fma_peak"]
    xs = [r.intensity for r in shown] or [1.0]
    knee = fma_rate / copy_rate
    x = np.geomspace(min([*xs, knee]) / 3, max([*xs, knee]) * 3, 256)
    roof = np.minimum(x * copy_rate, fma_rate) / 1e9
    label = f"copy {copy_rate / 1e9:.1f} GB/s, FMA {fma_rate / 1e9:.0f} GFLOP/s (measured)"
    axes.plot(x, roof, color="black", linewidth=1.5, label=label)
    axes.plot(x, roof / 2, color="black", linewidth=0.7, linestyle=":", label="half of it")
    names = list(dict.fromkeys(r.kernel for r in shown))
    marks = "osD^v<>ph*Xd"
    for i, name in enumerate(names):
        mine = [r for r in shown if r.kernel == name]
        axes.plot(
            [r.intensity for r in mine], [r.flops / r.seconds / 1e9 for r in mine], marks[i // 10 % len(marks)],
            color=f"C{i % 10}", markersize=5, label=name, alpha=0.8,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte that must be moved")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(title)
    axes.grid(True, which="major", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    figure.set_size_inches(9.5, 5.4)
    save_figure(figure, path)


def _axes(axes: Any, points: Sequence[Point]) -> None:
    """x by powers of two, 0 included where it is there; y from 0, or by powers of ten where models differ a lot."""
    xs = sorted({p.x for p in points})
    if xs[0] > 0:
        axes.set_xscale("log", base=2)
    elif len(xs) > 1:
        axes.set_xscale("symlog", base=2, linthresh=xs[1])
    axes.set_xticks(xs, [f"{x:.4g}" if x < 1e4 else f"{x:.0f}" for x in xs], fontsize=7)
    axes.minorticks_off()
    ys = [y for p in points for y in (p.measured, p.predicted) if y > 0]
    if ys and max(ys) > 10 * min(ys):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def scaling(path: Path, panels: Mapping[str, Sequence[Point]], title: str) -> None:
    """One panel for each axis ("tokens in the cache", ...): measured with error bars, predicted as dashed lines."""
    kept = {name: points for name, points in panels.items() if points}
    if not kept:
        raise InputError("--plot: there is nothing to draw: give --depth, --batch or --tg")
    figure, every = new_figure(len(kept))
    for axes, (name, points) in zip(every, kept.items(), strict=True):
        for i, series in enumerate(dict.fromkeys(p.series for p in points)):
            mine = sorted((p for p in points if p.series == series), key=lambda p: p.x)
            x = [p.x for p in mine]
            bars = [p.error for p in mine]
            measured = [p.measured for p in mine]
            axes.errorbar(x, measured, yerr=bars, fmt="o-", color=f"C{i % 10}", capsize=3, label=series)
            guess = [p.predicted for p in mine]
            axes.plot(x, guess, "--", color=f"C{i % 10}", alpha=0.7, label=f"{series}, by bytes moved")
        axes.set_xlabel(name)
        axes.set_ylabel("tokens/s")
        _axes(axes, points)
        axes.grid(True, alpha=0.3)
        axes.legend(fontsize=7)
    figure.suptitle(title)
    save_figure(figure, path)
