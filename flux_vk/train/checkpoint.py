"""Checkpoints of a training: folders that are there whole or not at all, whenever the writer is killed.

out/checkpoint-STEP/ holds the adapter as PEFT has it, state.npz (the engine's arrays, bit for bit) and training.json
(the loop's own state). Not for: what is in that state (loop.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flux_vk.errors import InputError
from flux_vk.formats.adapter import Adapter, write_peft

from .protocol import State

VERSION = 1
STATE = "state.npz"
TRAINING = "training.json"

_NAME = re.compile(r"checkpoint-(\d+)")
_LEFT = re.compile(r"\.checkpoint-\d+\..*(part|old)")


@dataclass(frozen=True)
class Checkpoint:
    """What a training goes on from. training: plain values; state: what `Engine.load_state` takes."""

    path: Path
    training: dict[str, Any]
    state: dict[str, npt.NDArray[Any]]


def checkpoint_path(out: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` optimiser steps."""
    return out / f"checkpoint-{step}"


def checkpoints(out: Path) -> list[int]:
    """The steps of the checkpoints in `out`, ascending."""
    if not out.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in out.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def write_checkpoint(
    out: Path, step: int, training: Mapping[str, Any], state: State, adapter: Adapter,
    heads: tuple[int, int] | None = None,
) -> Path:  # fmt: skip
    """Write out/checkpoint-STEP: everything goes into a folder of another name, to the disk, and is then renamed.

    One that is there already stays. InputError where it cannot be written; nothing is left behind then.
    """
    path = checkpoint_path(out, step)
    if path.exists():
        return path
    partial = out / f".checkpoint-{step}.{os.getpid()}.part"
    try:
        partial.mkdir(parents=True)
        write_peft(adapter, partial, heads)
        with (partial / STATE).open("wb") as file:
            np.savez(file, allow_pickle=False, **{name: np.asarray(array) for name, array in state.items()})
        (partial / TRAINING).write_text(_json({"flux_train": VERSION, **training}), encoding="utf-8")
        for part in (*partial.iterdir(), partial):
            _to_disk(part)
        partial.rename(path)
        _to_disk(out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"{path}: the checkpoint cannot be written ({error.strerror}); make room, then resume"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """What `write_checkpoint` wrote. InputError naming the file and what is wrong with it."""
    training = read_training(path)
    file = path / STATE
    try:
        with np.load(file, allow_pickle=False) as arrays:
            state = {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror or error}); resume from another checkpoint"
        ) from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: is damaged ({error}); delete {path} to resume from the one before") from None
    return Checkpoint(path, training, state)


def read_training(path: Path) -> dict[str, Any]:
    """The loop's own state in a checkpoint, without the arrays."""
    file = path / TRAINING
    try:
        training = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); resume from another checkpoint") from None
    except ValueError as error:
        raise InputError(f"{file}: is no JSON ({error}); delete {path} to resume from the one before") from None
    if not isinstance(training, dict) or training.get("flux_train") != VERSION:
        raise InputError(f"{file}: is no checkpoint of version {VERSION}; start again, in another folder")
    return training


def last_checkpoint(out: Path) -> Path:
    """The newest checkpoint in `out`. InputError where there is none."""
    steps = checkpoints(out)
    if not steps:
        raise InputError(f"{out}: holds no checkpoint to resume from; start without resume")
    return checkpoint_path(out, steps[-1])


def prune(out: Path, keep: int, best: int | None = None) -> None:
    """Delete all checkpoints but the newest `keep` and that of step `best`."""
    for step in checkpoints(out)[:-keep]:
        if step != best:
            path = checkpoint_path(out, step)
            old = out / f".{path.name}.{os.getpid()}.old"  # first by name, so that half of one never has the real one
            path.rename(old)
            shutil.rmtree(old, ignore_errors=True)


def clean(out: Path) -> None:
    """Delete what killed writers have left in `out`."""
    if out.is_dir():
        for path in out.iterdir():
            if _LEFT.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
