"""Programs for tests: written as mnemonics, or drawn at random. Not for: running them."""

from __future__ import annotations

import numpy as np

from flux_vk.flux import BY_NAME, OPCODES
from flux_vk.flux.instructions import encode
from flux_vk.flux.operands import Operand


def code(*lines: tuple[object, ...]) -> bytes:
    """Bytes of instructions given as (mnemonic, operands...)."""
    return b"".join(encode(BY_NAME[str(name)], operands) for name, *operands in lines)  # type: ignore[arg-type]


def random_value(kind: Operand, rng: np.random.Generator) -> int | bytes:
    """A legal operand; of a jump, to the next instruction."""
    if kind is Operand.DATA:
        return rng.integers(0, 256, int(rng.integers(0, 9)), dtype=np.uint8).tobytes()
    if kind is Operand.REL:
        return 0
    if kind is Operand.PAD:
        return int(rng.choice([0, 0, 0, 3, 200]))
    return int(rng.integers(kind.low, kind.high + 1))


def random_program(rng: np.random.Generator, length: int, gpu: bool = False, tail: bool = True) -> bytes:
    """A legal program of so many random instructions: all opcodes (or those of the GPU), jumps to instructions or to
    the end, sometimes data behind a HALT."""
    ops = [op for op in OPCODES.values() if op.gpu or not gpu]
    chosen = [ops[int(i)] for i in rng.integers(0, len(ops), length)]
    parts = [[op, [random_value(kind, rng) for kind in op.operands]] for op in chosen]
    encoded = [encode(op, values) for op, values in parts]
    starts = np.cumsum([0, *map(len, encoded)]).tolist()
    for i, (op, values) in enumerate(parts):
        if Operand.REL in op.operands:
            values[op.operands.index(Operand.REL)] = starts[int(rng.integers(0, length + 1))] - starts[i + 1]
            encoded[i] = encode(op, values)
    out = b"".join(encoded)
    if tail and not gpu and rng.random() < 0.3:
        return out + b"\x80" + b"\xff" + rng.integers(0, 256, int(rng.integers(0, 20)), dtype=np.uint8).tobytes()
    return out
