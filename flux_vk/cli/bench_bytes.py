"""How many bytes a decode step must move, from the sizes of weights and cache: what speed is held against.

Not for: what a kernel moves in truth (contracts' costs) or measuring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flux_vk.engine.model import Model


def weight_bytes(model: Model) -> int:
    """Bytes of the matrices that a decode step reads whole; of the embedding, one row, unless it is the head too."""
    weights = model.runner.buffers.weights
    unique = {(b.memory.id, b.offset): b for name, b in weights.items() if len(b.shape) == 2 and _read(model, name)}
    return sum(b.nbytes for b in unique.values())


def _read(model: Model, name: str) -> bool:
    return name != "token_embd.weight" or model.config.tied


def kv_bytes(model: Model, depth: int) -> int:
    """Bytes of keys and values that one stream's step reads with `depth` tokens in the cache."""
    size = 2 if model.runner.limits.kv_type == "f16" else 4
    seen = sum(min(depth, layer.window or depth) for layer in model.config.layers)
    return 2 * size * model.config.kv_width * seen


def step_bytes(model: Model, depth: int, batch: int = 1) -> int:
    """Bytes of one decode step of `batch` streams: weights once, keys and values of each."""
    return weight_bytes(model) + batch * kv_bytes(model, depth)
