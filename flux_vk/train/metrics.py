"""metrics.jsonl: a line for every step and every evaluation of a training, written at once.

Not for: showing them (plot.py, the command line).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flux_vk.errors import InputError
from flux_vk.files import write_whole

NAME = "metrics.jsonl"


class Metrics:
    """The open file. Each line is on its way to the disk when `write` returns. Use as a context, or `close`."""

    def __init__(self, out: Path, after: int | None = None) -> None:
        """A new file; after: one that is there is gone on with, and lines of later steps than this are dropped."""
        self.path = out / NAME
        if after is None:
            write_whole(self.path, "")
        else:
            kept = [line for line in read_metrics(self.path) if line["step"] <= after]
            write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        try:
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error

    def write(self, **values: Any) -> None:
        """One line. values: numbers by name, "step" among them."""
        try:
            self._file.write(json.dumps(values, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); make room, then resume") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last one that a killed writer has left half is not among them. No file: no lines."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    found = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            break
        found.append(values)
    return found
