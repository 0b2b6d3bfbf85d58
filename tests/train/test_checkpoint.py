"""Checkpoints: bit for bit, whole whenever the writer is killed, damaged ones named."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.train import checkpoint
from flux_vk.train.checkpoint import checkpoints, clean, last_checkpoint, prune, read_checkpoint, write_checkpoint
from tests.train.fake_engine import FakeEngine


def write(out: Path, step: int = 3) -> Path:
    engine = FakeEngine()
    state = {**engine.state(), "odd": np.array([np.float32(1e-45), np.nan, -0.0], np.float32)}
    return write_checkpoint(out, step, {"step": step, "loss": 0.1 + 0.2}, state, engine.adapter())


def test_bit_for_bit(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = read_checkpoint(path)
    assert found.training["loss"] == 0.1 + 0.2 and found.training["step"] == 3
    for name, array in FakeEngine().state().items():
        assert found.state[name].dtype == array.dtype and found.state[name].tobytes() == array.tobytes()
    assert found.state["odd"].tobytes() == np.array([np.float32(1e-45), np.nan, -0.0], np.float32).tobytes()
    assert {p.name for p in path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_one_that_is_there_stays(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = (path / "state.npz").stat().st_mtime_ns
    assert write(tmp_path) == path and (path / "state.npz").stat().st_mtime_ns == before


def test_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 11):
        write(tmp_path, step)
    assert checkpoints(tmp_path) == [1, 2, 9, 10, 11]
    prune(tmp_path, 2, best=2)
    assert checkpoints(tmp_path) == [2, 10, 11] and last_checkpoint(tmp_path).name == "checkpoint-11"
    assert len(list(tmp_path.iterdir())) == 3


def test_what_killed_writers_left_goes(tmp_path: Path) -> None:
    for name in (".checkpoint-3.77.part", ".checkpoint-3.77.old", ".checkpoint-mine", "checkpoint-x"):
        (tmp_path / name).mkdir()
    clean(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".checkpoint-mine", "checkpoint-x"}
    assert checkpoints(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.np, "savez", full)
    with pytest.raises(InputError, match=r"checkpoint-3: the checkpoint cannot be written \(No space left"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_writer_that_is_stopped_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.np, "savez", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("training.json", b"{", "is no JSON"),
        ("training.json", b"[]", "is no checkpoint of version 1"),
        ("training.json", b'{"flux_train": 2}', "is no checkpoint of version 1"),
        ("training.json", None, "cannot be read"),
        ("state.npz", b"PK\x03\x04 and so on", "is damaged|cannot be read"),
        ("state.npz", b"", "is damaged"),
        ("state.npz", None, "cannot be read"),
    ],
)
def test_damaged_ones_are_named(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    path = write(tmp_path)
    if content is None:
        (path / file).unlink()
    else:
        (path / file).write_bytes(content)
    with pytest.raises(InputError, match=f"checkpoint-3/{file}: .*({message})"):
        read_checkpoint(path)


def test_a_damaged_array_is_found(tmp_path: Path) -> None:
    path = write(tmp_path) / "state.npz"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="state.npz: is damaged"):
        read_checkpoint(path.parent)


def test_killed_at_any_moment_the_last_one_is_whole(tmp_path: Path) -> None:
    """kill -9 at moments drawn by chance, while a checkpoint is written after every step."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for round_ in range(5):
        out = tmp_path / str(round_)
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.train.fake_engine", str(out)],
            stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2], text=True,
        )  # fmt: skip
        assert child.stdout is not None
        for line in child.stdout:
            if line == "SavedEvent\n":
                break
        time.sleep(draw.uniform(0, 0.15))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert checkpoints(out)
        for step in checkpoints(out):
            found = read_checkpoint(out / f"checkpoint-{step}")
            assert found.training["step"] == step
            assert found.state["padding"].sum() == found.state["sum"][0]
        clean(out)
        assert all(not p.name.startswith(".") for p in out.iterdir())
