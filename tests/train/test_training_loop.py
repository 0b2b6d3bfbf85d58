"""The loop: steps and submits, rates, evaluations, early stop, divergence, Ctrl-C, resuming to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import InputError, TrainingDiverged
from flux_vk.formats.adapter import read_adapter
from flux_vk.train import plot
from flux_vk.train.checkpoint import checkpoints
from flux_vk.train.events import EvalEvent, NoteEvent, SavedEvent, StartEvent, StepEvent
from flux_vk.train.loop import TrainingLoop, check_out
from flux_vk.train.metrics import read_metrics
from flux_vk.train.options import TrainOptions
from tests.train.fake_engine import WEIGHT, FakeEngine, examples, trainer


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C raises also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def picture() -> None:
    """A test that takes it wants the picture drawn."""


@pytest.fixture(autouse=True)
def no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else here."""
    if "picture" not in request.fixturenames:
        monkeypatch.setattr(plot, "draw", lambda *_: True)


def of(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def losses(out: Path) -> list[tuple[int, str, float]]:
    """Everything in metrics.jsonl but times."""
    kept = ("step", "epoch", "loss", "smoothed", "lr", "grad_norm", "tokens", "valid_loss")
    return [(m["step"], k, m[k]) for m in read_metrics(out / "metrics.jsonl") for k in kept if k in m]


def test_it_learns_and_writes_everything(tmp_path: Path, picture: None) -> None:
    events: list[Any] = []
    engine = FakeEngine()
    result = trainer(tmp_path / "o", engine, n_valid=4, events=events, epochs=20).run()
    assert (result.steps, result.kept, result.stopped_early) == (100, 100, False)
    assert result.valid_before == pytest.approx(np.log(16), rel=1e-6)
    assert result.valid_after is not None and result.valid_after < 0.6 * np.log(16)
    assert {p.name for p in result.out.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "adapter.gguf", "loss.png", "metrics.jsonl",
        "checkpoint-95", "checkpoint-100",
    }  # fmt: skip
    for written in (result.out, result.out / "adapter.gguf", result.out / "checkpoint-100"):
        found = read_adapter(written).tensors[WEIGHT]
        assert np.array_equal(found.b, engine.adapter().tensors[WEIGHT].b)
    start, *rest = events
    assert (start.step, start.steps, start.per_epoch, start.examples, start.resumed) == (0, 100, 5, 10, None)
    steps = of(rest, StepEvent)
    assert [s.step for s in steps] == list(range(1, 101))
    assert [s.epoch for s in steps[:6]] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.2]
    assert steps[0].memory == sum(engine.memory().values()) and steps[-1].eta == 0 and steps[5].tokens_per_second > 0
    assert [e.step for e in of(rest, EvalEvent)] == [0, *range(5, 101, 5)]
    assert len(of(rest, SavedEvent)) == 20


def test_submits_of_accumulated_steps(tmp_path: Path) -> None:
    """k submits a step, the last one with the update; the last step of an epoch has what is left."""
    engine = FakeEngine()
    t = trainer(tmp_path, engine, grad_accum=3, epochs=2)
    t.run()
    updates = [u for _, u in engine.submits]
    assert [u is not None for u in updates] == [False, False, True, False, True] * 2
    assert [u.step for u in updates if u] == [1, 2, 3, 4]
    tokens = [n for n, _ in engine.submits]
    assert [u.counted for u in updates if u] == [sum(tokens[:3]), sum(tokens[3:5]), sum(tokens[5:8]), sum(tokens[8:])]
    assert t.total == 4


def test_accumulating_equals_a_larger_batch(tmp_path: Path) -> None:
    trainer(tmp_path / "a", batch_size=2, grad_accum=2, epochs=2, n=8).run()
    trainer(tmp_path / "b", batch_size=4, epochs=2, n=8).run()
    a, b = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert [x[:2] for x in a] == [x[:2] for x in b]
    assert [x[2] for x in a] == pytest.approx([x[2] for x in b], rel=1e-5)


def test_epochs_of_packed_rows_differ_in_steps(tmp_path: Path) -> None:
    """How many rows the examples fill depends on their order."""
    events: list[Any] = []
    t = trainer(tmp_path, n=7, packing=True, epochs=4, events=events)
    assert [t.batches.count(epoch) for epoch in range(4)] == [3, 2, 2, 2]
    assert t.run().steps == 9
    assert of(events, StepEvent)[-1].epoch == 4


def test_rates_follow_the_schedule(tmp_path: Path) -> None:
    engine = FakeEngine()
    trainer(tmp_path, engine, steps=8, warmup=2, schedule="linear").run()
    assert [u.lr for _, u in engine.submits if u] == pytest.approx(
        [0, 0.025, *(0.05 * i / 6 for i in (6, 5, 4, 3, 2, 1))]
    )


def test_steps_go_on_over_epochs_and_end_within_one(tmp_path: Path) -> None:
    events: list[Any] = []
    trainer(tmp_path, events=events, steps=12, save_every=4, eval_every=6, n_valid=2).run()
    assert of(events, StepEvent)[-1].epoch == 2.4
    assert [e.step for e in of(events, SavedEvent)] == [4, 8, 12]
    assert [e.step for e in of(events, EvalEvent)] == [0, 6, 12]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resuming_gives_the_same_bits(tmp_path: Path, packing: bool, stop: int) -> None:
    """The process ends in the middle; what it did after the last checkpoint is done again."""
    how: dict[str, Any] = {
        "steps": 8,
        "save_every": 2,
        "eval_every": 3,
        "n_valid": 3,
        "grad_accum": 2,
        "packing": packing,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    engine = FakeEngine()
    trainer(whole, engine, **how).run()
    first = trainer(cut, **how)
    first.start()
    for _ in range(stop):
        first.step()
    first.close()
    if stop == 1:
        first.save()  # as Ctrl-C does
    again = FakeEngine(seed=99)
    events: list[Any] = []
    trainer(cut, again, **how, resume=True, events=events).run()
    assert events[0].step == (1 if stop == 1 else stop - 1) and events[0].resumed is not None
    assert losses(cut) == losses(whole)
    assert again.state().keys() == engine.state().keys()
    for name, array in again.state().items():
        assert array.tobytes() == engine.state()[name].tobytes()
    for name in ("adapter_model.safetensors", "adapter.gguf"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_what_a_killed_training_left_goes(tmp_path: Path) -> None:
    trainer(tmp_path, steps=2, save_every=2).run()
    (tmp_path / ".checkpoint-9.77.part").mkdir()
    trainer(tmp_path, steps=4, resume=True).run()
    assert not list(tmp_path.glob(".checkpoint*"))


def test_resuming_what_is_done_writes_it_again(tmp_path: Path) -> None:
    trainer(tmp_path, steps=3).run()
    (tmp_path / "adapter.gguf").unlink()
    engine = FakeEngine(seed=5)
    assert trainer(tmp_path, engine, steps=3, resume=True).run().steps == 3
    assert not engine.submits and (tmp_path / "adapter.gguf").exists()


def test_a_longer_training_goes_on(tmp_path: Path) -> None:
    trainer(tmp_path, steps=3).run()
    assert trainer(tmp_path, steps=5, resume=True).run().steps == 5
    assert [m["step"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.1}, r"was made with lr 0\.05, not 0\.1;"),
        ({"seed": 1, "grad_accum": 2}, "was made with grad-accum 1, not 2; seed 0, not 1;"),
        ({"n": 11}, "was made with other training data; give"),
        ({"init_from": Path("other")}, "was made with init-from None, not .*other;"),
    ],
)
def test_other_options_or_data_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    trainer(tmp_path, steps=2).run()
    with pytest.raises(InputError, match=f"checkpoint-2: {message}"):
        trainer(tmp_path, **{"steps": 4, "resume": True, **changed}).run()


def test_another_model_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, steps=2).run()
    options = trainer(tmp_path, steps=4, resume=True).options
    other = TrainingLoop(FakeEngine(), examples(10), [], options, max_length=8, out=tmp_path, about={"model": "big"})
    with pytest.raises(InputError, match="was made with model tiny, not big;"):
        other.run()


def test_other_validation_data_starts_its_losses_anew(tmp_path: Path) -> None:
    trainer(tmp_path, steps=2, n_valid=2).run()
    made = tmp_path / "checkpoint-2" / "training.json"
    made.write_text(json.dumps({**json.loads(made.read_text()), "worse": 2}))
    t = trainer(tmp_path, steps=4, n_valid=3, resume=True)
    t.start()
    assert t.progress.best is None and t.progress.worse == 0 and t.progress.step == 2
    t.close()


def test_folders_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        trainer(tmp_path, resume=True).run()
    trainer(tmp_path, steps=1).run()
    with pytest.raises(InputError, match=r"holds a training already \(checkpoint-1\); resume it, or name"):
        trainer(tmp_path, steps=1).run()
    with pytest.raises(InputError, match="checkpoint-1: 1 steps are done, expected at most the .* asked for; resume"):
        done = trainer(tmp_path, steps=1, resume=True)
        done.total = 0
        done.run()
    shutil.rmtree(tmp_path / "checkpoint-1")
    with pytest.raises(InputError, match=r"holds an adapter already \(adapter_model.safetensors\); name another"):
        trainer(tmp_path, steps=1).run()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no folder"):
        trainer(tmp_path / "file", steps=1).run()
    with pytest.raises(InputError, match="file/x cannot be made, since .*/file is no folder"):
        check_out(tmp_path / "file" / "x", resume=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=f"cannot be written .no permission in {tmp_path}."):
        check_out(tmp_path / "new" / "x", resume=False)
    with pytest.raises(InputError, match="out: no folder"):
        TrainingLoop(FakeEngine(), examples(2), [], TrainOptions(), max_length=8)


def test_what_ended_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged):
        trainer(tmp_path, FakeEngine(poison=2), steps=9, save_every=9).run()
    assert (tmp_path / "metrics.jsonl").exists()
    assert trainer(tmp_path, steps=1).run().steps == 1
    assert [m["step"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def test_early_stop_keeps_the_best_adapter(tmp_path: Path) -> None:
    """Learning what validation data contradicts: its loss rises from the first step on, or falls and then rises."""
    events: list[Any] = []
    engine = FakeEngine()
    t = trainer(tmp_path, engine, n_valid=4, events=events, steps=500, eval_every=2, early_stop=3, lr=0.5, keep=1)
    result = t.run()
    assert result.stopped_early and result.steps < 500 and result.kept < result.steps
    evals = of(events, EvalEvent)
    best = min(evals, key=lambda e: e.loss)
    assert (result.kept, result.valid_after) == (best.step, best.loss)
    assert [e.improved for e in evals[-4:]] == [True, False, False, False]
    assert result.steps == best.step + 6
    assert checkpoints(tmp_path) == [best.step, result.steps]  # the best one stays, whatever `keep` says
    written = read_adapter(tmp_path).tensors[WEIGHT].b
    assert np.array_equal(written, read_adapter(tmp_path / f"checkpoint-{best.step}").tensors[WEIGHT].b)
    assert not np.array_equal(written, read_adapter(tmp_path / f"checkpoint-{result.steps}").tensors[WEIGHT].b)
    assert "the best validation loss" in of(events, NoteEvent)[0].text


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    t = trainer(tmp_path, FakeEngine(poison=5), steps=9, save_every=2)
    with pytest.raises(
        TrainingDiverged, match=r"step 6: the loss is nan at .*last good checkpoint is .*-4 .init-from.*; a lower lr"
    ):
        t.run()
    assert checkpoints(tmp_path) == [2, 4]
    assert [m["step"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_gradient_that_is_no_number_ends_it(tmp_path: Path) -> None:
    """The loss may be finite still."""
    engine = FakeEngine()
    t = trainer(tmp_path, engine, steps=9, grad_accum=2, save_every=2)

    def overflow() -> None:
        if engine.micro == 5:
            engine.grads[0] = np.inf

    engine.on_submit = overflow
    with pytest.raises(TrainingDiverged, match=r"step 4: the gradient is inf at .*checkpoint-2 "):
        t.run()


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingDiverged, match="weights are no finite numbers any more after step 2; no checkpoint was"
    ):
        trainer(tmp_path, FakeEngine(poison=2), steps=9, save_every=2).run()
    with pytest.raises(TrainingDiverged, match="the validation loss is nan after step 3; "):
        trainer(tmp_path / "v", FakeEngine(poison=3), steps=9, save_every=9, eval_every=3, n_valid=2).run()
    assert not checkpoints(tmp_path / "v")


def test_ctrl_c_saves_after_the_step_at_hand(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.on_submit = lambda: signal.raise_signal(signal.SIGINT) if engine.micro == 2 else None
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, engine, steps=9).run()
    assert checkpoints(tmp_path) == [3] and engine.micro == 3
    assert signal.getsignal(signal.SIGINT) == before
    assert trainer(tmp_path, steps=9, resume=True).run().steps == 9


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    engine = FakeEngine()

    def twice() -> None:
        if engine.micro == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    engine.on_submit = twice
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, engine, steps=9).run()
    assert not checkpoints(tmp_path) and engine.micro == 2


def test_ctrl_c_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As it is for what a script starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = FakeEngine()
    engine.on_submit = lambda: signal.raise_signal(signal.SIGINT)
    assert trainer(tmp_path, engine, steps=2).run().steps == 2
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_several_trainings_side_by_side_equal_single_ones(tmp_path: Path) -> None:
    """As experiments over one copy of the weights are run: a step of each in turn."""
    pairs = [{"seed": 1, "lr": 0.1}, {"batch_size": 3}]
    for i, how in enumerate(pairs):
        trainer(tmp_path / f"single{i}", steps=4, **how).run()
    several = [trainer(tmp_path / f"side{i}", steps=4, **how) for i, how in enumerate(pairs)]
    for t in several:
        t.start()
    while not all(t.done for t in several):
        for t in several:
            t.step()
    for i, t in enumerate(several):
        t.finish()
        assert losses(tmp_path / f"side{i}") == losses(tmp_path / f"single{i}")


def test_no_picture_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: None) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    events: list[Any] = []
    trainer(tmp_path, steps=1, events=events).run()
    assert not (tmp_path / "loss.png").exists()
    assert "flux_vk[plots]" in of(events, NoteEvent)[0].text


def test_metrics_are_json_lines(tmp_path: Path) -> None:
    events: list[Any] = []
    trainer(tmp_path, steps=2, n_valid=2, events=events).run()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [sorted(json.loads(line)) for line in lines[:2]] == [
        ["step", "valid_loss"],
        ["epoch", "grad_norm", "loss", "lr", "seconds", "smoothed", "step", "tokens", "tokens_per_second"],
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines[:2], lines[2][:20]]))
    assert [m["step"] for m in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]
    assert isinstance(events[0], StartEvent)
