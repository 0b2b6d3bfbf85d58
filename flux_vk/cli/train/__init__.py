"""The command line of training: `python -m flux_vk.train`, with `merge` as its one subcommand."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

MERGE = "merge"


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or with `merge` as the first word merge an adapter into a model. Returns the exit code."""
    import sys

    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [MERGE]:
        code: int = importlib.import_module("flux_vk.cli.train.merge").main(words[1:])
        return code
    from flux_vk.cli.train.command import main as train

    return train(words)
