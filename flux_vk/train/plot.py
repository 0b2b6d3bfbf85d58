"""The picture of a training: loss, smoothed loss and validation loss by step, and the learning rate below.

Needs matplotlib (the `plots` extra), which is loaded when a picture is drawn. Not for: measuring.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flux_vk.files import write_whole

NAME = "loss.png"
MISSING = "no picture of the losses was drawn: install matplotlib (pip install 'flux_vk[plots]')"


def draw(path: Path, metrics: Sequence[dict[str, Any]], title: str = "") -> bool:
    """Draw what `read_metrics` gave; False, without a picture, where matplotlib is not installed.

    The file is written whole or not at all. InputError where it cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    steps = [m for m in metrics if "loss" in m]
    valid = [m for m in metrics if "valid_loss" in m]
    x = [m["step"] for m in steps]
    losses.plot(x, [m["loss"] for m in steps], color="0.75", linewidth=0.8, label="loss")
    losses.plot(x, [m["smoothed"] for m in steps], color="C0", label="loss, smoothed")
    if valid:
        x_valid, y_valid = [m["step"] for m in valid], [m["valid_loss"] for m in valid]
        losses.plot(x_valid, y_valid, "o-", color="C1", markersize=4, label="validation loss")
    losses.set(ylabel="nats per token", title=title)
    losses.legend()
    rates.plot(x, [m["lr"] for m in steps], color="C2")
    rates.set(xlabel="step", ylabel="learning rate")
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
    _save(figure, path)
    return True


def _save(figure: Any, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_whole(path, picture.getvalue())
