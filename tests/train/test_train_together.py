"""Several trainings over one copy of the weights, what memory they take, and one that is killed on the device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.engine.model import load
from flux_vk.errors import AdapterError, InputError, OutOfDeviceMemory, TrainingDiverged
from flux_vk.formats.adapter import Adapter, LoraPair, write_gguf_adapter
from flux_vk.gpu import Device
from flux_vk.train import Trainer
from flux_vk.train.base import load_base
from flux_vk.train.checkpoint import checkpoints
from flux_vk.train.events import StepEvent
from flux_vk.train.lora import LoRA
from flux_vk.train.options import Experiment, TrainOptions
from flux_vk.train.session import check_fit, memory_report, run_experiments, run_training
from tests.train.test_training_loop import losses

TEXT = "Well, Prince, so Genoa and Lucca are now just family estates of the Buonapartes. "
RECORDS = [{"text": TEXT[i:] + TEXT[:i]} for i in range(0, 60, 10)]


@pytest.fixture
def how(demo_model: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a training of a few steps."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return {
        "model": demo_model, "data": data, "valid": data, "rank": 4, "alpha": 8.0, "lr": 5e-3, "batch_size": 2,
        "max_length": 32, "steps": 3, "save_every": 3, "eval_every": 3,
    }  # fmt: skip


def test_experiments_give_what_they_give_alone(how: dict[str, Any], tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(TEXT * 4)
    differ: dict[str, dict[str, Any]] = {
        "plain": {}, "wide": {"rank": 8, "target": "all-linear", "lr": 1e-3, "dropout": 0.2},
        "text": {"data": other, "optim": "sgd", "max_length": 16, "steps": 4, "recompute": True, "seed": 3},
    }  # fmt: skip
    options = {name: TrainOptions(**{**how, **own, "out": tmp_path / "one" / name}) for name, own in differ.items()}
    alone = {name: run_training(o) for name, o in options.items()}
    told: list[tuple[str, Any]] = []
    several = [Experiment(name, o.updated({"out": tmp_path / "all" / name})) for name, o in options.items()]
    together = run_experiments(several, lambda name, event: told.append((name, event)))
    order = [name for name, event in told if isinstance(event, StepEvent)]
    assert order == ["plain", "wide", "text"] * 3 + ["text"]
    for name, result in together.items():
        assert losses(result.out) == losses(alone[name].out)
        assert (result.valid_before, result.valid_after) == (alone[name].valid_before, alone[name].valid_after)
        for file in ("adapter_model.safetensors", "adapter.gguf"):
            assert (result.out / file).read_bytes() == (alone[name].out / file).read_bytes()


def test_one_that_diverges_leaves_the_others_alone(how: dict[str, Any], tmp_path: Path) -> None:
    good = TrainOptions(**how, out=tmp_path / "good")
    bad = good.updated({"out": tmp_path / "bad", "lr": 900.0, "clip": 0.0, "alpha": 1e6, "steps": 6})
    with pytest.raises(TrainingDiverged, match="experiment bad"):
        run_experiments([Experiment("bad", bad), Experiment("good", good)])
    assert (tmp_path / "good" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "bad" / "adapter_model.safetensors").exists()
    # What was stopped before its first checkpoint begins anew where the others are resumed.
    again = {name: good.updated({"out": tmp_path / name, "resume": True}) for name in ("bad", "good")}
    run_experiments([Experiment(name, options) for name, options in again.items()])
    bad_file, good_file = (tmp_path / name / "adapter.gguf" for name in again)
    assert bad_file.read_bytes() == good_file.read_bytes()


def test_an_adapter_of_another_model_is_no_beginning(how: dict[str, Any], tmp_path: Path) -> None:
    other = Adapter("llama", 8.0, {"blk.0.attn_q.weight": LoraPair(np.ones((4, 64), "f4"), np.ones((64, 4), "f4"))})
    write_gguf_adapter(other, tmp_path / "other.gguf")
    options = TrainOptions(**how, out=tmp_path / "o", init_from=tmp_path / "other.gguf")
    with pytest.raises(AdapterError, match=r"init-from .*other.gguf: blk.0.attn_q.weight: found factors"):
        run_training(options)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_is_predicted(how: dict[str, Any], tmp_path: Path, recompute: bool) -> None:
    options = TrainOptions(**{**how, "batch_size": 8, "max_length": 96, "packing": True}, recompute=recompute)
    predicted = memory_report(options)
    events: list[Any] = []
    result = run_training(options.updated({"out": tmp_path / "out", "steps": 1}), events.append)
    assert result.steps == 1
    seen = next(e.memory for e in events if isinstance(e, StepEvent))
    assert abs(sum(predicted.values()) / seen - 1) < 0.02


def test_memory_is_linear_in_tokens_and_counts_weights_once(how: dict[str, Any]) -> None:
    plain = TrainOptions(**{**how, "data": None, "valid": None, "max_length": 128})
    at = [
        memory_report(plain.updated({"batch_size": b, "recompute": r}))["activations"]
        for r in (False, True)
        for b in (2, 4, 8)
    ]
    for small, middle, large in (at[:3], at[3:]):
        assert middle - small > 0
        assert abs((large - middle) / (middle - small) / 2 - 1) < 0.1
    assert at[5] < at[2] / 2
    one = memory_report(plain)
    three = memory_report(plain, [Experiment(str(i), plain) for i in range(3)])
    assert three["weights"] == one["weights"]
    assert three["activations"] == one["activations"]
    assert three["adapter"] == 3 * one["adapter"]


def test_what_does_not_fit_is_refused_before_loading(device: Device) -> None:
    with pytest.raises(OutOfDeviceMemory, match="recompute, a smaller batch-size"):
        check_fit(device, {"weights": 10, "activations": 10**15})


def test_allocated_memory_is_what_is_told(demo_model: Path, how: dict[str, Any]) -> None:
    """The engine's own account against the device's, whose slabs of small buffers are 16 MiB each."""
    from flux_vk.train.engine import Engine

    device = Device()
    base = load_base(demo_model, device, 64)
    engine = Engine(base, LoRA(rank=32, alpha=64, target=("all-linear",)), 1024, recompute=True)
    engine.prepare()
    told = sum(engine.memory().values())
    assert told <= device.memory()["allocated"] <= told + 3 * (16 << 20)


def test_killed_on_the_device_and_resumed(how: dict[str, Any], tmp_path: Path) -> None:
    """kill -9 in the middle: the last checkpoint is whole, and the rest comes out as if nothing had happened."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = [
        "--data", str(how["data"]), "--rank", "4", "--lr", "5e-3", "--batch-size", "2", "--max-length", "32",
        "--steps", "40", "--save-every", "1", "--keep", "3", "--quiet",
    ]  # fmt: skip
    command = [sys.executable, "-m", "flux_vk.train", str(how["model"]), *flags]
    repo = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repo)}
    running = subprocess.Popen([*command, "--out", str(cut)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(checkpoints(cut) if cut.exists() else []) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it had ended before it could be killed"
    assert 1 <= checkpoints(cut)[-1] < 40
    subprocess.run([*command, "--out", str(cut), "--resume"], env=environment, check=True)
    subprocess.run([*command, "--out", str(whole)], env=environment, check=True)
    assert losses(cut) == losses(whole)
    assert (cut / "adapter.gguf").read_bytes() == (whole / "adapter.gguf").read_bytes()


def test_from_python(demo_model: Path, tmp_path: Path) -> None:
    """Records in memory, a LoRA object; what was learned is in the adapter, on the disk as well."""
    lora = LoRA(rank=4, alpha=8.0, target="q,v, down")  # type: ignore[arg-type]
    seen: list[Any] = []
    trainer = Trainer(
        demo_model, RECORDS, tmp_path / "out", valid=RECORDS[:1], lora=lora, callback=seen.append, steps=4, lr=1e-2,
        max_length=32, batch_size=3, early_stop=2,
    )  # fmt: skip
    assert trainer.memory()["adapter"] > 0
    result = trainer.run()
    assert result.valid_after is not None and result.valid_before is not None
    assert result.valid_after < result.valid_before
    assert any(isinstance(event, StepEvent) for event in seen)
    adapter = trainer.adapter()
    assert {name.split(".")[2] for name in adapter.tensors} == {"attn_q", "attn_v", "ffn_down"}
    ids = [1, 300, 301, 302]
    with load(demo_model, lora=adapter) as here, load(demo_model, lora=str(tmp_path / "out")) as stored:
        learned = here.logits(ids)
        assert np.array_equal(learned, stored.logits(ids))
    with load(demo_model) as plain:
        assert not np.allclose(plain.logits(ids), learned)


def test_python_options_are_checked(demo_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learning_rate"):
        Trainer(demo_model, RECORDS, tmp_path, learning_rate=1)
    with pytest.raises(InputError, match="data:2"):
        Trainer(demo_model, [RECORDS[0], {"prompt": 3}], tmp_path / "new")
    with pytest.raises(InputError, match="early-stop: needs validation data"):
        Trainer(demo_model, RECORDS, tmp_path / "new", early_stop=2)
    (tmp_path / "used" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(InputError, match="holds a training already"):
        Trainer(demo_model, RECORDS, tmp_path / "used")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"data": 5}, "data is int; expected a path, or a list"), ({"lora": {"rank": 4}}, "lora is dict; expected fx"),
        ({"out": None}, "out is NoneType; expected a path"), ({"data": RECORDS[0]}, "data is dict; expected a path"),
    ]  # fmt: skip
    for given, message in wrong:
        with pytest.raises(InputError, match=message):
            Trainer(**{"model": demo_model, "data": RECORDS, "out": tmp_path / "new", **given})
    with pytest.raises(InputError, match="rank is '4'; expected a number"):
        LoRA(rank="4")  # type: ignore[arg-type]
