"""A kernel call checked against its contract: symbols solved from shapes, constants packed, large bindings windowed.

Not for: deciding when the resulting dispatches run.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, ContractError
from . import expressions, kernels
from .buffer import Buffer
from .contract import PUSH_TYPES, Contract, Variant
from .steps import Dispatch

if TYPE_CHECKING:
    from .device import BaseDevice

Number = int | float
TEXEL = 16  # bytes
WINDOW = 64  # windows begin at multiples of this many rows where they are large enough

MOST_TEMPLATES = 4096  # calls remembered a device


def solve_symbols(c: Contract, buffers: Mapping[str, Buffer], given: Mapping[str, Number]) -> dict[str, Number]:
    """Values of the contract's symbols from the buffers' shapes; `given` ones are taken as they are.

    Raises ArgumentError naming kernel, argument, shape wanted and shape got.
    """
    values: dict[str, Number] = {s: given[s] for s in c.symbols if s in given}
    pending: list[tuple[str, int, str, int]] = []
    for b in c.bindings:
        if b.name not in buffers or not b.shape:
            continue
        shape = buffers[b.name].shape
        if len(shape) != len(b.shape):
            raise ArgumentError(
                f"{c.name}: {b.name} has shape {list(shape)}, "
                f"expected [{', '.join(b.shape)}] ({len(b.shape)} dimensions)"
            )
        for axis, (wanted, got) in enumerate(zip(b.shape, shape, strict=True)):
            if wanted in c.symbols and wanted not in values:
                values[wanted] = got
            else:
                pending.append((b.name, axis, wanted, got))
    known = {**given, **values}
    for name, axis, wanted, got in pending:
        try:
            value = expressions.evaluate(wanted, known)
        except ContractError as error:
            raise ArgumentError(f"{c.name}: cannot check {name}'s shape: {error}; pass it by keyword") from None
        if value != got:
            shown = ", ".join(f"{k}={v}" for k, v in values.items())
            raise ArgumentError(
                f"{c.name}: {name} has {got} elements along axis {axis}, expected {wanted} = {value} (with {shown})"
            )
    return values


def build(
    device: BaseDevice,
    kernel: str,
    args: Mapping[str, Any],
    variant: str | None = None,
    indirect: Buffer | None = None,
) -> list[Dispatch]:
    """The dispatches of one call: none for an empty grid, several where a binding is windowed."""
    c = kernels.contract(kernel)
    key = _key(device, c, args, variant, indirect)
    known: _Template | None = device.templates.get(key) if key is not None else None
    if known is not None:
        return [known.at(device, args, indirect)]
    buffers, numbers = _split(c, args)
    for b in c.bindings:
        if b.name in buffers and b.type != "*" and buffers[b.name].dtype != b.type:
            raise ArgumentError(f"{c.name}: {b.name} is {buffers[b.name].dtype}, expected {b.type}")
    chosen = c.variant(variant) if variant else _choose(device, c, buffers)
    env: dict[str, Number] = dict(numbers)
    for s in c.spec:
        env.setdefault(s.name, s.default)
    for name, default in c.cost_arguments.items():
        env.setdefault(name, default)
    symbols = solve_symbols(c, buffers, env)
    env.update(symbols)
    left_out = frozenset(b.name for b in c.bindings if (b.same_as or b.name) not in buffers)
    for b in c.bindings:
        if b.optional:
            env.setdefault(f"has_{b.name}", int(b.name not in left_out))
    made = []
    windows = _windows(device, c, buffers)
    if indirect is not None and len(windows) > 1:
        raise ArgumentError(f"{c.name}: an indirect grid cannot serve {len(windows)} windows of {_window_name(c)}")
    for window, first in windows:
        values = dict(env)
        bound = dict(buffers)
        if window is not None and c.window is not None:
            bound[c.window.binding] = window
            symbol = c.binding(c.window.binding).shape[0]
            values[symbol] = window.shape[0]
            values[c.window.push] = env.get(c.window.push, 0) + first
        bound.update({b.name: bound[b.same_as] for b in c.bindings if b.same_as})
        dispatch = _one(device, c, chosen, bound, left_out, values, indirect)
        if dispatch is not None:
            made.append(dispatch)
    if key is not None and len(windows) == len(made) == 1:
        if len(device.templates) >= MOST_TEMPLATES:
            device.templates.clear()
        shared = [b.same_as or b.name for b in c.bindings]
        names = [name if name in buffers else None for name in shared]
        device.templates[key] = _Template(replace(made[0], buffers={}, indirect=None), names)
    return made


@dataclass(frozen=True)
class _Template:
    """A dispatch that was checked, for calls that differ from it only in where their buffers lie."""

    like: Dispatch  # without its buffers, whose memory it would keep
    names: list[str | None]  # of the bindings in order; None: left out

    def at(self, device: BaseDevice, args: Mapping[str, Any], indirect: Buffer | None) -> Dispatch:
        """The same dispatch on the buffers of `args`."""
        d = self.like
        ordered = {}
        for b, name in zip(d.contract.bindings, self.names, strict=True):
            buffer = args[name] if name is not None else device.dummy
            if buffer.nbytes == 0:
                buffer = device.dummy
            _check_place(device, d.contract, b.name, buffer)
            ordered[b.name] = buffer
        return Dispatch(
            d.contract, d.variant, d.spec, ordered, d.left_out, d.push, d.grid, d.bytes, d.flops, indirect
        )  # fmt: skip


def _key(
    device: BaseDevice, c: Contract, args: Mapping[str, Any], variant: str | None, indirect: Buffer | None
) -> tuple[Any, ...] | None:
    """All that a dispatch depends on but the places of its buffers; None where it cannot be remembered."""
    shown: list[Any] = []
    for name, value in args.items():
        if isinstance(value, Buffer):
            shown.append((name, value.dtype, value.shape, value.nbytes, value.row_bytes))
        elif value is None or type(value) in (int, float):
            shown.append((name, value or repr(value)))  # 0.0 and -0.0 are equal, and not the same constant
        else:
            return None
    # The contract is held by the template, so that no other can take its id.
    return (id(c), variant, device.family, device.features, device.max_range, indirect is not None, *shown)


def _check_place(device: BaseDevice, c: Contract, name: str, buffer: Buffer) -> None:
    if buffer.offset % device.alignment:
        raise ArgumentError(
            f"{c.name}: {name} begins at byte {buffer.offset} of its memory; this device binds at multiples of "
            f"{device.alignment}"
        )


def _split(c: Contract, args: Mapping[str, Any]) -> tuple[dict[str, Buffer], dict[str, Number]]:
    bindings = {b.name for b in c.bindings if not b.same_as}
    scalars = {*c.symbols, *(p.name for p in c.push), *(s.name for s in c.spec), *c.cost_arguments}
    buffers: dict[str, Buffer] = {}
    numbers: dict[str, Number] = {}
    for name, value in args.items():
        if name in bindings:
            if value is None and c.binding(name).optional:
                continue
            if not isinstance(value, Buffer):
                raise ArgumentError(f"{c.name}: {name} is {type(value).__name__}, expected a Buffer (see device.array)")
            buffers[name] = value
        elif name in scalars:
            numbers[name] = _number(c, name, value)
        else:
            raise ArgumentError(
                f"{c.name}: no argument {name!r}; it has buffers {', '.join(sorted(bindings))} and scalars "
                f"{', '.join(sorted(scalars)) or 'none'}"
            )
    missing = [b.name for b in c.bindings if (b.same_as or b.name) not in buffers and not b.optional]
    if missing:
        raise ArgumentError(f"{c.name}: buffer {missing[0]!r} is missing")
    return buffers, numbers


def _number(c: Contract, name: str, value: Any) -> Number:
    """The scalar as a Python number; NumPy's are taken, a fraction for a whole-numbered field is not."""
    try:
        number = operator.index(value)
    except TypeError:
        try:
            real = float(value)
        except (TypeError, ValueError):
            raise ArgumentError(f"{c.name}: {name} is {type(value).__name__}, expected a number") from None
        if any(p.name == name and p.type == "float" for p in c.push):
            return real
        if real.is_integer():
            return int(real)
        raise ArgumentError(f"{c.name}: {name} is {value}, expected a whole number") from None
    return number


def _choose(device: BaseDevice, c: Contract, buffers: Mapping[str, Buffer]) -> Variant:
    """The variant for these buffers; a texel buffer is made of whole texels, so others are read as storage buffers."""
    dtypes = {n: b.dtype for n, b in buffers.items()}
    chosen = kernels.choose(c, dtypes, device.features, device.family)
    texels = c.texel_mask(chosen.shader)
    for i, b in enumerate(c.bindings):
        held = buffers.get(b.same_as or b.name)
        if texels >> i & 1 and held is not None and held.nbytes % TEXEL:
            return kernels.choose(c, dtypes, device.features - {"texel_buffers"}, device.family)
    return chosen


def _windows(device: BaseDevice, c: Contract, buffers: Mapping[str, Buffer]) -> list[tuple[Buffer | None, int]]:
    if c.window is None:
        return [(None, 0)]
    whole = buffers.get(c.window.binding)
    if whole is None:
        return [(None, 0)]
    if whole.nbytes <= device.max_range:
        return [(whole, 0)]
    row = whole.row_bytes or whole.nbytes // whole.shape[0]
    unit = device.alignment // math.gcd(row, device.alignment)  # rows between two aligned offsets
    step = device.max_range // row // unit * unit
    step = step // WINDOW * WINDOW or step  # whole groups of rows, where a kernel looks at neighbours
    if step == 0:
        raise ArgumentError(
            f"{c.name}: {unit} rows of {c.window.binding} (the fewest between two aligned offsets) take {unit * row} "
            f"bytes; one binding spans at most {device.max_range} on this device"
        )
    n = whole.shape[0]
    return [(whole.rows(first, min(first + step, n)), first) for first in range(0, n, step)]


def _window_name(c: Contract) -> str:
    return c.window.binding if c.window else ""


def _evaluate(c: Contract, what: str, expression: str, values: Mapping[str, Number]) -> Number:
    """An expression of the contract; where a symbol has no value, no buffer given has it in its shape."""
    if not expressions.names(expression) <= values.keys():
        missing = sorted(expressions.names(expression) - values.keys())
        raise ArgumentError(f"{c.name}: {missing[0]} is missing ({what} needs it); pass it by keyword")
    return expressions.evaluate(expression, values)


def _one(
    device: BaseDevice,
    c: Contract,
    variant: Variant,
    buffers: Mapping[str, Buffer],
    left_out: frozenset[str],
    values: dict[str, Number],
    indirect: Buffer | None,
) -> Dispatch | None:
    push = []
    for p in c.push:
        if p.value is not None:
            value = _evaluate(c, f"push field {p.name}", p.value, values)
        elif p.name in values:
            value = values[p.name]
        elif p.default is not None:
            value = p.default
        else:
            raise ArgumentError(f"{c.name}: {p.name} ({p.type}) is missing")
        values[p.name] = value
        try:
            push.append(struct.pack("<" + PUSH_TYPES[p.type], value if p.type == "float" else int(value)))
        except (struct.error, OverflowError):
            raise ArgumentError(f"{c.name}: {p.name} is {value}, which does not fit {p.type}") from None
    spec = []
    for s in c.spec:
        value = int(values[s.name])
        spec.append(value & 0xFFFFFFFF)
    grid = tuple(int(_evaluate(c, "the grid", e, values)) for e in c.grid)
    if 0 in grid and indirect is None:
        return None
    for axis, (n, most) in enumerate(zip(grid, device.limits["max_grid"], strict=True)):
        if n > most:
            raise ArgumentError(f"{c.name}: {n} workgroups along axis {axis}, the device allows {most}")
    ordered = {}
    for b in c.bindings:
        buffer = buffers[b.name] if b.name in buffers else device.dummy
        if b.elements is not None and b.name in buffers:
            least = _evaluate(c, f"the size of {b.name}", b.elements, values)
            if buffer.size < least:
                raise ArgumentError(f"{c.name}: {b.name} has {buffer.size} elements, expected {b.elements} = {least}")
        if buffer.nbytes == 0:
            buffer = device.dummy
        _check_place(device, c, b.name, buffer)
        if buffer.nbytes > device.max_range:
            raise ArgumentError(
                f"{c.name}: {b.name} has {buffer.nbytes} bytes; "
                f"one binding spans at most {device.max_range} on this device"
            )
        ordered[b.name] = buffer
    values.update({f"{name}_bytes": buffer.nbytes for name, buffer in ordered.items()})
    return Dispatch(
        c, variant, tuple(spec), ordered, left_out, b"".join(push), (grid[0], grid[1], grid[2]),
        float(_evaluate(c, "the cost", c.cost_bytes, values)), float(_evaluate(c, "the cost", c.cost_flops, values)),
        indirect,
    )  # fmt: skip
