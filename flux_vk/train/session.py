"""From options to a training: the model on a device, its data, an engine, the loop.

Not for: the loop itself (trainer.py), what the device does (engine.py), and showing progress (flux_vk/cli/train).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_vk.errors import InputError
from flux_vk.formats.adapter import read_adapter
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Device
from flux_vk.models import read_config

from .base import Base, device_like, load_base
from .batches import Batches, Example
from .data import Data, Progress, read_data
from .engine import Engine, Rules
from .events import Callback, NoteEvent, TrainResult
from .lora import LoRA, flat_from, make_layout
from .options import Experiment, TrainOptions
from .records import Encoder
from .trainer import Trainer, check_out

if TYPE_CHECKING:
    from flux_vk.models import ModelConfig

Bars = Callable[[str, str], AbstractContextManager[Progress]]
"""Makes a progress bar of a title and a unit ("bytes" or ""): a context that gives a function of (done, total)."""

SHARED = ("weights", "activations")
"""Parts of the memory that trainings over one copy of the weights have in common."""

NamedCallback = Callable[[str, Any], None]


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before weights are loaded."""

    options: TrainOptions
    config: ModelConfig
    length: int
    train: Data
    valid: Data | None

    @property
    def rows(self) -> int:
        """Rows of the largest micro-batch, of training or validation."""
        o = self.options
        train = Batches(self.train.examples, o.batch_size, self.length, o.packing)
        valid = [Batches(self.valid.examples, o.batch_size, self.length).largest] if self.valid else []
        return max(train.largest, *valid) if valid else train.largest

    @property
    def heads(self) -> tuple[int, int]:
        """(n_heads, n_kv_heads) of the model."""
        return self.config.n_heads, self.config.n_kv_heads


def run_training(options: TrainOptions, callback: Callback | None = None, bars: Bars | None = None) -> TrainResult:
    """A whole training, from the files that the options name to the adapter in options.out.

    callback: gets every event (events.py). bars: shows how far reading and loading are. Raises InputError for options,
    files and data that cannot be used, TrainingDiverged, and VulkanError.
    """
    check_out(_named(options.out, "out", "a folder for the adapter"), options.resume)
    prepared = prepare(options, callback, bars)
    base = _load(prepared, Device(options.device), bars)
    return make_trainer(prepared, base, callback).run()


def run_experiments(
    experiments: Sequence[Experiment], callback: NamedCallback | None = None, bars: Bars | None = None
) -> list[TrainResult]:
    """Several trainings over one copy of the weights, a step of each in turn. All must be of one model and device.

    callback: gets the experiment's name with every event. Results are those of separate runs.
    """
    if not experiments:
        raise InputError("experiments: found none, expected at least one")
    for each in experiments:
        check_out(_named(each.options.out, "out", "a folder for the adapter"), each.options.resume)

    def told(each: Experiment) -> Callback | None:
        return None if callback is None else lambda event: callback(each.name, event)

    all_prepared = [prepare(each.options, told(each), bars) for each in experiments]
    longest = max(all_prepared, key=lambda p: p.length)
    base = _load(longest, Device(experiments[0].options.device), bars)
    trainers = [make_trainer(p, base, told(each)) for p, each in zip(all_prepared, experiments, strict=True)]
    return run_side_by_side(trainers)


def run_side_by_side(trainers: Sequence[Trainer]) -> list[TrainResult]:
    """All steps of several trainings, one of each in turn. Ctrl-C saves all of them."""
    from .interrupt import Interrupt

    try:
        with Interrupt() as interrupt:
            for trainer in trainers:
                trainer.start()
            while not interrupt.asked and any(not trainer.done for trainer in trainers):
                for trainer in trainers:
                    trainer.step()
            if interrupt.asked:
                for trainer in trainers:
                    trainer.save()
                raise KeyboardInterrupt
        return [trainer.finish() for trainer in trainers]
    finally:
        for trainer in trainers:
            trainer.close()


def memory_report(options: TrainOptions, experiments: Sequence[Experiment] = ()) -> list[tuple[str, int]]:
    """Bytes that the training, or all experiments together, will take on the device, by part, without taking them.

    Weights are there once, and so are activations: they are shared by all.
    """
    all_prepared = [prepare(each.options) for each in experiments] or [prepare(options)]
    heads = [f"{each.name}: " for each in experiments] or [""]
    device = device_like(Device(all_prepared[0].options.device))
    path = _named(all_prepared[0].options.model, "model", "a GGUF file")
    base = load_base(path, device, max(p.length for p in all_prepared), fill=False)
    shared: dict[str, int] = {}
    own: list[tuple[str, int]] = []
    for prepared, head in zip(all_prepared, heads, strict=True):
        engine = make_engine(prepared, base)
        engine.prepare()
        for part, size in engine.memory().items():
            if part in SHARED:
                shared[part] = size
            else:
                own.append((f"{head}{part}", size))
    return [*shared.items(), *own]


def prepare(options: TrainOptions, callback: Callback | None = None, bars: Bars | None = None) -> Prepared:
    """Read the model's head and all data. What was cut or left out goes to the callback as notes."""
    model = _named(options.model, "model", "a GGUF file")
    data = _named(options.data, "data", "a file of training data")
    shown = bars or _no_bar
    with open_gguf(model) as file:
        config = read_config(file)
        encoder = Encoder.from_gguf(file, options.mask_prompt)
    length = options.length(config.context_length)

    def read(path: Path) -> Data:
        with shown(f"Reading {path.name}", "bytes") as bar:
            found = read_data(path, encoder, length, options.skip_bad, bar)
        if callback is not None:
            callback(NoteEvent(found.summary))
        return found

    return Prepared(options, config, length, read(data), read(options.valid) if options.valid else None)


def make_engine(prepared: Prepared, base: Base) -> Engine:
    """The engine of a training over weights that are loaded already."""
    o = prepared.options
    lora = LoRA(o.rank, o.alpha, o.dropout, o.target, o.rslora)
    rules = Rules(o.optim, o.betas[0], o.betas[1], o.eps, o.momentum, o.weight_decay, o.clip)
    start = None
    if o.init_from is not None and not o.resume:
        adapter = read_adapter(o.init_from, prepared.heads, arch=prepared.config.arch)
        start = flat_from(make_layout(base.config, lora), adapter)
    return Engine(base, lora, prepared.rows, rules=rules, recompute=o.recompute, seed=o.seed, start=start)


def make_trainer(prepared: Prepared, base: Base, callback: Callback | None = None) -> Trainer:
    """The loop of a training over weights that are loaded already."""
    valid: list[Example] = prepared.valid.examples if prepared.valid else []
    engine = make_engine(prepared, base)
    about = {"model": Path(base.path).name, "max_length": prepared.length}
    return Trainer(
        engine, prepared.train.examples, valid, prepared.options, max_length=prepared.length, heads=prepared.heads,
        about=about, callback=callback,
    )  # fmt: skip


def _load(prepared: Prepared, device: Device, bars: Bars | None) -> Base:
    path = _named(prepared.options.model, "model", "a GGUF file")
    with (bars or _no_bar)(f"Loading {path.name}", "bytes") as bar:
        return load_base(path, device, prepared.length, bar)


def _named(path: Path | None, option: str, what: str) -> Path:
    if path is None:
        raise InputError(f"{option}: none was named, expected {what}")
    return path


@contextmanager
def _no_bar(title: str, unit: str) -> Iterator[Progress]:
    yield lambda done, total: None
