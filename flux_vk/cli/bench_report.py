"""What a benchmark says: progress on stderr, the table on stdout or in a file, as text, Markdown, CSV or JSON.

Not for: measuring, or deciding what is in the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flux_vk.cli.common import human_bytes
from flux_vk.cli.tables import Cell, aligned, as_csv, markdown
from flux_vk.errors import InputError

Tell = Callable[[str], None]
PLOTS = "plots need matplotlib, which is not installed: pip install 'flux_vk[plots]'"


def need_matplotlib() -> None:
    """InputError that names the extra where matplotlib is missing: before anything is measured, not after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"--plot: {PLOTS}")


def progress(total: int = 0) -> Tell:
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


def write(
    args: argparse.Namespace, facts: dict[str, Any], header: Sequence[str], rows: Sequence[Sequence[Cell]], note: str
) -> None:
    """The table as --format and --out want it. A file is written whole or not at all; InputError where it cannot be."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if args.format == "json":
        lines = [dict(zip(header, row, strict=True)) for row in rows]
        shown = json.dumps({"facts": facts, "results": lines, "note": note}, indent=2)
    elif args.format == "csv":
        shown = as_csv(header, rows)
    else:
        table = markdown(header, rows) if args.format == "md" else aligned(header, rows)
        shown = f"{facts_line(facts)}\n\n{table}\n\n{note}"
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


def facts_line(facts: dict[str, Any]) -> str:
    """The facts in one line: whole numbers are bytes."""

    def one(key: str, value: Any) -> str:
        if isinstance(value, bool):
            return f"{key} {'yes' if value else 'no'}"
        if isinstance(value, int):
            return f"{key} {human_bytes(value)}"
        return f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}"

    return "; ".join(one(k.replace("_", " "), v) for k, v in facts.items())
