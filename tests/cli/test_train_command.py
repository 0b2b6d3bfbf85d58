"""`python -m flux_vk.train`: which options win, what is said where, exit codes; a fake training in place of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flux_vk.cli.terminal import Terminal
from flux_vk.cli.train import main
from flux_vk.cli.train.view import View, duration
from flux_vk.errors import TrainingDiverged
from flux_vk.train import session
from flux_vk.train.events import EvalEvent, NoteEvent, SavedEvent, StartEvent, StepEvent, TrainResult
from flux_vk.train.options import Experiment, TrainOptions
from tests.train.fake_engine import trainer


class FakeTraining:
    """Records what `run_training` is given, sends some events, and gives a result (or raises `error`)."""

    def __init__(self) -> None:
        self.options: list[TrainOptions] = []
        self.error: BaseException | None = None

    def run_training(self, options: TrainOptions, callback: Any = None, loaded: Any = None) -> TrainResult:
        self.options.append(options)
        loaded(10, 10)
        callback(NoteEvent("d.jsonl: 4 examples"))
        callback(StartEvent(0, 2, 1, 4, None))
        for i in (1, 2):
            callback(StepEvent(i, 2, i / 2, 2.5, 2.25, 1e-4, 0.5, 64, 320.0, 0.2, 1_500_000, 61.0 * (2 - i)))
        if self.error is not None:
            raise self.error
        callback(EvalEvent(2, 2.125, True, 0.1))
        assert options.out is not None
        callback(SavedEvent(2, options.out / "checkpoint-2"))
        return TrainResult(options.out, 2, 2, 2.25, 3.0, 2.125, False)

    def run_experiments(
        self, experiments: tuple[Experiment, ...], callback: Any, loaded: Any
    ) -> dict[str, TrainResult]:  # fmt: skip
        return {
            e.name: self.run_training(e.options, lambda event, name=e.name: callback(name, event), loaded)
            for e in experiments
        }  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTraining:
    monkeypatch.chdir(tmp_path)
    training = FakeTraining()
    monkeypatch.setattr(session, "run_training", training.run_training)
    monkeypatch.setattr(session, "run_experiments", training.run_experiments)
    return training


GIVEN = ("m.gguf", "--data", "d.jsonl", "--out", "o")


def test_every_option_arrives(fake: FakeTraining) -> None:
    line = """m.gguf --data d.jsonl --valid v.jsonl --out o --rank 8 --alpha 16 --dropout 0.1 --target q,down --rslora
        --lr 1e-3 --schedule linear --warmup 10 --epochs 2 --steps 50 --batch-size 3 --grad-accum 2 --max-length 64
        --packing --mask-prompt --optim sgd --weight-decay 0.1 --clip 0.5 --recompute --eval-every 5 --save-every 7
        --early-stop 2 --seed 9 --init-from a --skip-bad --device 0 --min-lr 1e-5 --keep 3"""
    assert main(line.split()) == 0
    assert fake.options == [
        TrainOptions(
            Path("m.gguf"), Path("d.jsonl"), Path("v.jsonl"), Path("o"), Path("a"), "0", 8, 16.0, 0.1,
            ("q_proj", "down_proj"), True, 1e-3, 1e-5, "linear", 10.0, 2, 50, 3, 2, 64, True, True, "sgd", 0.1,
            clip=0.5, recompute=True, eval_every=5, save_every=7, keep=3, early_stop=2, seed=9, skip_bad=True,
        )
    ]  # fmt: skip


def test_without_flags_there_are_defaults(fake: FakeTraining) -> None:
    assert main(GIVEN) == 0
    assert fake.options == [TrainOptions(Path("m.gguf"), Path("d.jsonl"), out=Path("o"))]


def test_flags_win_over_the_file(fake: FakeTraining, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('data = "c.jsonl"\nrank = 4\nlr = 1e-3\npacking = true\nbetas = [0.8, 0.9]\n')
    assert main(["m.gguf", "--out", "o", "--config", "c.toml", "--rank", "8", "--no-packing"]) == 0
    (o,) = fake.options
    assert (o.data, o.rank, o.lr, o.packing, o.betas) == (Path("c.jsonl"), 8, 1e-3, False, (0.8, 0.9))


def test_resuming_takes_the_checkpoints_options(
    fake: FakeTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t = trainer(tmp_path / "o", steps=2, seed=7, data=Path("d.jsonl"), model=Path("m.gguf"))
    t.run()
    assert main(["--out", "o", "--resume"]) == 0
    assert main(["--out", "o", "--resume", "--epochs", "9", "--save-every", "3"]) == 0
    same, longer = fake.options
    assert (same.seed, same.steps, same.resume, same.model) == (7, 2, True, tmp_path / "m.gguf")
    assert (longer.steps, longer.epochs, longer.save_every) == (None, 9, 3)
    saved = tmp_path / "o" / "checkpoint-2" / "training.json"
    saved.write_text(saved.read_text().replace('"rank": 32', '"rank": "x"'))
    assert main(["--out", "o", "--resume"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "flux_vk: o/checkpoint-2: rank: found 'x', expected a whole number from 1 to 1024"


def test_what_is_said(fake: FakeTraining, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GIVEN) == 0
    said = capsys.readouterr()
    assert said.out == "o: adapter of step 2, validation loss 3.0000 before, 2.1250 after\n"
    figures = "loss 2.500, smoothed 2.250, lr 1.00e-04, norm 0.5, 320 tokens/s, 1.5 MB"
    assert said.err.splitlines() == [
        "d.jsonl: 4 examples",
        "4 examples, 2 steps, 1 an epoch",
        f"step 1/2, epoch 0.50: {figures}, 1:01 left",
        f"step 2/2, epoch 1.00: {figures}, 0:00 left",
        "step 2: validation loss 2.1250 (the best so far)",
        "step 2: saved o/checkpoint-2",
    ]
    assert main([*GIVEN, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_live_progress_ends_as_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    view = View(Terminal(), live=True)
    view(StartEvent(3, 9, 2, 4, Path("o/checkpoint-3")))
    view(StepEvent(4, 9, 2.0, 2.5, 2.25, 1e-4, 0.5, 64, 320.0, 0.2, 1_500_000, 3723.0))
    view(NoteEvent("[bold]a note"))
    view.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "going on from o/checkpoint-3" and "[bold]a note" in lines
    assert lines[-1].startswith("step 4/9, epoch 2.00: loss 2.500") and lines[-1].endswith("1:02:03 left")
    assert duration(59.6) == "1:00 left"


def test_experiments(fake: FakeTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.toml").write_text("[small]\nrank = 4\n[large]\nrank = 64\n")
    assert main([*GIVEN, "--experiments", "e.toml"]) == 0
    assert [(o.rank, o.out) for o in fake.options] == [(4, Path("o/small")), (64, Path("o/large"))]
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["o/small", "o/large"]
    assert "small: step 1/2, epoch" in said.err and "large: step 2: saved o/large/checkpoint-2" in said.err
    assert main([*GIVEN, "--experiments", "e.toml", "--resume"]) == 0  # the checkpoints are in the folders of each
    assert [o.resume for o in fake.options] == [False, False, True, True]


def test_a_dry_run_is_a_table(fake: FakeTraining, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    report: Callable[..., dict[str, int]] = lambda options, experiments: {"weights": 5_000_000, "adapter": 1000}  # noqa: E731
    monkeypatch.setattr(session, "memory_report", report)
    assert main(["m.gguf", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "device memory of training m.gguf, rank 32\n  weights     5.0 MB\n  adapter     1.0 kB\n  in all      5.0 MB\n"
    )
    assert not fake.options


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no MODEL was named"),
        ("m.gguf --out o", "--data: no training data was named"),
        ("m.gguf --data d", "--out: no folder for the adapter was named"),
        ("m.gguf --data d --out o --early-stop 2", "early-stop: needs validation data"),
        ("m.gguf --data d --out o --target x", "target: found 'x'"),
        ("m.gguf --data d --out o --config none.toml", "none.toml: cannot be read"),
        ("--out o --resume", "o: holds no checkpoint to resume from"),
    ],
)
def test_what_makes_no_sense(fake: FakeTraining, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr().err.startswith(f"flux_vk: {message}")
    assert not fake.options


def test_flags_that_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["m.gguf", "--rank", "many"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("flux_vk: argument --rank: found 'many', expected a whole number")


def test_failures(fake: FakeTraining, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = TrainingDiverged("step 3: the loss is nan; the last good checkpoint is o/checkpoint-2")
    assert main(GIVEN) == 1
    assert "flux_vk: step 3: the loss is nan; the last good checkpoint is o/checkpoint-2\n" in capsys.readouterr().err
    fake.error = KeyboardInterrupt()
    assert main(GIVEN) == 130
    assert "--resume" not in capsys.readouterr().err
    Path("o/checkpoint-2").mkdir(parents=True)
    assert main(GIVEN) == 130
    assert capsys.readouterr().err.endswith(
        "stopped; --resume goes on from the last checkpoint\nflux_vk: interrupted\n"
    )


def test_merge_is_a_command_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    given: list[list[str]] = []
    merge = SimpleNamespace(main=lambda words: given.append(words) or 7)
    monkeypatch.setitem(sys.modules, "flux_vk.cli.train.merge", merge)  # type: ignore[arg-type]
    assert main(["merge", "m.gguf", "a", "-o", "x"]) == 7
    assert given == [["m.gguf", "a", "-o", "x"]]
