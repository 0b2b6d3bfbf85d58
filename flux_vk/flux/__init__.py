"""FLUX: a small register machine for agents that score tokens: opcodes, programs, reference VM, assembler, verifier.

Not for: the machine on the device (kernel `flux_interpret`) and votes (`flux_vk.decode`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assembler import assemble as assemble
    from .assembler import assemble_program as assemble_program
    from .assembler import load_program as load_program
    from .disassembler import disassemble as disassemble
    from .instructions import Instruction as Instruction
    from .instructions import decode as decode
    from .opcodes import BY_NAME as BY_NAME
    from .opcodes import OPCODES as OPCODES
    from .program import Program as Program
    from .program import Trap as Trap
    from .verifier import Finding as Finding
    from .verifier import Report as Report
    from .verifier import check as check
    from .verifier import verify as verify
    from .vm import Flags as Flags
    from .vm import State as State
    from .vm import Step as Step
    from .vm import run as run

_HOMES = {
    "Finding": "verifier", "Report": "verifier", "assemble": "assembler", "assemble_program": "assembler",
    "check": "verifier", "disassemble": "disassembler", "load_program": "assembler", "verify": "verifier",
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
