"""Training from Python: `fx.train.Trainer`. Not for: what a training does (session.py and loop.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .events import Callback, TrainResult
from .loop import check_out
from .lora import LoRA
from .options import TrainOptions
from .session import load_for, loop_of, read_material

if TYPE_CHECKING:
    from ..formats.adapter import Adapter

Records = Sequence[Mapping[str, Any]]


class Trainer:
    """One adapter in training over a GGUF model.

        lora = fx.train.LoRA(rank=16)
        fx.train.Trainer("model.gguf", data="train.jsonl", out="adapter", lora=lora, steps=200).run()

    model: GGUF file. data, valid: files as the command line takes them, or lists of records (dictionaries with `text`,
    `prompt` and `completion`, `instruction` and `output`, or `messages`). out: the folder for checkpoints and adapter.
    lora: which weights get an adapter, and of what rank. callback: gets every event (events.py). loaded: (bytes loaded,
    bytes in all) of the model. options: all others of `python -m flux_vk.train` (lr=, steps=, batch_size=, ...), as
    `TrainOptions` has them.

    The model is loaded and the data is read at once. Raises InputError for options and data, AdapterError, GGUFError,
    ModelError, OutOfDeviceMemory.
    """

    def __init__(
        self,
        model: str | PathLike[str],
        data: str | PathLike[str] | Records,
        out: str | PathLike[str],
        *,
        valid: str | PathLike[str] | Records | None = None,
        lora: LoRA | None = None,
        callback: Callback | None = None,
        loaded: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> None:
        lora = LoRA() if lora is None else lora
        if not isinstance(lora, LoRA):
            raise InputError(f"lora is {type(lora).__name__}; expected fx.train.LoRA(rank=..., target=...)")
        for name, value in (("model", model), ("out", out)):
            if _path(value) is None:
                raise InputError(f"{name} is {type(value).__name__}; expected a path")
        self.options = TrainOptions.from_dict(
            {
                "model": Path(model), "data": _path(data), "valid": _path(valid), "out": Path(out), "rank": lora.rank,
                "alpha": lora.alpha, "dropout": lora.dropout, "target": list(lora.target), "rslora": lora.rslora,
                **options,
            },
            "Trainer",
        )  # fmt: skip
        check_out(Path(out), self.options.resume)
        material = read_material(self.options, _records("data", data), _records("valid", valid))
        self._loop = loop_of(load_for([material], loaded), material, callback)

    def run(self) -> TrainResult:
        """Train to the end and write the adapter. Raises TrainingDiverged; Ctrl-C raises behind a checkpoint."""
        return self._loop.run()

    def adapter(self) -> Adapter:
        """The adapter as it is now: `fx.load(model, lora=trainer.adapter())` uses it."""
        return self._loop.engine.adapter()

    def memory(self) -> dict[str, int]:
        """Bytes on the device by part."""
        return self._loop.engine.memory()


def _records(name: str, data: str | PathLike[str] | Records | None) -> Records | None:
    """The records, where it is no file."""
    if data is None or isinstance(data, (str, PathLike)):
        return None
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise InputError(f"{name} is {type(data).__name__}; expected a path, or a list of records")
    return list(data)


def _path(data: str | PathLike[str] | Records | None) -> Path | None:
    return Path(data) if isinstance(data, (str, PathLike)) else None
