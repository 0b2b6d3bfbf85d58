"""A whole training on the device, from files to files; resumed from a checkpoint it gives the same bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from flux_vk.train.events import StepEvent
from flux_vk.train.options import TrainOptions
from flux_vk.train.session import run_training
from tests.train.test_trainer import losses

LINE = "Well, Prince, so Genoa and Lucca are now just family estates of the Buonapartes."


def test_resumed_on_the_device_it_gives_the_same_bits(demo_model: Path, tmp_path: Path) -> None:
    data, valid = tmp_path / "d.jsonl", tmp_path / "v.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": LINE[: 9 * i], "completion": LINE[9 * i :]}) + "\n" for i in range(1, 7))
    )
    valid.write_text(json.dumps({"text": LINE}) + "\n")
    how: dict[str, Any] = {
        "model": demo_model, "data": data, "valid": valid, "steps": 4, "save_every": 2, "keep": 5, "rank": 4,
        "lr": 1e-2, "batch_size": 1, "grad_accum": 2, "max_length": 32, "packing": True, "mask_prompt": True,
        "dropout": 0.1,
    }  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    events: list[Any] = []
    result = run_training(TrainOptions(**how, out=whole), events.append)
    assert result.valid_before is not None and result.valid_after is not None
    assert result.valid_after < result.valid_before - 0.1
    assert all(e.memory > 5_000_000 and e.grad_norm > 0 for e in events if isinstance(e, StepEvent))
    cut.mkdir()
    shutil.copytree(whole / "checkpoint-2", cut / "checkpoint-2")
    shutil.copy(whole / "metrics.jsonl", cut)
    run_training(TrainOptions(**how, out=cut, resume=True))
    assert losses(cut) == losses(whole)
    for name in ("adapter_model.safetensors", "adapter.gguf", "checkpoint-4/adapter_model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
