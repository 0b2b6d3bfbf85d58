"""`run`: a program on the reference VM, with registers, flags, steps and trap; and step by step."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flux_vk.cli.common import whole
from flux_vk.cli.tables import aligned

from ._programs import PROGRAM_HELP, find_program, setting

if TYPE_CHECKING:
    from flux_vk.flux import Program, State, Step

NAME = "run"
HELP = "run a program on the reference VM and show how it ended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROGRAM, registers, limits, what to show."""
    parser.add_argument("program", metavar="PROGRAM", help=PROGRAM_HELP)
    parser.add_argument(
        "--set", dest="registers", type=setting, action="append", default=[], metavar="REG=VALUE",
        help="a register on entry, such as R0=7 or F1=0.5; repeatable",
    )  # fmt: skip
    parser.add_argument("--max-steps", type=whole(0), default=1_000_000, metavar="N", help="default 1000000")
    parser.add_argument(
        "--memory", choices=("full", "gpu"), default="full",
        help="gpu: only what the GPU offers, with its two windows of memory; default full",
    )  # fmt: skip
    parser.add_argument("--trace", action="store_true", help="every step with the registers that it changed")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run and print; 1 where the program trapped."""
    from flux_vk.flux import Trap
    from flux_vk.flux import run as execute

    program = find_program(args.program)
    gp = {number: int(value) for bank, number, value in args.registers if bank == "R"}
    fp = {number: value for bank, number, value in args.registers if bank == "F"}
    steps: list[Step] = []
    trace = steps if args.trace else None
    state = execute(program, gp, fp, max_steps=args.max_steps, memory=args.memory, trace=trace)
    if args.json:
        print(json.dumps(_as_data(program, state, steps if args.trace else None)))
    else:
        if args.trace:
            print(step_table(program, gp, fp, steps))
        print(_as_text(program, state))
    return 0 if state.trap == Trap.NONE else 1


def _value(program: Program, state: State) -> float | None:
    """The result as a score; None where there is none."""
    import math

    from flux_vk.flux import score

    found = score(program, state, math.nan)[0]
    return None if math.isnan(found) else found


def _as_data(program: Program, state: State, steps: Sequence[Step] | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": program.name, "halted": state.halted, "trap": state.trap.name, "steps": state.steps, "pc": state.pc,
        "gp": list(state.gp), "fp": [_plain(value) for value in state.fp], "flags": state.flags._asdict(),
        "result": program.result, "score": _value(program, state),
    }  # fmt: skip
    if steps is not None:
        found["trace"] = [
            {
                "offset": step.instruction.offset, "mnemonic": step.instruction.op.name, "gp": list(step.gp),
                "fp": [_plain(value) for value in step.fp], "flags": step.flags._asdict(), "trap": step.trap.name,
            }
            for step in steps
        ]  # fmt: skip
    return found


def _plain(value: float) -> float | str:
    """JSON has no infinities."""
    import math

    return value if math.isfinite(value) else str(value)


def _rows(bank: str, values: Sequence[str]) -> Iterable[list[str]]:
    """Registers in four columns."""
    for row in range(4):
        yield [text for i in range(row, 16, 4) for text in (f"{bank}{i}", values[i])]


def _as_text(program: Program, state: State) -> str:
    rows = [*_rows("R", [str(v) for v in state.gp]), *_rows("F", [f"{v:.9g}" for v in state.fp])]
    flags = " ".join(name if on else "-" for name, on in state.flags._asdict().items())
    how = "halted" if state.halted else f"trap {state.trap.name} ({int(state.trap)})"
    value = _value(program, state)
    score = "none: the candidate's own logit counts" if value is None else f"{value:.9g}"
    lines = [aligned([""] * 8, rows), "", f"flags  {flags}", f"{how} after {state.steps} steps at offset {state.pc}"]
    return "\n".join([*lines, f"score from {program.result}  {score}"])


def step_table(program: Program, gp: dict[int, int], fp: dict[int, float], steps: Sequence[Step]) -> str:
    """A line for each step: offset, instruction, what it changed, flags."""
    from flux_vk.flux import run as execute
    from flux_vk.flux.disassembler import instruction_text, label_names
    from flux_vk.flux.instructions import decode
    from flux_vk.flux.program import Trap

    labels = label_names(decode(program.code))
    before = execute(program, gp, fp, max_steps=0)
    rows: list[list[str]] = []
    last_gp, last_fp = before.gp, before.fp
    for step in steps:
        changed = [f"R{i}={v}" for i, (v, w) in enumerate(zip(step.gp, last_gp, strict=True)) if v != w]
        changed += [f"F{i}={v:.9g}" for i, (v, w) in enumerate(zip(step.fp, last_fp, strict=True)) if v != w and v == v]
        if step.trap != Trap.NONE:
            changed.append(f"trap {step.trap.name}")
        flags = "".join(name if on else "-" for name, on in step.flags._asdict().items())
        name = labels.get(step.instruction.offset, "")
        text = instruction_text(step.instruction, labels)
        rows.append([f"{step.instruction.offset:04X}", name, text, flags, " ".join(changed)])
        last_gp, last_fp = step.gp, step.fp
    return aligned(["at", "label", "instruction", "flags", "changed"], rows) + "\n"
