"""The options of a training, checked and frozen, from a TOML file or keywords.

Not for: the command line (flux_vk/cli/train) and what the options do.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from flux_vk.errors import InputError

SCHEDULES = ("cosine", "linear", "constant")
OPTIMIZERS = ("adamw", "sgd")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What `all-linear` stands for: the names that PEFT uses, whatever the architecture calls them."""

ALL_LINEAR = "all-linear"
FUSED = ("qkv_proj", "gate_up_proj")
"""Names of Phi-3's projections that hold several; q_proj and so on mean them too, there."""

DEFAULT_EPOCHS = 3
DEFAULT_LENGTH = 512


@dataclass(frozen=True)
class TrainOptions:
    """Everything that a training is told. Raises InputError that names the option where a value makes no sense.

    model, data, valid, out: GGUF file, training and validation data, folder for the adapter; init_from: an adapter to
    begin with in place of a new one. device: index or part of a name; None chooses.

    rank, alpha: of the adapters, y += alpha / rank * B A x (rslora: alpha / sqrt rank). dropout: share of their inputs
    that is left out. target: PEFT names of the weights that get one.

    lr: the highest learning rate; schedule, warmup, min_lr: see schedules.py. warmup below 1 is a share of all steps,
    from 1 on a number of steps. epochs: passes over the data (3 where steps is None); steps: optimiser steps, wins
    over epochs. batch_size: examples (with packing: rows of max_length tokens) of a micro-batch; grad_accum:
    micro-batches of a step. max_length: tokens of an example at most; None: 512 or the model's context if that is less.
    mask_prompt: learn only completions and the assistant's turns.

    weight_decay, betas, eps: of AdamW; momentum (and weight_decay) of SGD. clip: the gradient's largest norm, 0 = off.
    recompute: activations are computed again in the backward pass instead of kept.

    eval_every, save_every: in steps; None: at the end of each epoch. keep: so many checkpoints stay. early_stop: end
    after so many evaluations without a better loss; None = never. seed: of everything that is random.
    skip_bad: count bad lines of the data and go on. resume: go on from the last checkpoint in `out`.
    """

    model: Path | None = None
    data: Path | None = None
    valid: Path | None = None
    out: Path | None = None
    init_from: Path | None = None
    device: str | None = None
    rank: int = 32
    alpha: float = 64.0
    dropout: float = 0.0
    target: tuple[str, ...] = ("q_proj", "v_proj")
    rslora: bool = False
    lr: float = 2e-4
    min_lr: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.03
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 4
    grad_accum: int = 1
    max_length: int | None = None
    packing: bool = False
    mask_prompt: bool = False
    optim: str = "adamw"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    clip: float = 1.0
    recompute: bool = False
    eval_every: int | None = None
    save_every: int | None = None
    keep: int = 2
    early_stop: int | None = None
    seed: int = 0
    skip_bad: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        for name, rule in _RULES.items():
            object.__setattr__(self, name, rule(f"{name.replace('_', '-')}", getattr(self, name)))
        if self.min_lr > self.lr:
            raise InputError(f"min-lr: found {self.min_lr:g}, expected at most the learning rate {self.lr:g}")

    @property
    def n_epochs(self) -> int:
        """Passes over the data where `steps` does not say when to end."""
        return self.epochs or DEFAULT_EPOCHS

    def length(self, context: int) -> int:
        """Tokens of an example at most, for a model with `context` tokens of context.

        InputError where max_length is more than the model can see.
        """
        if self.max_length is None:
            return min(DEFAULT_LENGTH, context)
        if self.max_length > context:
            raise InputError(f"max-length: found {self.max_length}, expected at most the model's context, {context}")
        return self.max_length

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with absolute paths; `from_dict` reads them back."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "options") -> TrainOptions:
        """Options by name, with - or _. InputError naming `where` and the key that is none, with the one meant."""
        return cls(**known(values, where))

    def updated(self, values: Mapping[str, Any]) -> TrainOptions:
        """These options with some others in their place."""
        return replace(self, **values)


def known(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` with _ in the names. InputError for a name that is no option, with a suggestion."""
    names = [f.name for f in fields(TrainOptions)]
    found = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"options are {', '.join(names)}"
            raise InputError(f"{where}: {key} is no option of a training; {hint}")
        if name in found:
            raise InputError(
                f"{where}: found {name.replace('_', '-')} and {name}, which are the same; give one of them"
            )
        found[name] = value
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The options in a TOML file, by name. InputError naming file and key, for a file that cannot be used.

    Paths in it are relative to the file's folder.
    """
    return _config(path, read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary. InputError where it cannot be read."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a TOML file of options") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise InputError(f"{path}: is no valid TOML: {error}") from None


def _config(path: Path, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = known(values, where)
    for name in ("model", "data", "valid", "out", "init_from"):
        if isinstance(found.get(name), str):
            found[name] = path.parent / Path(found[name]).expanduser()
    with named(where):
        TrainOptions(**found)  # each value by itself, so that the message names the file
    return found


@contextmanager
def named(where: str) -> Iterator[None]:
    """What is wrong with options, with the file and table that they stand in put in front."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Experiment:
    """One of several trainings over one copy of the base weights."""

    name: str
    options: TrainOptions = field(default_factory=TrainOptions)


def read_experiments(path: Path, base: TrainOptions, flags: Mapping[str, Any] | None = None) -> tuple[Experiment, ...]:
    """The `[NAME]` tables of a TOML file: options of each experiment, over `base`; each writes to out/NAME.

    Options in front of the first table are those of all, but for `flags`, which win over them (and not over what a
    table says). InputError where the file or a table cannot be used, or two experiments have the same folder.
    """
    values = read_toml(path)
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    if not tables:
        raise InputError(f"{path}: found no table, expected [NAME] with options of its own for each experiment")
    shared = _config(path, {key: value for key, value in values.items() if key not in tables}, str(path))
    shared |= flags or {}
    found: list[Experiment] = []
    for name, table in tables.items():
        if name in (".", "..") or "/" in name or not name:
            raise InputError(f"{path}: [{name}]: an experiment's name is its folder's; found {name!r}")
        where = f"{path}: [{name}]"
        own = _config(path, table, where)
        for fixed in ("model", "device", "resume"):
            if fixed in own:
                raise InputError(f"{where}: {fixed} is the same for all experiments; put it above the tables")
        out = own.pop("out", None) or Path(shared.get("out") or base.out or ".") / name
        other = next((each.name for each in found if each.options.out == out), None)
        if other is not None:
            raise InputError(f"{where}: out: found {out}, where [{other}] writes; name another folder")
        with named(where):
            found.append(Experiment(name, base.updated({**shared, **own, "out": out})))
    return tuple(found)


# -- the rules ------------------------------------------------------------------------------------------------------

Rule = Callable[[str, Any], Any]


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value


def _wrong(name: str, found: object, expected: str) -> InputError:
    return InputError(f"{name}: found {found!r}, expected {expected}")


def _whole(low: int, high: int = 2**63 - 1, none: bool = False) -> Rule:
    wanted = f"a whole number of at least {low}" if high == 2**63 - 1 else f"a whole number from {low} to {high}"

    def rule(name: str, value: Any) -> Any:
        if value is None and none:
            return None
        if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
            raise _wrong(name, value, wanted)
        return int(value)

    return rule


def _number(low: float, high: float, below: bool = False, above: bool = False) -> Rule:
    """From low to high; below: high itself is no value; above: low is none."""
    wanted = f"a number {'above' if above else 'from'} {low:g} {'and below' if below else 'to'} {high:g}"

    def rule(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise _wrong(name, value, wanted)
        number = float(value)
        if not low <= number <= high or (below and number == high) or (above and number == low):
            raise _wrong(name, value, wanted)
        return number

    return rule


def _warmup(name: str, value: Any) -> float:
    number: float = _number(0, 1e9)(name, value)
    if number >= 1 and number != int(number):
        raise _wrong(name, value, "a share of all steps below 1, or a whole number of steps")
    return number


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _word(*words: str) -> Rule:
    def rule(name: str, value: Any) -> Any:
        if value not in words:
            raise _wrong(name, value, f"one of {', '.join(words)}")
        return value

    return rule


def _path(name: str, value: Any) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        raise _wrong(name, value, "a path")
    return Path(value)


def _text(name: str, value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # the index of a device
    if value is not None and (not isinstance(value, str) or not value):
        raise _wrong(name, value, "an index or a part of a name")
    return value


def _betas(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise _wrong(name, value, "two numbers")
    first, second = (_number(0, 1, below=True)(name, beta) for beta in value)
    return first, second


def targets(name: str, value: Any) -> tuple[str, ...]:
    """PEFT names from "q,v", "q_proj,v_proj", "all-linear" or a list of such; each once, in the order of LINEAR."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not words or not all(isinstance(word, str) for word in words):
        raise _wrong(name, value, f"names with commas between, of {', '.join((*LINEAR, ALL_LINEAR))}")
    found: set[str] = set()
    for word in (w.strip() for w in words):
        full = word if word.endswith("_proj") else f"{word}_proj"
        if word == ALL_LINEAR:
            found.update(LINEAR)
        elif full in (*LINEAR, *FUSED):
            found.add(full)
        else:
            raise _wrong(name, word, f"one of {', '.join((*LINEAR, ALL_LINEAR))}")
    return tuple(full for full in (*LINEAR, *FUSED) if full in found)


_RULES: dict[str, Rule] = {
    "model": _path, "data": _path, "valid": _path, "out": _path, "init_from": _path, "device": _text,
    "rank": _whole(1, 1024), "alpha": _number(0, 1e6, above=True), "dropout": _number(0, 1, below=True),
    "target": targets, "rslora": _flag,
    "lr": _number(0, 1e3, above=True), "min_lr": _number(0, 1e3), "schedule": _word(*SCHEDULES), "warmup": _warmup,
    "epochs": _whole(1, none=True), "steps": _whole(1, none=True), "batch_size": _whole(1, 65535),
    "grad_accum": _whole(1, 65535), "max_length": _whole(2, none=True), "packing": _flag, "mask_prompt": _flag,
    "optim": _word(*OPTIMIZERS), "weight_decay": _number(0, 1e3), "betas": _betas, "eps": _number(0, 1, above=True),
    "momentum": _number(0, 1, below=True), "clip": _number(0, 1e30), "recompute": _flag,
    "eval_every": _whole(1, none=True), "save_every": _whole(1, none=True), "keep": _whole(1, 10**6),
    "early_stop": _whole(1, none=True), "seed": _whole(0, 2**64 - 1), "skip_bad": _flag, "resume": _flag,
}  # fmt: skip
