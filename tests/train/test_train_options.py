"""Options of a training: values that make no sense, names that are none, files of options and of experiments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.train.lora import Layout, LoRA, Site, initial
from flux_vk.train.options import LINEAR, TrainOptions, read_config, read_experiments


def test_defaults() -> None:
    o = TrainOptions()
    assert (o.rank, o.alpha, o.dropout, o.target) == (32, 64.0, 0.0, ("q_proj", "v_proj"))
    assert (o.lr, o.schedule, o.batch_size, o.clip, o.weight_decay) == (2e-4, "cosine", 4, 1.0, 0.01)
    assert o.n_epochs == 3 and TrainOptions(epochs=1).n_epochs == 1
    assert o.length(4096) == 512 and o.length(128) == 128 and TrainOptions(max_length=64).length(128) == 64
    with pytest.raises(InputError, match="max-length: found 256, expected at most the model's context, 128"):
        TrainOptions(max_length=256).length(128)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 0}, "rank: found 0, expected a whole number from 1 to 1024"),
        ({"rank": 8.0}, "rank: found 8.0"),
        ({"rank": True}, "rank: found True"),
        ({"alpha": 0}, "alpha: found 0, expected a number above 0"),
        ({"dropout": 1}, "dropout: found 1, expected a number from 0 and below 1"),
        ({"lr": float("nan")}, "lr: found nan"),
        ({"lr": "fast"}, "lr: found 'fast'"),
        ({"lr": 1e-4, "min_lr": 1e-3}, "min-lr: found 0.001, expected at most the learning rate 0.0001"),
        ({"warmup": 1.5}, "warmup: found 1.5, expected a share of all steps below 1, or a whole number of steps"),
        ({"schedule": "cosin"}, "schedule: found 'cosin', expected one of cosine, linear, constant"),
        ({"optim": "adam"}, "optim: found 'adam'"),
        ({"target": "q,x"}, "target: found 'x', expected one of q_proj"),
        ({"target": ""}, "target: found ''"),
        ({"target": 3}, "target: found 3, expected names"),
        ({"packing": "yes"}, "packing: found 'yes', expected true or false"),
        ({"betas": [0.9]}, "betas: found"),
        ({"betas": [0.9, 1.0]}, "betas: found 1.0"),
        ({"grad_accum": -1}, "grad-accum: found -1"),
        ({"data": 3}, "data: found 3, expected a path"),
    ],
)
def test_values_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        TrainOptions(**given)


def test_numbers_of_numpy_are_numbers() -> None:
    o = TrainOptions(steps=np.int64(3), lr=np.float32(0.5))  # type: ignore[arg-type]
    assert (o.steps, o.lr) == (3, 0.5) and type(o.steps) is int and type(o.lr) is float


def test_targets() -> None:
    assert TrainOptions(target="v,q_proj, q").target == ("q_proj", "v_proj")  # type: ignore[arg-type]
    assert TrainOptions(target=("all-linear",)).target == LINEAR
    assert TrainOptions(target=("qkv_proj",)).target == ("qkv_proj",)


def test_options_survive_json() -> None:
    o = TrainOptions(data=Path("/a/b.jsonl"), target=("gate_proj",), seed=2**64 - 1, device="1", betas=(0.8, 0.99))
    assert TrainOptions.from_dict(json.loads(json.dumps(o.to_dict()))) == o
    # A training may be resumed from another folder.
    assert TrainOptions(data=Path("b.jsonl")).to_dict()["data"] == str(Path.cwd() / "b.jsonl")


def test_a_file_of_options(tmp_path: Path) -> None:
    config = tmp_path / "train.toml"
    config.write_text('data = "my.jsonl"\nbatch-size = 8\nlr = 1e-3\ndevice = 1\ntarget = ["q", "o"]\n')
    found = read_config(config)
    assert found["data"] == tmp_path / "my.jsonl"
    o = TrainOptions(**{**found, "lr": 1e-4})
    assert (o.batch_size, o.lr, o.device, o.target) == (8, 1e-4, "1", ("q_proj", "o_proj"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate = 1\nlr = 2\n", "learning_rate is no option of a training; options are"),
        ("batchsize = 1\n", "batchsize is no option of a training; did you mean batch_size?"),
        ("[lora]\nrank = 1\n", "lora is no option"),
        ("rank = \n", "is no valid TOML"),
        ("rank = 'a'\n", "rank: found 'a'"),
        ("batch-size = 2\nbatch_size = 3\n", "found batch-size and batch_size, which are the same"),
    ],
)
def test_files_of_options_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "train.toml"
    config.write_text(text)
    with pytest.raises(InputError, match="train.toml: .*" + message.replace("?", r"\?")):
        read_config(config)
    with pytest.raises(InputError, match="absent.toml: cannot be read"):
        read_config(tmp_path / "absent.toml")


def test_a_file_of_experiments(tmp_path: Path) -> None:
    path = tmp_path / "several.toml"
    path.write_text('epochs = 2\n[small]\nrank = 4\n[other]\nrank = 8\ndata = "b.jsonl"\nlr = 1e-3\nout = "there"\n')
    base = TrainOptions(data=Path("a.jsonl"), out=Path("o"), lr=5e-4)
    small, other = read_experiments(path, base)
    assert (small.name, small.options.rank, small.options.lr, small.options.epochs) == ("small", 4, 5e-4, 2)
    assert (small.options.data, small.options.out) == (Path("a.jsonl"), Path("o/small"))
    assert (other.options.data, other.options.out) == (tmp_path / "b.jsonl", tmp_path / "there")
    assert other.options.lr == 1e-3
    flags = {"epochs": 5, "lr": 1e-4}
    small, other = read_experiments(path, base, flags)
    assert (small.options.epochs, small.options.lr, other.options.epochs, other.options.lr) == (5, 1e-4, 5, 1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank = 1\n", "found no table"),
        ("[a]\nranks = 1\n", "ranks is no option of a training; did you mean rank?"),
        ("['a/b']\nrank = 1\n", "an experiment's name is its folder's"),
        ("[a]\ndevice = '1'\n", "device is the same for all experiments"),
        ("[a]\nrank = 0\n", r"\[a\]: rank: found 0"),
        ("min-lr = 1e-4\n[a]\nlr = 1e-5\n", r"\[a\]: min-lr: found 0.0001, expected at most"),
        ("[a]\nout = 'x'\n[b]\nout = 'x'\n", r"\[b\]: out: found .*x, where \[a\] writes"),
    ],
)
def test_files_of_experiments_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "several.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="several.toml: .*" + message.replace("?", r"\?")):
        read_experiments(path, TrainOptions())


def test_every_seed_begins_elsewhere() -> None:
    layout = Layout({"w": Site(0, "w", 2, 8, 8, 0, 64)}, 128, LoRA(rank=2))
    seeds = (0, 1, 2**63, 2**63 + 1, 2**64 - 1)
    assert len({initial(layout, seed).tobytes() for seed in seeds}) == len(seeds)
