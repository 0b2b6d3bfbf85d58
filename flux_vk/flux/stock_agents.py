"""The agents that ship with the package, as sources in flux_vk/flux/agents/, and the default swarm.

Not for: agents from files (assembler.py's `load_program`).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from ..errors import InputError
from .assembler import assemble_program, suggestion
from .program import Program

STOCK = ("conservative", "creative", "penalty", "min_p", "repetition_window", "greedy", "uniform")
"""Names of the agents that ship with the package."""
DEFAULT_SWARM = (("conservative", 0.5), ("creative", 0.3), ("penalty", 0.2))
"""The default swarm: (stock agent, weight)."""


@cache
def stock(name: str) -> Program:
    """A stock agent by name. Raises InputError for a name that is none of STOCK."""
    if name not in STOCK:
        raise InputError(f"no stock agent {name!r}{suggestion(name, STOCK)}; there are {', '.join(STOCK)}")
    file = files("flux_vk.flux") / "agents" / f"{name}.flx"
    return assemble_program(file.read_text(encoding="utf-8"), f"{name}.flx")
