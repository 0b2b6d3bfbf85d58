"""Gemma 3 (text): the Gemma 2 block with q/k norms, no score soft-cap, local layers with their own rope base.

Five of six layers see a window only; the file may say otherwise by a period or by a list of flags.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.errors import ModelError
from flux_vk.models import gemma2
from flux_vk.models.config import (
    LayerConfig,
    ModelConfig,
    Sizes,
    make_config,
    read_rope,
    read_sizes,
    read_window,
)

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile

_LAYERS_27B = 62
_PERIOD = 6
_GLOBAL, _LOCAL = 0, 1


def read_config(f: GGUFFile) -> ModelConfig:
    """Keys of `gemma3`. Without `attention.sliding_window` every layer is full and uses the global base."""
    s = read_sizes(f)
    rope = read_rope(f, s, neox=True)
    local = replace(
        rope,
        base=f.get("gemma3.rope.freq_base_swa", float, 10000.0),
        scaling="none",
        factor=1.0,
        use_factors=False,
    )
    window = read_window(f, s, 0)
    local_layers = _local_layers(f, s) if window else [False] * s.n_layers
    return make_config(
        s,
        (rope, local),
        tuple(LayerConfig(window=window, rope=_LOCAL) if is_local else LayerConfig() for is_local in local_layers),
        attn_scale=gemma2.query_scale(s, _LAYERS_27B),
        final_softcap=f.get("gemma3.final_logit_softcapping", float, 0.0),
        embed_scale=gemma2.embedding_scale(s),
        qk_norm=True,
    )


def _local_layers(f: GGUFFile, s: Sizes) -> list[bool]:
    """Which layers see the window only.

    A period P (layer i is local iff i mod P < P - 1) or one flag a layer.
    """
    key = "gemma3.attention.sliding_window_pattern"
    pattern = f.metadata.get(key, _PERIOD)
    if isinstance(pattern, (list, np.ndarray)):
        flags = [bool(flag) for flag in pattern]
        if len(flags) != s.n_layers:
            raise ModelError(f"{key} has {len(flags)} flags; expected one for each of the {s.n_layers} layers")
        return flags
    period = f.get(key, int, _PERIOD)
    if period < 1:
        raise ModelError(f"{key} = {period}: expected a positive period or a list of flags")
    return [i % period < period - 1 for i in range(s.n_layers)]


layer_tensors = gemma2.layer_tensors
layer = gemma2.layer
