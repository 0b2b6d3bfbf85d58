"""Models: one file per architecture, each with its GGUF keys, its tensors and the chain of one forward step.

Not for: sampling, page tables and scheduling (flux_vk.decode, flux_vk.engine).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux_vk.models.config import LayerConfig, ModelConfig, RopeConfig
    from flux_vk.models.memory import memory_needed
    from flux_vk.models.registry import ARCHITECTURES, read_config
    from flux_vk.models.step import StepIO, build_step
    from flux_vk.models.weights import Weights, load_weights

_HOME = {
    "ARCHITECTURES": "registry",
    "LayerConfig": "config",
    "ModelConfig": "config",
    "RopeConfig": "config",
    "StepIO": "step",
    "Weights": "weights",
    "build_step": "step",
    "load_weights": "weights",
    "memory_needed": "memory",
    "read_config": "registry",
}

__all__ = [
    "ARCHITECTURES",
    "LayerConfig",
    "ModelConfig",
    "RopeConfig",
    "StepIO",
    "Weights",
    "build_step",
    "load_weights",
    "memory_needed",
    "read_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
