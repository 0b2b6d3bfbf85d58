"""Shared by the subcommands: finding programs, setting registers, writing files whole. Not for: what a command does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flux_vk.errors import InputError

if TYPE_CHECKING:
    from flux_vk.flux import Program

PROGRAM_HELP = "a .flx source, a file of bytecode, or a stock agent's name"


def find_program(text: str) -> Program:
    """A program by path, or a stock agent by name; a file comes first. Raises InputError."""
    from flux_vk.flux import STOCK, load_program, stock

    if text in STOCK and not Path(text).exists():
        return stock(text)
    if not Path(text).suffix and not Path(text).exists():
        raise InputError(f"{text}: no such file, and no stock agent; agents are {', '.join(STOCK)}")
    return load_program(text)


def setting(text: str) -> tuple[str, int, float]:
    """A reader of R0=7 and F1=0.5 for argparse's `type`: (bank, number, value)."""
    from flux_vk.flux.assembler import register

    name, _, value = text.partition("=")
    found = register(name.strip())
    if found is None or found[0] == "V":
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a register and a value: R0=7 or F1=0.5")
    bank, number = found
    try:
        return bank, number, int(value, 0) if bank == "R" else float(value)
    except ValueError:
        wanted = "a whole number" if bank == "R" else "a number"
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {wanted} behind {name}=") from None
