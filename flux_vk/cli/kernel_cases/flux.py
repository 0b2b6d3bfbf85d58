"""The FLUX interpreter: three agents as people write them, over the best 256 tokens and over a vocabulary; loops.

In the place of floating-point operations stand instructions of the machine, so that GFLOP/s reads as 10^9 of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.cli.bench_cases import Array, Buffers, Case, Check, Prepared, Sizes
from flux_vk.flux.instructions import encode
from flux_vk.flux.interpreter import interpret
from flux_vk.flux.lower import lower
from flux_vk.flux.opcodes import BY_NAME
from flux_vk.flux.program import Program
from flux_vk.flux.reference import U32, flux_interpret

if TYPE_CHECKING:
    from flux_vk.gpu import Chain, Device

BEST = 256
CHECKED = 32
"""Candidates of each row that the reference VM runs too: the first ones. Their steps stand for all."""
MOST_ROWS = 8


def _program(*lines: tuple[str | int, ...], gp: dict[int, int] | None = None, result: str = "R0") -> Program:
    code = [encode(BY_NAME[str(name)], [int(x) for x in operands]) for name, *operands in lines]
    return Program(b"".join(code), result=result, gp=gp or {})


AGENTS = (
    # Twice the logit above half the best one's, with a bonus for frequent tokens: 14 instructions or fewer.
    _program(
        ("MOVI", 9, 2), ("IMUL", 0, 0, 9), ("MOVI", 12, 100), ("IADD", 1, 1, 12), ("CMP", 2, 9), ("JL", 0, 4),
        ("ISUB", 0, 0, 8), ("MOV", 13, 0), ("IAND", 12, 0, 1), ("ISHR", 13, 12, 9), ("IXOR", 12, 12, 13),
        ("IADD", 0, 0, 13), ("NOP",), ("HALT",), gp={8: 4096},
    ),
    # A temperature that grows with the position, in integers: two divisions.
    _program(
        ("MOVI", 8, 64), ("IDIV", 9, 1, 8), ("INC", 9), ("MOVI", 12, 8), ("CMP", 9, 12), ("JLE", 0, 3),
        ("MOV", 9, 12), ("MOV", 13, 0), ("IDIV", 0, 0, 9), ("IADD", 0, 0, 13), ("ISHR", 0, 0, 8), ("HALT",),
    ),
    # Floats: the logit, less a share of the distance from the best, halved for what occurred.
    _program(
        ("FSUB", 6, 4, 0), ("FMUL", 6, 6, 1), ("FADD", 7, 0, 6), ("FMIN", 7, 4), ("JZ", 2, 12), ("FADD", 8, 3, 3),
        ("FDIV", 7, 7, 8), ("FADD", 7, 7, 1), ("FNEG", 9, 7), ("FABS", 9, 9), ("FADD", 0, 7, 9), ("HALT",), result="F0",
    ),
)  # fmt: skip
LOOP = _program(
    ("MOVI", 8, 100), ("IADD", 0, 0, 8), ("ISUB", 0, 0, 9), ("IXOR", 12, 12, 0), ("DEC", 8), ("JNZ", 8, -18), ("HALT",)
)
STACK = _program(
    ("MOVI", 8, 40), ("PUSH", 8), ("PUSH", 0), ("POP", 9), ("POP", 12), ("DEC", 8), ("JNZ", 8, -14), ("HALT",)
)


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """For as many rows as streams are decoded together, at most 8; the whole vocabulary and loops for one."""
    for r in dict.fromkeys(min(r, MOST_ROWS) for r in rows):
        label = f"{r} x 3 agents x {BEST}"
        yield Case("flux_interpret", label, partial(_make, AGENTS, r, BEST))
    yield Case("flux_interpret", f"1 x 3 agents x {sizes.vocab}", partial(_make, AGENTS, 1, sizes.vocab))
    yield Case("flux_interpret", f"8 x 1 x {BEST}, 502 steps", partial(_make, [LOOP], MOST_ROWS, BEST))
    yield Case("flux_interpret", f"8 x 1 x {BEST}, stack", partial(_make, [STACK], MOST_ROWS, BEST))


def _rows(rng: np.random.Generator, rows: int, most: int) -> tuple[U32, U32]:
    logits = -np.sort(-3 * rng.standard_normal((rows, most)).astype(np.float32), axis=1)
    info, cand = np.zeros((rows, 8), np.uint32), np.zeros((rows, most, 4), np.uint32)
    info[:, 0], info[:, 4] = most, np.arange(100, 100 + rows)
    facts = np.stack([logits[:, 0], np.full(rows, 3), np.log(np.exp(logits.astype(np.float64)).sum(1))], 1)
    info[:, 1:4] = facts.astype(np.float32).view(np.uint32)
    cand[..., 0] = np.arange(most)
    cand[..., 1] = logits.view(np.uint32)
    cand[..., 2] = rng.random((rows, most)) < 0.1
    cand[..., 3] = np.where(cand[..., 2] > 0, 7, 0xFFFFFFFF)
    return info, cand


def _make(agents: Sequence[Program], rows: int, most: int, device: Device, rng: np.random.Generator) -> Prepared:
    info, cand = _rows(rng, rows, most)
    few = info.copy()
    few[:, 0] = min(most, CHECKED)
    want, _, state = flux_interpret(few, cand[:, :CHECKED], [agents])
    assert (state[..., 33] == 0).all(), "a benchmark whose agents trap"
    shape = (rows, len(agents), most)
    buffers = {
        "row_info": device.array(info), "cand": device.array(cand),
        "code": device.array(np.stack([lower(p) for p in agents])[None]),
        "score": device.filled(shape, "f32", 0xFF), "traps": device.zeros((*shape[:2], 2), "u32"),
    }  # fmt: skip
    steps = float(state[..., 34].mean()) * np.prod(shape)
    checks: list[Check] = [("score", _first, want)]
    return Prepared(buffers, _append, checks, 0.0, None, steps)


def _append(chain: Chain, b: Buffers) -> object:
    return interpret(chain, row_info=b["row_info"], cand=b["cand"], code=b["code"], score=b["score"], traps=b["traps"])


def _first(score: Array) -> Array:
    return score[..., :CHECKED]
