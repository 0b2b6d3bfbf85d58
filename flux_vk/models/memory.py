"""How much device memory a model will take, worked out from the file's header before anything is loaded.

Not for: measuring what is in use (that is `device.memory()`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_vk.formats import layout
from flux_vk.models.tensors import check_tensors

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile
    from flux_vk.models.config import ModelConfig

PAGE_TOKENS = 32
_KV_BYTES = {"f16": 2, "f32": 4}


def memory_needed(
    f: GGUFFile, cfg: ModelConfig, context: int, kv_type: str, max_rows: int, logit_rows: int = 1
) -> dict[str, int]:
    """Bytes by part: `weights`, `kv` for `context` tokens in whole pages, `activations` of `max_rows` rows.

    Activations are the widest moment of a layer, plus the logits of `logit_rows` rows. Raises ModelError
    where the file lacks a tensor.
    """
    weights = 0
    for spec in check_tensors(f, cfg):
        if len(spec.shape) == 2:
            weights += spec.shape[0] * layout.row_stride(f.tensors[spec.name].type, spec.shape[1])
        else:
            weights += 4 * spec.shape[0]
    pages = -(-context // PAGE_TOKENS)
    return {
        "weights": weights,
        "kv": kv_bytes(cfg, pages, kv_type),
        "activations": 4 * (max_rows * _live_elements(cfg) + logit_rows * cfg.vocab_size),
    }


def kv_bytes(cfg: ModelConfig, pages: int, kv_type: str) -> int:
    """Bytes of the keys and values of `pages` pages in all layers."""
    return pages * PAGE_TOKENS * cfg.kv_width * 2 * _KV_BYTES[kv_type] * cfg.n_layers


def _live_elements(cfg: ModelConfig) -> int:
    """Elements of a row that are alive at once.

    The residual stream, a norm's output and the widest pair of buffers.
    """
    attention = cfg.dim + cfg.qkv_width + max(cfg.dim, cfg.q_width)
    mlp = 2 * cfg.dim + max(3 * cfg.ffn_dim, 2 * cfg.ffn_dim + cfg.dim)
    return max(attention, mlp) + cfg.dim
