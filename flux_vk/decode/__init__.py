"""What turns logits into tokens: sampling parameters, per-slot state on the device, the sampling kernels' chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agents import AgentState as AgentState
    from .breakers import Breakers as Breakers
    from .breakers import find_breakers as find_breakers
    from .drawing import Drawing as Drawing
    from .params import SamplingParams as SamplingParams
    from .sampling import add_sampling as add_sampling
    from .state import Logprobs as Logprobs
    from .state import SamplerState as SamplerState
    from .swarm import Agent as Agent
    from .swarm import Swarm as Swarm
    from .swarm import parse_agent as parse_agent

_HOMES = {
    "Breakers": "breakers", "find_breakers": "breakers", "Drawing": "drawing", "SamplingParams": "params",
    "SamplerState": "state", "Logprobs": "state", "add_sampling": "sampling", "AgentState": "agents",
    "Agent": "swarm", "Swarm": "swarm", "parse_agent": "swarm",
}  # fmt: skip
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"flux_vk.decode has no {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
