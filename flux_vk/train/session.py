"""Trainings from their options: model, data, engine and loop put together, one or several over the same weights.

Not for: the loop itself (loop.py), the engine (engine.py), or the command line (flux_vk/cli/train).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, OutOfDeviceMemory, TrainingDiverged
from ..formats.adapter import read_adapter
from ..formats.gguf import open_gguf
from ..gpu import Device
from ..models import ModelConfig, read_config
from ..models.lora import check_adapter_fits
from .base import Base, device_like, load_base
from .batches import Example, bucket
from .checkpoint import checkpoints
from .data import Data, read_data, read_records
from .engine import Engine, Rules
from .events import Callback, Event, NoteEvent, TrainResult
from .interrupt import Interrupt
from .loop import NO_VALID, TrainingLoop, check_out
from .lora import LoRA, flat_from, make_layout
from .options import Experiment, TrainOptions
from .records import Encoder

USUAL_CONTEXT = 4096
"""The context that `fx.load` takes by default: LongRoPE then turns in training as it will in use."""

Loaded = Callable[[int, int], None]
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Material:
    """What one training learns from, and how many rows its largest micro-batch has."""

    options: TrainOptions
    length: int
    train: Data
    valid: Data | None
    rows: int


def run_training(options: TrainOptions, callback: Callback | None = None, loaded: Loaded | None = None) -> TrainResult:
    """Train one adapter as the options say, from the model's file to the adapter's.

    callback: gets each event of the training; loaded: (bytes loaded, bytes in all) of the model. Raises InputError for
    options, data and adapters that cannot be used, GGUFError and ModelError for the model, OutOfDeviceMemory,
    TrainingDiverged, KeyboardInterrupt after a checkpoint was saved.
    """
    if options.out is not None:
        check_out(options.out, options.resume)
    material = read_material(options)
    return loop_of(load_for([material], loaded), material, callback).run()


def run_experiments(
    experiments: Sequence[Experiment],
    callback: Callable[[str, Event], None] | None = None,
    loaded: Loaded | None = None,
) -> dict[str, TrainResult]:
    """Train several adapters side by side over one copy of the model's weights, a step of each in turn.

    Each gives what it would give alone. Where one diverges the others go on, and its error is raised at the end.
    """
    if not experiments:
        raise InputError("no experiments; expected at least one")
    experiments = _begun_or_new(experiments)
    for each in experiments:
        if each.options.out is not None:
            check_out(each.options.out, each.options.resume)
    materials = [read_material(each.options) for each in experiments]
    base = load_for(materials, loaded)
    loops = {
        each.name: loop_of(base, material, _named(callback, each.name))
        for each, material in zip(experiments, materials, strict=True)
    }
    return _side_by_side(loops)


def _begun_or_new(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Where some are to be resumed: those that were stopped before their first checkpoint begin anew."""
    none = [each for each in experiments if each.options.out is not None and not checkpoints(each.options.out)]
    if len(none) == len(experiments):
        return list(experiments)
    return [
        replace(each, options=each.options.updated({"resume": False})) if each in none else each for each in experiments
    ]


def memory_report(options: TrainOptions, experiments: Sequence[Experiment] = ()) -> dict[str, int]:
    """Device bytes by part that a training (or several over the same weights) would take. Nothing is loaded.

    The data is read where it is named; otherwise every micro-batch is taken to be full.
    """
    asked = [each.options for each in experiments] or [options]
    device = device_like(Device(asked[0].device))
    materials = [_sizes(one) for one in asked]
    config = _config(_model(asked[0]))
    base = load_base(_model(asked[0]), device, _context(config, [length for length, _ in materials]), fill=False)
    engines = [_engine(base, one, rows) for one, (_, rows) in zip(asked, materials, strict=True)]
    return total_memory(engines)


def total_memory(engines: Sequence[Engine]) -> dict[str, int]:
    """Device bytes by part of several engines over one base: its weights and activations count once."""
    parts = dict.fromkeys(engines[0].memory(), 0)
    for engine in engines:
        for part, nbytes in engine.memory().items():
            shared = part in ("weights", "activations")
            parts[part] = nbytes if shared else parts[part] + nbytes
    return parts


def load_for(materials: Sequence[Material], loaded: Loaded | None = None) -> Base:
    """The model of the first of some trainings, on its device, for all of them.

    Raises OutOfDeviceMemory, before anything is loaded, where they do not fit together.
    """
    options = materials[0].options
    device, model = Device(options.device), _model(options)
    context = _context(_config(model), [material.length for material in materials])
    planned = load_base(model, device_like(device), context, fill=False)
    engines = [_engine(planned, material.options, material.rows) for material in materials]
    check_fit(device, total_memory(engines))
    return load_base(model, device, context, loaded)


def check_fit(device: Device, parts: dict[str, int]) -> None:
    """OutOfDeviceMemory, with what would help, where these bytes are more than the device has free."""
    free, needed = device.memory()["free"], sum(parts.values())
    if needed > free:
        shown = ", ".join(f"{part} {nbytes / 1e6:.0f} MB" for part, nbytes in parts.items())
        raise OutOfDeviceMemory(
            f"training needs {needed / 1e6:.0f} MB on {device.name} ({shown}); {free / 1e6:.0f} MB are free; "
            f"recompute, a smaller batch-size (with more grad-accum) or max-length take less",
            "VK_ERROR_OUT_OF_DEVICE_MEMORY",
        )


def read_material(options: TrainOptions, train: Records | None = None, valid: Records | None = None) -> Material:
    """A training's data, read with the model's tokenizer; train, valid: records instead of the files that options name.

    InputError naming file and line (or record) for what cannot be used.
    """
    model = _model(options)
    if options.data is None and train is None:
        raise InputError("data: no training data was named; expected a file of JSON lines or of plain text")
    if options.early_stop is not None and options.valid is None and valid is None:
        raise InputError(NO_VALID)
    with open_gguf(model) as file:
        length = options.length(read_config(file).context_length)
        encoder = Encoder.from_gguf(file, options.mask_prompt)

    def read(path: Path | None, records: Records | None, name: str) -> Data | None:
        if records is not None:
            return read_records(records, encoder, length, options.skip_bad, name)
        return None if path is None else read_data(path, encoder, length, options.skip_bad)

    learned, checked = read(options.data, train, "data"), read(options.valid, valid, "valid")
    assert learned is not None
    rows = _rows(learned.examples, options, length, options.packing)
    if checked is not None:
        rows = max(rows, _rows(checked.examples, options, length, False))
    return Material(options, length, learned, checked, rows)


def loop_of(base: Base, material: Material, callback: Callback | None = None) -> TrainingLoop:
    """The loop of one training over weights that are loaded, ready to start."""
    options, config = material.options, base.config
    engine = _engine(base, options, material.rows)
    valid = material.valid.examples if material.valid is not None else []
    if callback is not None:
        for data in (material.train, material.valid):
            if data is not None:
                callback(NoteEvent(data.summary))
    return TrainingLoop(
        engine, material.train.examples, valid, options, max_length=material.length,
        heads=(config.n_heads, config.n_kv_heads), about=_about(base), callback=callback,
    )  # fmt: skip


def lora_of(options: TrainOptions) -> LoRA:
    """The adapters that the options ask for."""
    return LoRA(options.rank, options.alpha, options.dropout, options.target, options.rslora)


def rules_of(options: TrainOptions) -> Rules:
    """The optimiser that the options ask for."""
    return Rules(options.optim, *options.betas, options.eps, options.momentum, options.weight_decay, options.clip)


def _engine(base: Base, options: TrainOptions, rows: int) -> Engine:
    lora, config, start = lora_of(options), base.config, None
    if options.init_from is not None and not options.resume:  # a checkpoint has what it has become
        heads = (config.n_heads, config.n_kv_heads)
        begin = read_adapter(options.init_from, heads, arch=config.arch)
        check_adapter_fits(begin, config, f"init-from {options.init_from}")
        start = flat_from(make_layout(config, lora), begin)
    engine = Engine(
        base, lora, rows, rules=rules_of(options), recompute=options.recompute, seed=options.seed, start=start
    )
    engine.prepare()
    return engine


def _model(options: TrainOptions) -> Path:
    if options.model is None:
        raise InputError("model: no GGUF file was named")
    return options.model


def _config(model: Path) -> ModelConfig:
    with open_gguf(model) as file:
        return read_config(file)


def _context(config: ModelConfig, lengths: Sequence[int]) -> int:
    return max(min(config.context_length, USUAL_CONTEXT), *lengths)


def _sizes(options: TrainOptions) -> tuple[int, int]:
    """(length, rows) of a training; of its data, where that is named."""
    if options.data is not None:
        material = read_material(options)
        return material.length, material.rows
    length = options.length(_config(_model(options)).context_length)
    return length, bucket(options.batch_size * length, options.batch_size * length)


def _rows(examples: Sequence[Example], options: TrainOptions, length: int, packing: bool) -> int:
    """Rows of the largest micro-batch that these examples can make, padding included."""
    most = options.batch_size * length
    if packing:
        return bucket(most, most)
    longest = sorted((len(example) for example in examples), reverse=True)[: options.batch_size]
    return bucket(min(sum(longest), most), most)


def _about(base: Base) -> dict[str, Any]:
    path = Path(base.path)
    return {"model_name": path.name, "model_bytes": path.stat().st_size}


def _named(callback: Callable[[str, Event], None] | None, name: str) -> Callback | None:
    return None if callback is None else lambda event: callback(name, event)


def _side_by_side(loops: dict[str, TrainingLoop]) -> dict[str, TrainResult]:
    results: dict[str, TrainResult] = {}
    failed: list[TrainingDiverged] = []
    with ExitStack() as stack:
        for loop in loops.values():
            stack.callback(loop.close)
        interrupt = stack.enter_context(Interrupt())
        running = dict(loops)
        for name in list(running):
            _tried(running, name, running[name].start, failed)
        while running and not interrupt.asked:
            for name, more in [(name, _tried(running, name, t.step, failed)) for name, t in list(running.items())]:
                if more is False:
                    results[name] = running.pop(name).finish()
        for loop in running.values():
            loop.save()
        if interrupt.asked and running:
            raise KeyboardInterrupt
    if failed:
        raise failed[0]
    return {name: results[name] for name in loops}


def _tried(
    running: dict[str, TrainingLoop], name: str, action: Callable[[], Any], failed: list[TrainingDiverged]
) -> Any:
    """What the action gives; a training that diverges runs no more, and its name goes in front of its error."""
    try:
        return action()
    except TrainingDiverged as error:
        failed.append(TrainingDiverged(f"experiment {name}: {error}"))
        running.pop(name)
        return None
