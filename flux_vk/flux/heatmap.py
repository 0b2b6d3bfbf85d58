"""The similarity of programs as a picture. Needs matplotlib (the `plots` extra), loaded when a picture is drawn.

Not for: computing it (embedding.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def heat_map(path: str | Path, names: Sequence[str], matrix: npt.NDArray[np.float32], title: str = "") -> None:
    """Draw similarities [n, n] with n names to a file; its ending gives the format (png, svg, pdf).

    Raises InputError without matplotlib, for an ending that it does not know, and where the file cannot be written.
    """
    if matrix.shape != (len(names), len(names)) or not len(names):
        raise InputError(f"heat map: a matrix of {matrix.shape} with {len(names)} names, expected one row a name")
    figure = _figure(len(names))
    axes = figure.add_subplot(1, 1, 1)
    image = axes.imshow(matrix, vmin=0.0, vmax=1.0, cmap="viridis")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row in range(len(names)):
        for column in range(len(names)):
            value = float(matrix[row, column])
            colour = "black" if value > 0.6 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_title(title or "cosine similarity of opcode counts")
    figure.colorbar(image)
    _save(figure, Path(path))


def _figure(names: int) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"pictures need matplotlib: pip install 'flux_vk[plots]' ({error})") from None
    side = max(4.0, 1.5 + 0.7 * names)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(partial, format=path.suffix.lstrip(".").lower() or "png", dpi=120)
        partial.replace(path)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        partial.unlink(missing_ok=True)
