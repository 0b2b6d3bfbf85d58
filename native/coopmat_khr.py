"""Rewrites a SPIR-V module: cooperative matrices of SPV_NV_cooperative_matrix become SPV_KHR_cooperative_matrix's.

Run by compile_shaders.py for variants with rewrite = "coopmat_khr", because compilers before glslang 13 know the NV
form alone. The two differ in their numbers and in little else: a KHR type also says what a matrix is for (its use), and
loads and stores name the layout by a constant instead of a truth value. Standard library only.

The use follows from the multiply-adds that take a type as A, B or C. A type that none takes, or that is taken as more
than one, cannot be expressed and is refused; shaders give A, B and C sizes by constants of their own.

Numbers are those of the SPIR-V specification and of its two extensions.
"""

from __future__ import annotations

from collections.abc import Iterator

MAGIC = 0x07230203
NV_NAME, KHR_NAME = "SPV_NV_cooperative_matrix", "SPV_KHR_cooperative_matrix"
CAPABILITY_NV, CAPABILITY_KHR = 5357, 6022
TYPE_NV, LOAD_NV, STORE_NV, MUL_ADD_NV, LENGTH_NV = 5358, 5359, 5360, 5361, 5362
TYPE_KHR, LOAD_KHR, STORE_KHR, MUL_ADD_KHR, LENGTH_KHR = 4456, 4457, 4458, 4459, 4460
USE_A, USE_B, USE_ACCUMULATOR = 0, 1, 2
ROW_MAJOR, COLUMN_MAJOR = 0, 1
OP_SOURCE_EXTENSION, OP_EXTENSION, OP_CAPABILITY, OP_TYPE_INT = 4, 10, 17, 21
OP_CONSTANT_TRUE, OP_CONSTANT_FALSE, OP_CONSTANT = 41, 42, 43
# Instructions that may make a matrix: undefined, constants, parameters, calls, loads, composites, copies, conversions,
# arithmetic, select, phi. Type and result are their first two operands.
VALUES = {1, 44, 46, 51, 55, 57, 61, 80, 81, 82, 83, 115, 124, 127, 129, 131, 133, 136, 143, 169, 245,
          LOAD_NV, MUL_ADD_NV}  # fmt: skip


class RewriteError(Exception):
    """A module that has no KHR form, with the reason."""


Instruction = list[int]
"""Opcode, then operands."""


def to_khr(code: bytes) -> bytes:
    """The module with KHR cooperative matrices. Raises RewriteError."""
    words = _words(code)
    body = list(_instructions(words))
    uses = _uses(body)
    first = next(i for i, instruction in enumerate(body) if instruction[0] == TYPE_NV)
    uint = next((i[1] for i in body[:first] if i[0] == OP_TYPE_INT and i[2:] == [32, 0]), None)
    if uint is None:
        raise RewriteError("no 32-bit unsigned type stands before the first matrix type")
    # Uses and layouts are constants 0, 1 and 2; the module's own may come too late, and it may have several of a value.
    constants = [words[3] + value for value in range(3)]
    truth = {i[2]: i[0] == OP_CONSTANT_TRUE for i in body if i[0] in (OP_CONSTANT_TRUE, OP_CONSTANT_FALSE)}
    out = [_rewritten(i, uses, truth, constants) for i in body]
    out[first:first] = [[OP_CONSTANT, uint, constants[value], value] for value in range(3)]
    flat = [*words[:3], words[3] + 3, words[4]]
    for op, *operands in out:
        flat += [(len(operands) + 1) << 16 | op, *operands]
    return b"".join(w.to_bytes(4, "little") for w in flat)


def _words(code: bytes) -> list[int]:
    words = [int.from_bytes(code[i : i + 4], "little") for i in range(0, len(code), 4)]
    if len(code) % 4 or len(words) < 5 or words[0] != MAGIC:
        raise RewriteError("not a SPIR-V module (wrong magic number or length)")
    return words


def _instructions(words: list[int]) -> Iterator[Instruction]:
    at = 5
    while at < len(words):
        length, op = words[at] >> 16, words[at] & 0xFFFF
        if length == 0 or at + length > len(words):
            raise RewriteError(f"the module is damaged at word {at}")
        yield [op, *words[at + 1 : at + length]]
        at += length


def _text(operands: list[int]) -> str:
    return b"".join(w.to_bytes(4, "little") for w in operands).split(b"\0")[0].decode("utf-8", "replace")


def _literal(text: str) -> list[int]:
    raw = text.encode() + b"\0"
    raw += b"\0" * (-len(raw) % 4)
    return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]


def _uses(body: list[Instruction]) -> dict[int, int]:
    """The use of every matrix type of the module."""
    kinds = [i[1] for i in body if i[0] == TYPE_NV]
    if not kinds:
        raise RewriteError("the module has no cooperative matrix type")
    type_of = {i[2]: i[1] for i in body if i[0] in VALUES}
    found: dict[int, int] = {}
    for op, *operands in body:
        if op != MUL_ADD_NV:
            continue
        result_type, _, a, b, c = operands[:5]
        taken = ((type_of.get(a), USE_A), (type_of.get(b), USE_B), (type_of.get(c), USE_ACCUMULATOR))
        for kind, use in (*taken, (result_type, USE_ACCUMULATOR)):
            if kind is None or kind not in kinds:
                raise RewriteError(f"a multiply-add takes a value whose type ({kind}) is no matrix type of the module")
            if found.setdefault(kind, use) != use:
                raise RewriteError(
                    f"matrix type %{kind} is used both as {'AB+'[found[kind]]} and as {'AB+'[use]} of a "
                    "multiply-add; give the two sizes by different constants"
                )
    for kind in kinds:
        if kind not in found:
            raise RewriteError(f"matrix type %{kind} takes part in no multiply-add: its use is not known")
    return found


def _rewritten(
    instruction: Instruction, uses: dict[int, int], truth: dict[int, bool], constants: list[int]
) -> Instruction:
    op, *x = instruction

    def layout(by_columns: int) -> int:
        if by_columns not in truth:
            raise RewriteError(f"a load or store has %{by_columns} as its layout; expected a constant truth value")
        return constants[COLUMN_MAJOR if truth[by_columns] else ROW_MAJOR]

    if op == OP_CAPABILITY and x == [CAPABILITY_NV]:
        return [op, CAPABILITY_KHR]
    if op == OP_EXTENSION and _text(x) == NV_NAME:
        return [op, *_literal(KHR_NAME)]
    if op == OP_SOURCE_EXTENSION and _text(x) == "GL_NV_cooperative_matrix":
        return [op, *_literal("GL_KHR_cooperative_matrix")]
    if op == TYPE_NV:  # result, component type, scope, rows, columns; the use is new
        return [TYPE_KHR, *x, constants[uses[x[0]]]]
    if op == LOAD_NV:  # type, result, pointer, stride, is it by columns, memory access
        return [LOAD_KHR, x[0], x[1], x[2], layout(x[4]), x[3], *x[5:]]
    if op == STORE_NV:  # pointer, object, stride, is it by columns, memory access
        return [STORE_KHR, x[0], x[1], layout(x[3]), x[2], *x[4:]]
    if op == MUL_ADD_NV:
        return [MUL_ADD_KHR, *x]
    if op == LENGTH_NV:
        return [LENGTH_KHR, *x]
    return instruction
