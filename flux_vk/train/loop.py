"""The loop of a training: which micro-batches, which rates, when to evaluate, to save and to end.

It stands on an engine (protocol.py) and knows no device. Not for: reading data and making engines (session.py).
"""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flux_vk.errors import InputError, TrainingDiverged
from flux_vk.formats.adapter import write_gguf_adapter, write_peft

from . import plot
from .batches import Batches, Example, MicroBatch
from .checkpoint import (
    checkpoint_path,
    checkpoints,
    clean,
    last_checkpoint,
    prune,
    read_checkpoint,
    write_checkpoint,
)
from .events import Callback, EvalEvent, Event, NoteEvent, SavedEvent, StartEvent, StepEvent, TrainResult
from .interrupt import Interrupt
from .metrics import NAME as METRICS
from .metrics import Metrics, read_metrics
from .options import TrainOptions
from .progress import Progress, fingerprints, resumed
from .protocol import Engine, StepResult, Update, finite
from .schedules import Schedule

GGUF_ADAPTER = "adapter.gguf"
ADAPTER_FILES = ("adapter_model.safetensors", GGUF_ADAPTER)
"""Not metrics.jsonl: what ended before its first checkpoint can only be begun again."""

NO_VALID = "early-stop: needs validation data to look at; give valid too"

_SMOOTH = 0.9
_PACE = 0.9


def check_out(out: Path, resume: bool) -> None:
    """InputError where `out` cannot take a new training, or holds none to resume: before anything is loaded."""
    if importlib.util.find_spec("safetensors") is None:
        raise InputError("adapters are written with the safetensors package: pip install 'flux_vk[train]'")
    if resume:
        last_checkpoint(out)
        return
    if out.exists() and not out.is_dir():
        raise InputError(f"out: {out} is no folder; name one for the adapter")
    there = [checkpoint_path(out, step).name for step in checkpoints(out)]
    if there:
        raise InputError(f"out: {out} holds a training already ({there[-1]}); resume it, or name another folder")
    files = [name for name in ADAPTER_FILES if (out / name).exists()]
    if files:
        raise InputError(f"out: {out} holds an adapter already ({files[0]}); name another folder")
    _check_room(out)


def _check_room(out: Path) -> None:
    """InputError where the folder, or one to make it in, cannot be written."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"out: {out} cannot be made, since {there} is no folder; name another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"out: {out} cannot be written (no permission in {there}); name another folder")


class TrainingLoop:
    """A training from its first step, or from a checkpoint, to its end.

    `run` does all of it. Others may take the steps themselves, to have several trainings side by side: `start`, then
    `step` while it returns True, then `finish`; `close` in any case.
    """

    def __init__(
        self,
        engine: Engine,
        train: Sequence[Example],
        valid: Sequence[Example],
        options: TrainOptions,
        *,
        max_length: int,
        out: Path | None = None,
        heads: tuple[int, int] | None = None,
        about: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
    ) -> None:
        """train, valid: examples of at most max_length rows; valid may be empty. out: the folder; None: options.out.

        heads: (n_heads, n_kv_heads) of the model, for PEFT files of some architectures. about: plain values that must
        be the same where the training is resumed, such as the model's name. InputError for options that do not fit.
        """
        self.engine, self.options, self.heads = engine, options, heads
        folder = out or options.out
        if folder is None:
            raise InputError("out: no folder for the adapter was named; expected one")
        self.out = folder
        self.batches = Batches(train, options.batch_size, max_length, options.packing, options.seed)
        self.valid = Batches(valid, options.batch_size, max_length) if valid else None
        if options.early_stop is not None and self.valid is None:
            raise InputError(NO_VALID)
        self.about = {**(about or {}), **fingerprints(train, valid)}
        self.progress = Progress()
        self.total = self._total()
        self.schedule = Schedule.of(options, self.total)
        self._callback = callback
        self._metrics: Metrics | None = None
        self._pace: float | None = None
        self._steps_here = 0

    def run(self) -> TrainResult:
        """All steps. Ctrl-C ends it after the step at hand, with a checkpoint (KeyboardInterrupt).

        Raises TrainingDiverged where a loss is NaN or infinite, InputError for what cannot be resumed or written, and
        what the engine raises.
        """
        try:
            with Interrupt() as interrupt:
                self.start()
                while not interrupt.asked and self.step():
                    pass
                if interrupt.asked and not self.done:
                    self.save()
                    raise KeyboardInterrupt
            return self.finish()
        finally:
            self.close()

    def start(self) -> None:
        """Prepare the folder, or load the checkpoint to go on from; evaluate what the training begins with."""
        check_out(self.out, self.options.resume)
        clean(self.out)
        loaded = None
        if self.options.resume:
            loaded = last_checkpoint(self.out)
            checkpoint = read_checkpoint(loaded)
            self.progress = resumed(checkpoint, self.options, self.about)
            if self.progress.step > self.total:
                raise InputError(
                    f"{loaded}: {self.progress.step} steps are done, expected at most the {self.total} asked "
                    "for; resume with more steps or epochs"
                )
            self.engine.load_state(checkpoint.state)
        else:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"out: {self.out} cannot be made ({error.strerror})") from error
        self._metrics = Metrics(self.out, self.progress.step if loaded else None)
        per_epoch = self._steps_of(self.progress.epoch)
        self._tell(StartEvent(self.progress.step, self.total, per_epoch, len(self.batches.examples), loaded))
        if self.valid is not None and loaded is None:
            self._evaluated()

    def step(self) -> bool:
        """The next optimiser step with all that is due behind it; False, without one, at the end."""
        p = self.progress
        if self.done:
            return False
        self._one_step()
        last = self.done
        new_epoch = p.index == 0
        if self.valid is not None and (last or _due(self.options.eval_every, p.step, new_epoch)):
            self._evaluated()
        if self.done or _due(self.options.save_every, p.step, new_epoch):
            self.save()
        return True

    @property
    def done(self) -> bool:
        """Whether all steps are done, or the validation loss has stopped to improve."""
        return self.progress.step >= self.total or self._stopped_early

    def evaluate(self) -> bool:
        """Evaluate the validation data; whether its loss is better than ever before. TrainingDiverged if it is none."""
        assert self.valid is not None
        p, began = self.progress, time.perf_counter()
        total, counted = 0.0, 0
        for batch in self.valid.in_order():
            total += self.engine.evaluate(batch)
            counted += batch.counted
        loss = total / counted
        if not math.isfinite(loss):
            raise self._diverged(f"the validation loss is {loss} after step {p.step}")
        improved = p.evaluated(loss)
        self._write(step=p.step, valid_loss=loss)
        self._tell(EvalEvent(p.step, loss, improved, time.perf_counter() - began))
        return improved

    def _evaluated(self) -> None:
        """Evaluate, and save what is the best so far where it may be gone back to."""
        if self.evaluate() and self.options.early_stop is not None:
            self.save()

    def save(self) -> Path:
        """Write a checkpoint of the step that is done, unless there is one, and delete old ones."""
        state = self.engine.state()
        if not finite(state):
            raise self._diverged(
                f"the adapter's weights are no finite numbers any more after step {self.progress.step}"
            )
        new = not checkpoint_path(self.out, self.progress.step).exists()
        training = {**self.progress.to_dict(), "options": self.options.to_dict(), "about": self.about}
        path = write_checkpoint(self.out, self.progress.step, training, state, self.engine.adapter(), self.heads)
        best = self.progress.best_step if self.options.early_stop is not None else None
        prune(self.out, self.options.keep, best)
        if new:
            self._tell(SavedEvent(self.progress.step, path))
        return path

    def finish(self) -> TrainResult:
        """Write the adapter, in both formats, and the picture. With early_stop it is the one of the best evaluation."""
        p = self.progress
        kept, loss = p.step, p.last_valid
        best = self._better()
        if best is not None:
            self.engine.load_state(read_checkpoint(best).state)
            kept, loss = p.best_step or 0, p.best
            self._tell(NoteEvent(f"the adapter of step {kept}, with the best validation loss, is the one kept"))
        adapter = self.engine.adapter()
        write_peft(adapter, self.out, self.heads)
        write_gguf_adapter(adapter, self.out / GGUF_ADAPTER)
        if not plot.draw(self.out / plot.NAME, read_metrics(self.out / METRICS), self.out.name):
            self._tell(NoteEvent(plot.MISSING))
        self.close()
        return TrainResult(self.out, p.step, kept, p.smoothed, p.first_valid, loss, self._stopped_early)

    def _better(self) -> Path | None:
        """The checkpoint whose adapter is kept in place of the last one: with early_stop, the best, if it is there."""
        best = self.progress.best_step
        if self.options.early_stop is None or best is None or best == self.progress.step:
            return None
        path = checkpoint_path(self.out, best)
        return path if path.exists() else None

    def close(self) -> None:
        """Close the file of metrics."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    # -- one step -----------------------------------------------------------------------------------------------------

    def _one_step(self) -> None:
        p, began = self.progress, time.perf_counter()
        group = self._group()
        counted = sum(batch.counted for batch in group)
        tokens = sum(batch.tokens for batch in group)
        rate = self.schedule.rate(p.step)
        update = Update(rate, p.step + 1, counted)
        total, result = 0.0, None
        for i, batch in enumerate(group):
            result = self.engine.forward_backward(batch, update if i == len(group) - 1 else None)
            total += result.loss
            if not result.finite or not math.isfinite(result.loss):
                raise self._diverged(self._what(result, p.step + 1, rate))
        assert result is not None
        loss, norm = total / counted, float(result.grad_norm or 0.0)
        p.step += 1
        p.index += len(group)
        p.smoothed = loss if p.smoothed is None else _SMOOTH * p.smoothed + (1 - _SMOOTH) * loss
        of_epoch = self.batches.count(p.epoch)
        epoch = p.epoch + p.index / of_epoch
        if p.index >= of_epoch:
            p.epoch, p.index = p.epoch + 1, 0
        seconds = time.perf_counter() - began
        speed = tokens / seconds
        self._write(
            step=p.step, epoch=epoch, loss=loss, smoothed=p.smoothed, lr=rate, grad_norm=norm, tokens=tokens,
            tokens_per_second=round(speed, 2), seconds=round(seconds, 4),
        )  # fmt: skip
        memory = sum(self.engine.memory().values())
        eta = self._eta(seconds)
        self._tell(
            StepEvent(p.step, self.total, epoch, loss, p.smoothed, rate, norm, tokens, speed, seconds, memory, eta)
        )

    def _group(self) -> list[MicroBatch]:
        """The micro-batches of the next step; the last step of an epoch may have fewer."""
        p = self.progress
        end = min(p.index + self.options.grad_accum, self.batches.count(p.epoch))
        return [self.batches.batch(p.epoch, index) for index in range(p.index, end)]

    def _eta(self, seconds: float) -> float:
        """Seconds to the end. The first step here records chains and tells little about others."""
        self._steps_here += 1
        if self._steps_here <= 2 or self._pace is None:
            self._pace = seconds
        else:
            self._pace = _PACE * self._pace + (1 - _PACE) * seconds
        return self._pace * (self.total - self.progress.step)

    # -- how long -----------------------------------------------------------------------------------------------------

    def _steps_of(self, epoch: int) -> int:
        return -(-self.batches.count(epoch) // self.options.grad_accum)

    def _total(self) -> int:
        if self.options.steps is not None:
            return self.options.steps
        if not self.options.packing:
            return self.options.n_epochs * self._steps_of(0)
        return sum(self._steps_of(epoch) for epoch in range(self.options.n_epochs))

    @property
    def _stopped_early(self) -> bool:
        patience = self.options.early_stop
        return patience is not None and self.progress.worse >= patience

    # -- telling ------------------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        if self._callback is not None:
            self._callback(event)

    def _write(self, **values: Any) -> None:
        assert self._metrics is not None
        self._metrics.write(**values)

    def _what(self, result: StepResult, step: int, rate: float) -> str:
        what = f"the loss is {result.loss}" if not math.isfinite(result.loss) else f"the gradient is {result.grad_norm}"
        return f"step {step}: {what} at learning rate {rate:.3g}"

    def _diverged(self, what: str) -> TrainingDiverged:
        steps = checkpoints(self.out)
        kept = (
            f"the last good checkpoint is {checkpoint_path(self.out, steps[-1])} (init-from begins with its adapter)"
            if steps
            else "no checkpoint was saved"
        )
        hint = "a lower lr or alpha, a longer warmup, or a smaller clip usually helps"
        return TrainingDiverged(f"{what}; {kept}; {hint}")


def _due(every: int | None, step: int, new_epoch: bool) -> bool:
    return new_epoch if every is None else step % every == 0
