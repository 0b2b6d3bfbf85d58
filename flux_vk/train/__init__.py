"""Training of low-rank adapters on quantised models, as recorded dispatch chains.

import flux_vk as fx
fx.train.Trainer("model.gguf", data="train.jsonl", out="adapter", lora=fx.train.LoRA(rank=16), steps=200).run()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .library import Trainer as Trainer
    from .lora import LoRA as LoRA
    from .merging import merge as merge
    from .options import TrainOptions as TrainOptions

_HOMES = {"LoRA": "lora", "TrainOptions": "options", "Trainer": "library", "merge": "merging"}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Names are looked up late: the command line reads options without loading what trains."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"flux_vk.train has no {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
