"""flux_vk: language models as Vulkan dispatch chains.

    import flux_vk as fx
    m = fx.load("model.gguf")
    for piece in m.generate("It was in July", max_tokens=64):
        print(piece, end="", flush=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import flux as flux
    from . import train as train
    from .decode.params import SamplingParams as SamplingParams
    from .decode.swarm import Swarm as Swarm
    from .engine.model import Model as Model
    from .engine.model import load as load
    from .engine.quantize import quantize as quantize
    from .errors import FluxError as FluxError
    from .gpu.buffer import Buffer as Buffer
    from .gpu.chain import Arena as Arena
    from .gpu.chain import Chain as Chain
    from .gpu.device import Device as Device
    from .text.grammar import Grammar as Grammar
    from .text.tokenizer import Tokenizer as Tokenizer

__version__ = "0.1.0"

_ROOMS = ("flux", "train")
_HOMES = {
    "Arena": "gpu.chain", "Buffer": "gpu.buffer", "Chain": "gpu.chain", "Device": "gpu.device",
    "FluxError": "errors", "Grammar": "text.grammar", "Model": "engine.model", "SamplingParams": "decode.params",
    "Swarm": "decode.swarm", "Tokenizer": "text.tokenizer", "load": "engine.model", "quantize": "engine.quantize",
}  # fmt: skip
__all__ = ["__version__", *sorted([*_HOMES, *_ROOMS])]


def __getattr__(name: str) -> Any:
    """Names are looked up late, so that `import flux_vk` stays light and works where Vulkan does not."""
    import importlib

    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"flux_vk has no {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
