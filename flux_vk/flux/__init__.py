"""FLUX: a small register machine for agents that score tokens: opcodes, programs, reference VM, assembler, verifier.

Not for: the machine on the device (kernel `flux_interpret`) and votes (`flux_vk.decode`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .instructions import Instruction as Instruction
    from .instructions import decode as decode
    from .opcodes import BY_NAME as BY_NAME
    from .opcodes import OPCODES as OPCODES
    from .program import Program as Program
    from .program import Trap as Trap
    from .vm import Flags as Flags
    from .vm import State as State
    from .vm import Step as Step
    from .vm import run as run

_HOMES = {
    "BY_NAME": "opcodes",
    "Instruction": "instructions",
    "OPCODES": "opcodes",
    "Program": "program",
    "Trap": "program",
    "decode": "instructions", "run": "vm", "Flags": "vm", "State": "vm", "Step": "vm",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"flux_vk.flux has no {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
