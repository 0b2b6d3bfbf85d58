"""docs/opcodes.md, written from the table: `python -m flux_vk.flux.opcode_page > docs/opcodes.md`.

Not for: prose about the machine (docs/flux.md); what is to be said of one operation goes into the table.
"""

from __future__ import annotations

from .embedding import DIMENSIONS
from .opcodes import OPCODES, Opcode
from .operands import NAMES, Operand

_HEAD = """\
# Opcodes

<!-- Written by `python -m flux_vk.flux.opcode_page > docs/opcodes.md` from flux_vk/flux/opcodes.py. -->

What every operation of a FLUX program does; [flux.md](flux.md) explains the machine. The words bind the reference VM
and the interpreter on the GPU alike. Rules that hold everywhere: operands are read before anything is written; an
instruction that traps writes nothing and is not counted as a step; integers wrap to 32 bits; every float result is
rounded to 32 bits; "flags of x" means Z = (x == 0), S = C = (x < 0), O = 0 of the wrapped result, and where no flags
are named they keep their values. A taken jump or call to what is neither the start of an instruction nor the end of the
code traps BAD_ADDRESS. An operand out of range traps OTHER.

Every operation costs one step of the limit. In effects a, b and c are the operands in order; "GPU" says whether
programs for the GPU may hold the operation, "dim" is its dimension in embeddings.

| operand | bytes | is |
|---|---:|---|
"""
_WORDS = {
    Operand.RD: "an integer register that is written", Operand.RS: "an integer register that is read",
    Operand.RX: "an integer register, read and written", Operand.FD: "a float register that is written",
    Operand.FS: "a float register that is read", Operand.FX: "a float register, read and written",
    Operand.FR: "a number for two registers: the float one is read, the integer one written",
    Operand.VD: "a vector register that is written", Operand.VS: "a vector register that is read",
    Operand.VX: "a vector register, read and written", Operand.PAD: "ignored, and may be left out in sources",
    Operand.ICOND: "a condition of ICMP", Operand.CC: "a condition of SETCC", Operand.CAST: "a kind of CAST, 0 to 3",
    Operand.U8: "a number from 0 to 255", Operand.I16: "a number from -32768 to 32767",
    Operand.REL: "the distance from the end of the instruction to the target, or a label",
    Operand.I32: "a number from -2147483648 to 2147483647", Operand.DATA: "a length and so many bytes",
}  # fmt: skip


def opcode_page() -> str:
    """The text of docs/opcodes.md: kinds of operands, then a table for each group."""
    lines = [_HEAD.rstrip("\n")]
    for kind in Operand:
        size = "2 + n" if kind is Operand.DATA else str(kind.size)
        names = f": {', '.join(f'{i} {name}' for i, name in enumerate(NAMES[kind]))}" if kind in NAMES else ""
        lines.append(f"| `{kind.value}` | {size} | {_WORDS[kind]}{names} |")
    group = ""
    for op in OPCODES.values():
        if op.group != group:
            group = op.group
            lines += ["", f"## {group.capitalize()}", ""]
            lines += ["| byte | operation | effect | length | flags | GPU | dim | meaning |"]
            lines += ["|---|---|---|---:|---|---|---:|---|"]
        lines.append(_row(op))
    return "\n".join([*lines, ""])


def _row(op: Opcode) -> str:
    operands = " ".join(kind.value for kind in op.operands)
    effect = op.effect.format(*"abc"[: len(op.operands)])
    length = "3 + n" if op.length is None else str(op.length)
    cells = [
        f"{op.byte:02X}", f"`{f'{op.name} {operands}'.strip()}`", effect, length, op.flags or "-",
        "yes" if op.gpu else "-", str(DIMENSIONS[op.byte]), op.meaning,
    ]  # fmt: skip
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(opcode_page(), end="")
