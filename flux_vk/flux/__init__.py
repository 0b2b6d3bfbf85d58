"""FLUX: a small register machine for agents that score tokens: opcodes, programs, reference VM, assembler, verifier.

Not for: the machine on the device (kernel `flux_interpret`) and votes (`flux_vk.decode`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .abi import Candidate as Candidate
    from .abi import random_bits as random_bits
    from .abi import score as score
    from .abi import score_of as score_of
    from .assembler import assemble as assemble
    from .assembler import assemble_program as assemble_program
    from .assembler import load_program as load_program
    from .disassembler import disassemble as disassemble
    from .embedding import embed as embed
    from .embedding import similarity as similarity
    from .heatmap import heat_map as heat_map
    from .instructions import Instruction as Instruction
    from .instructions import decode as decode
    from .opcodes import BY_NAME as BY_NAME
    from .opcodes import OPCODES as OPCODES
    from .program import Program as Program
    from .program import Trap as Trap
    from .stock_agents import DEFAULT_SWARM as DEFAULT_SWARM
    from .stock_agents import STOCK as STOCK
    from .stock_agents import stock as stock
    from .verifier import Finding as Finding
    from .verifier import Report as Report
    from .verifier import check as check
    from .verifier import verify as verify
    from .vm import Flags as Flags
    from .vm import State as State
    from .vm import Step as Step
    from .vm import run as run

_MEMBERS = {
    "abi": ("Candidate", "random_bits", "score", "score_of"),
    "assembler": ("assemble", "assemble_program", "load_program"),
    "disassembler": ("disassemble",),
    "embedding": ("embed", "similarity"),
    "heatmap": ("heat_map",),
    "instructions": ("Instruction", "decode"),
    "opcodes": ("BY_NAME", "OPCODES"),
    "program": ("Program", "Trap"),
    "stock_agents": ("DEFAULT_SWARM", "STOCK", "stock"),
    "verifier": ("Finding", "Report", "check", "verify"),
    "vm": ("Flags", "State", "Step", "run"),
}
_HOMES = {name: module for module, names in _MEMBERS.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"flux_vk.flux has no {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
