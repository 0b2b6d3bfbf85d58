"""Reads back from SPIR-V what a contract promises: bindings with their access, push-constant bytes, constant ids.

Only the few instructions needed; from the SPIR-V specification, version 1.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import ContractError
from .contract import Contract

_MAGIC = 0x07230203
_OP_MEMBER_NAME, _OP_TYPE_INT, _OP_TYPE_FLOAT, _OP_TYPE_STRUCT, _OP_TYPE_POINTER, _OP_VARIABLE = 6, 21, 22, 30, 32, 59

_OP_DECORATE, _OP_MEMBER_DECORATE = 71, 72
_SPEC_ID, _NON_WRITABLE, _NON_READABLE, _BINDING, _OFFSET = 1, 24, 25, 33, 35
_PUSH_CONSTANT = 9
_UNIFORM_CONSTANT = 0


@dataclass
class Interface:
    """What one SPIR-V module binds. access: by binding number, "read", "write" or "read_write"."""

    access: dict[int, str] = field(default_factory=dict)
    push_bytes: int = 0
    push_names: list[str] = field(default_factory=list)
    push_types: list[str] = field(default_factory=list)
    spec_ids: set[int] = field(default_factory=set)
    texels: set[int] = field(default_factory=set)  # bindings that are texel buffers


def reflect(code: bytes) -> Interface:
    """The interface of a compute module. Raises ContractError for bytes that are no SPIR-V."""
    words = np.frombuffer(code[: len(code) // 4 * 4], "<u4").tolist()
    if len(words) < 5 or words[0] != _MAGIC:
        raise ContractError("not SPIR-V: wrong magic number; build the kernels again")
    try:
        return _read(words)
    except (IndexError, KeyError, UnicodeDecodeError):
        raise ContractError("SPIR-V is damaged, or ends within an instruction; build the kernels again") from None


def _read(words: list[int]) -> Interface:
    found = Interface()
    binding: dict[int, int] = {}
    flags: dict[int, dict[int, set[int]]] = {}
    offsets: dict[int, dict[int, int]] = {}
    names: dict[int, dict[int, str]] = {}
    pointer_to: dict[int, int] = {}
    scalars: dict[int, str] = {}
    members_of: dict[int, list[int]] = {}
    variables: list[tuple[int, int, int]] = []
    at = 5
    while at < len(words):
        length, op = words[at] >> 16, words[at] & 0xFFFF
        args = words[at + 1 : at + length]
        if op == _OP_DECORATE and args[1] == _BINDING:
            binding[args[0]] = args[2]
        elif op == _OP_DECORATE and args[1] == _SPEC_ID:
            found.spec_ids.add(args[2])
        elif op == _OP_MEMBER_DECORATE and args[2] in (_NON_WRITABLE, _NON_READABLE):
            flags.setdefault(args[0], {}).setdefault(args[1], set()).add(args[2])
        elif op == _OP_MEMBER_DECORATE and args[2] == _OFFSET:
            offsets.setdefault(args[0], {})[args[1]] = args[3]
        elif op == _OP_MEMBER_NAME:
            raw = np.array(args[2:], "<u4").tobytes()
            names.setdefault(args[0], {})[args[1]] = raw.split(b"\0")[0].decode()
        elif op == _OP_TYPE_INT:
            scalars[args[0]] = "int" if args[2] else "uint"
        elif op == _OP_TYPE_FLOAT:
            scalars[args[0]] = "float"
        elif op == _OP_TYPE_STRUCT:
            members_of[args[0]] = args[1:]
        elif op == _OP_TYPE_POINTER:
            pointer_to[args[0]] = args[2]
        elif op == _OP_VARIABLE:
            variables.append((args[0], args[1], args[2]))
        at += max(length, 1)
    for pointer, variable, storage in variables:
        struct = pointer_to.get(pointer, 0)
        if variable in binding and storage == _UNIFORM_CONSTANT:
            found.access[binding[variable]] = "read"
            found.texels.add(binding[variable])
        elif variable in binding:
            marks = flags.get(struct, {}).get(0, set())
            access = "read" if _NON_WRITABLE in marks else "write" if _NON_READABLE in marks else "read_write"
            before = found.access.setdefault(binding[variable], access)
            if before != access:
                found.access[binding[variable]] = "read_write"
        elif storage == _PUSH_CONSTANT:
            members = offsets.get(struct, {})
            found.push_bytes = max(members.values(), default=-4) + 4
            order = sorted(members, key=lambda m: members[m])
            found.push_names = [names.get(struct, {}).get(i, "") for i in order]
            found.push_types = [scalars.get(members_of[struct][i], "?") for i in order]
    return found


def check_against(c: Contract, variant: str, code: bytes) -> None:
    """Raises ContractError where a module does not do what its contract says.

    A binding or constant that a variant leaves unused has been dropped by the compiler; that is no drift.
    """
    found = reflect(code)
    where = f"kernel {c.name}--{variant}"
    for number, access in found.access.items():
        if number >= len(c.bindings):
            raise ContractError(f"{where}: SPIR-V uses binding {number}, the contract has {len(c.bindings)}")
        if access != c.bindings[number].access:
            b = c.bindings[number]
            raise ContractError(f"{where}: SPIR-V has {b.name} as {access}, the contract as {b.access}")
        texel = bool(c.texel_mask(c.variant(variant).shader) >> number & 1)
        if texel != (number in found.texels):
            kinds = "a texel buffer", "a storage buffer"
            raise ContractError(f"{where}: {c.bindings[number].name} is {kinds[texel]} in SPIR-V, not in the contract")
    if found.push_bytes and found.push_bytes != c.push_bytes:
        raise ContractError(f"{where}: SPIR-V has {found.push_bytes} push bytes, the contract {c.push_bytes}")
    if found.push_bytes and found.push_names != [p.name for p in c.push]:
        raise ContractError(f"{where}: SPIR-V has push fields {found.push_names}, the contract another order")
    if found.push_bytes and found.push_types != [p.type for p in c.push]:
        raise ContractError(f"{where}: SPIR-V has push types {found.push_types}, the contract others")
    unknown = found.spec_ids - set(range(len(c.spec)))
    if unknown:
        raise ContractError(f"{where}: SPIR-V uses constant id {min(unknown)}, the contract has {len(c.spec)}")
