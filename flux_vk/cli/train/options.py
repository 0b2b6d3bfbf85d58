"""The options of `python -m flux_vk.train`: flags over a file of options over those of a checkpoint.

Not for: what an option means and may be (flux_vk/train/options.py) and for acting on them (command.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_vk.cli.common import Parser, number, text, whole

if TYPE_CHECKING:
    from flux_vk.train.options import Experiment, TrainOptions


@dataclass(frozen=True)
class Command:
    """What was asked for. experiments: empty for a single training."""

    options: TrainOptions
    experiments: tuple[Experiment, ...]
    dry_run: bool
    quiet: bool


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; what was not given is None."""
    p = Parser(
        prog="python -m flux_vk.train",
        description="Train a low-rank adapter (QLoRA) for a GGUF model on a Vulkan device.",
        epilog="examples:\n"
        "  python -m flux_vk.train model.gguf --data talks.jsonl --out adapter --mask-prompt\n"
        "  python -m flux_vk.train model.gguf --data book.txt --valid rest.txt --out adapter --steps 500\n"
        "  python -m flux_vk.train --out adapter --resume            goes on with what was begun there\n"
        "  python -m flux_vk.train model.gguf --data book.txt --dry-run      what it will take, by part\n"
        "  python -m flux_vk.train merge model.gguf adapter -o merged.gguf   writes a model of its own\n"
        "exit codes: 0 done, 1 a failure or a diverged training, 2 wrong options or data, 130 Ctrl-C (saved)",
    )
    p.add_argument("model", nargs="?", type=_path, metavar="MODEL", help="GGUF file, of any type of weights")
    _files(p.add_argument_group("files"))
    _adapter(p.add_argument_group("adapter"))
    _steps(p.add_argument_group("steps"))
    _optimizer(p.add_argument_group("optimizer"))
    _course(p.add_argument_group("course"))
    o = p.add_argument_group("output")
    o.add_argument("-q", "--quiet", action="store_true", help="no progress and no notes on stderr")
    o.add_argument("--debug", action="store_true", help="debug log, and tracebacks with errors")
    return p


def command(args: argparse.Namespace) -> Command:
    """The options asked for. Raises InputError naming option, file and key for what makes no sense."""
    from flux_vk.train.options import TrainOptions, read_config, read_experiments

    names = [f.name for f in fields(TrainOptions)]
    flags = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    config = read_config(args.config) if args.config is not None else {}
    asked = {**config, **flags}
    if args.experiments is not None:  # each goes on from a checkpoint of its own, with the options in the file
        experiments = read_experiments(args.experiments, TrainOptions(**asked), flags)
        return Command(experiments[0].options, experiments, args.dry_run, args.quiet)
    options = TrainOptions(**{**_begun(asked), **asked})
    return Command(options, (), args.dry_run, args.quiet)


def _begun(asked: dict[str, Any]) -> dict[str, Any]:
    """With resume: the options of the checkpoint to go on from, so that none need be given again."""
    from flux_vk.errors import InputError
    from flux_vk.train.checkpoint import last_checkpoint, read_training
    from flux_vk.train.options import TrainOptions, known, named

    out = asked.get("out")
    if not asked.get("resume") or out is None:
        return {}
    path = last_checkpoint(out)
    made = read_training(path).get("options")
    if not isinstance(made, dict):
        raise InputError(f"{path}: a checkpoint without options; start again, in another folder")
    begun = known(made, str(path))
    with named(str(path)):
        TrainOptions(**begun)
    if "epochs" in asked:
        begun.pop("steps", None)  # which would win
    return begun


def _files(g: argparse._ArgumentGroup) -> None:
    add = g.add_argument
    add("--data", type=_path, metavar="FILE", help="JSON lines (text; prompt, completion; instruction, input, output; "
        "messages) or plain text")  # fmt: skip
    add("--valid", type=_path, metavar="FILE", help="data to evaluate, not learned from")
    add("--out", type=_path, metavar="DIR", help="folder for adapter, checkpoints, metrics.jsonl, loss.png")
    add("--config", type=_path, metavar="FILE", help="TOML file of these options; flags win")
    add("--experiments", type=_path, metavar="FILE", help="TOML file with a table of options for each of several "
        "trainings over one copy of the weights; each writes to a folder of its name in --out")  # fmt: skip
    add("--init-from", type=_path, metavar="ADAPTER", help="begin with this adapter in place of a new one")
    add("--skip-bad", action=argparse.BooleanOptionalAction, default=None, help="count bad lines of the data and go on")
    add("--resume", action=argparse.BooleanOptionalAction, default=None, help="go on from the last checkpoint in "
        "--out, with its options")  # fmt: skip


def _adapter(g: argparse._ArgumentGroup) -> None:
    add = g.add_argument
    add("--rank", type=whole(1, 1024), metavar="N", help="of the adapter's matrices; default 32")
    add("--alpha", type=number(0, 1e6), metavar="X", help="the change is scaled by X / rank; default 64")
    add("--dropout", type=number(0, 1), metavar="P", help="share of the adapter's inputs left out; default 0")
    add("--target", type=text("names with commas between"), metavar="NAMES", help="weights that get one: q,k,v,o,gate,"
        "up,down (or q_proj ...), or all-linear; default q_proj,v_proj")  # fmt: skip
    add("--rslora", action=argparse.BooleanOptionalAction, default=None, help="scale by X / sqrt(rank) instead")


def _steps(g: argparse._ArgumentGroup) -> None:
    add = g.add_argument
    add("--epochs", type=whole(1), metavar="N", help="passes over the data; default 3")
    add("--steps", type=whole(1), metavar="N", help="optimizer steps; wins over --epochs")
    add("--batch-size", type=whole(1, 65535), metavar="N", help="examples of a micro-batch (with --packing: rows of "
        "the greatest length); default 4")  # fmt: skip
    add("--grad-accum", type=whole(1, 65535), metavar="N", help="micro-batches of a step; default 1")
    add("--max-length", type=whole(2), metavar="N", help="tokens of an example, longer ones are cut; default 512 or "
        "the model's context")  # fmt: skip
    add("--packing", action=argparse.BooleanOptionalAction, default=None, help="put several short examples into a row")
    add("--mask-prompt", action=argparse.BooleanOptionalAction, default=None, help="learn only completions and what "
        "the assistant says")  # fmt: skip
    add("--seed", type=whole(0, 2**64 - 1), metavar="N", help="of everything that is random; default 0")


def _optimizer(g: argparse._ArgumentGroup) -> None:
    add = g.add_argument
    add("--optim", choices=("adamw", "sgd"), help="AdamW, or SGD with momentum; default adamw")
    add("--lr", type=number(0, 1e3), metavar="X", help="highest learning rate; default 2e-4")
    add("--schedule", choices=("cosine", "linear", "constant"), help="of the learning rate; default cosine")
    add("--warmup", type=number(0, 1e9), metavar="X", help="steps, or below 1 a share of all; default 0.03")
    add("--min-lr", type=number(0, 1e3), metavar="X", help="learning rate at the end; default 0")
    add("--weight-decay", type=number(0, 1e3), metavar="X", help="default 0.01")
    add("--clip", type=number(0, 1e30), metavar="X", help="largest norm of the gradient, 0 = off; default 1")


def _course(g: argparse._ArgumentGroup) -> None:
    add = g.add_argument
    add("--eval-every", type=whole(1), metavar="N", help="steps between evaluations; default: at each epoch's end")
    add("--save-every", type=whole(1), metavar="N", help="steps between checkpoints; default: at each epoch's end")
    add("--keep", type=whole(1), metavar="N", help="checkpoints that stay; default 2")
    add("--early-stop", type=whole(1), metavar="N", help="end after N evaluations without a better loss, and keep the "
        "best adapter")  # fmt: skip
    add("--recompute", action=argparse.BooleanOptionalAction, default=None, help="compute activations again for the "
        "gradients instead of keeping them: less memory, more time")  # fmt: skip
    add("--device", type=text("an index or part of a name"), help="index or name part; see flux_vk.info")
    add("--dry-run", action="store_true", help="say what memory it will take on the device, by part, and end")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line. Exits with code 2 and one line on stderr where it makes no sense."""
    return parser().parse_args(argv)


def _path(value: str) -> Path:
    if not value:
        raise argparse.ArgumentTypeError("found an empty path")
    return Path(value)
