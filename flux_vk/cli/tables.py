"""Rows of values as text: aligned columns, Markdown, CSV. Not for: deciding what is in them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

Cell = str | int | float | None
Row = Sequence[Cell]


def shown(cell: Cell) -> str:
    """A cell as text: floats with at most two decimals (more for tiny ones), None as nothing."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        size = abs(cell)
        digits = 0 if size >= 1000 else 1 if size >= 100 else 2
        return f"{cell:.{digits}f}" if size >= 0.01 or size == 0 else f"{cell:.2g}"
    return str(cell)


def _numeric(rows: Sequence[Row], column: int) -> bool:
    cells = [r[column] for r in rows if r[column] is not None]
    return bool(cells) and all(isinstance(c, (int, float)) for c in cells)


def aligned(header: Sequence[str], rows: Sequence[Row], indent: str = "") -> str:
    """Columns of equal width, numbers to the right; an empty header leaves the head line out."""
    columns = len(header)
    right = [_numeric(rows, i) for i in range(columns)]
    texts = [[shown(c) for c in row] for row in rows]
    lines = [list(header), *texts] if any(header) else texts
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(columns)]
    out = []
    for line in lines:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        out.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(out)


def markdown(header: Sequence[str], rows: Sequence[Row]) -> str:
    """A Markdown table."""
    right = [_numeric(rows, i) for i in range(len(header))]
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join('---:' if r else '---' for r in right)}|"]
    lines += [f"| {' | '.join(shown(c).replace('|', '/') for c in row)} |" for row in rows]
    return "\n".join(lines)


def as_csv(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Comma-separated values with a head line; numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if c is None else c for c in row] for row in rows])
    return out.getvalue().rstrip("\n")
