"""`python -m flux_vk.train`: trains, shows how it goes, says what came out. Not for: options (options.py)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_vk.cli.common import guarded, human_bytes
from flux_vk.cli.train.options import Command, command, parse
from flux_vk.errors import InputError

if TYPE_CHECKING:
    from flux_vk.cli.terminal import Terminal
    from flux_vk.train.events import TrainResult


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code; exits by itself where options make no sense."""
    args = parse(argv)
    return guarded(lambda: run(args), args.debug)


def run(args: argparse.Namespace) -> int:
    """Train, or say what training would take."""
    from flux_vk.cli.terminal import Terminal
    from flux_vk.logs import setup_logging

    setup_logging("debug" if args.debug else None)
    asked = command(args)
    _check(asked)
    if asked.dry_run:
        return _dry_run(asked)
    terminal = Terminal(asked.quiet)
    try:
        _train_several(asked, terminal) if asked.experiments else _train_one(asked, terminal)
    except KeyboardInterrupt:
        if _resumable(asked):
            terminal.note("stopped; --resume goes on from the last checkpoint")
        raise
    return 0


def _check(asked: Command) -> None:
    """InputError naming the flag for what is needed and was not given."""
    options = [each.options for each in asked.experiments] or [asked.options]
    for o in options:
        if o.model is None:
            raise InputError("no MODEL was named; expected a GGUF file")
        if o.data is None and not asked.dry_run:
            raise InputError("--data: no training data was named; expected a file of JSON lines or plain text")
        if o.early_stop is not None and o.valid is None:
            raise InputError("early-stop: needs validation data to look at; give --valid too")
        if o.out is None and not asked.dry_run:
            raise InputError("--out: no folder for the adapter was named; expected one")


def _resumable(asked: Command) -> bool:
    from flux_vk.train.checkpoint import checkpoints

    folders = [each.options.out for each in asked.experiments] or [asked.options.out]
    return all(out is not None and checkpoints(out) for out in folders)


def _train_one(asked: Command, terminal: Terminal) -> None:
    from flux_vk.cli.train.view import View
    from flux_vk.train.session import run_training

    view = View(terminal, sys.stderr.isatty())
    try:
        with terminal.progress(f"Loading {_model(asked).name}", "bytes") as bar:
            result = run_training(asked.options, view, bar)
    finally:
        view.close()
    print(summary(result))


def _train_several(asked: Command, terminal: Terminal) -> None:
    from flux_vk.cli.train.view import View
    from flux_vk.train.session import run_experiments

    views: dict[str, Callable[[Any], None]] = {}
    with ExitStack() as stack:
        for each in asked.experiments:
            view = View(terminal, live=False, name=each.name)
            stack.callback(view.close)
            views[each.name] = view
        bar = stack.enter_context(terminal.progress(f"Loading {_model(asked).name}", "bytes"))
        results = run_experiments(asked.experiments, lambda name, event: views[name](event), bar)
    for result in results.values():
        print(summary(result))


def _dry_run(asked: Command) -> int:
    from flux_vk.train.session import memory_report

    which = ", ".join(each.name for each in asked.experiments) or f"rank {asked.options.rank}"
    head = f"device memory of training {_model(asked).name}, {which}"
    print(memory_table(memory_report(asked.options, asked.experiments), head))
    return 0


def _model(asked: Command) -> Path:
    model = asked.experiments[0].options.model if asked.experiments else asked.options.model
    assert model is not None  # _check has seen to it
    return model


def memory_table(parts: Mapping[str, int], head: str) -> str:
    """Bytes by part, and their sum."""
    rows = [*parts.items(), ("in all", sum(parts.values()))]
    width = max(len(part) for part, _ in rows)
    return "\n".join([head, *(f"  {part:<{width}}  {human_bytes(n):>9}" for part, n in rows)])


def summary(result: TrainResult) -> str:
    """What came out."""
    said = [f"{result.out}: adapter of step {result.kept}"]
    if result.stopped_early:
        said.append(f"stopped early after step {result.steps}")
    if result.valid_before is not None and result.valid_after is not None:
        said.append(f"validation loss {result.valid_before:.4f} before, {result.valid_after:.4f} after")
    elif result.loss is not None:
        said.append(f"training loss {result.loss:.4f}")
    return ", ".join(said)
