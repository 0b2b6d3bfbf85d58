"""Lowering: every operation that the GPU offers has entries, the rest is refused, the shader has the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.flux import micro
from flux_vk.flux.instructions import encode
from flux_vk.flux.lower import CODE_WORDS, code_words, lower
from flux_vk.flux.opcodes import BY_NAME, OPCODES, Opcode
from flux_vk.flux.operands import Operand
from flux_vk.flux.program import MAX_CODE, Program
from tests.flux.program_maker import random_program


def one(op: Opcode) -> bytes:
    return encode(op, [b"" if kind is Operand.DATA else 0 for kind in op.operands])


def test_the_shaders_numbers_are_current(repo_root: Path) -> None:
    text = (repo_root / "shaders" / "include" / "flux_words.glsl").read_text(encoding="utf-8")
    assert text == micro.glsl(), "run python -m flux_vk.flux.micro > shaders/include/flux_words.glsl"


@pytest.mark.parametrize("op", OPCODES.values(), ids=lambda op: op.name)
def test_every_operation_is_lowered_or_refused(op: Opcode) -> None:
    program = Program(one(op))
    if op.gpu:
        assert lower(program).any()
    else:
        with pytest.raises(InputError, match=f"{op.name} at offset 0: the GPU does not offer"):
            lower(program)


def test_what_is_no_program_is_refused() -> None:
    for code, words in (
        (b"", "no instruction at offset 0 of 0"),
        (b"\x00\xff", "no instruction at offset 1 of 2"),
        (b"\x2b\x00\x00", "no instruction at offset 0 of 3"),
        (encode(BY_NAME["JMP"], [0, -2]), "JMP at offset 0 jumps to 2, inside an instruction"),
        (bytes(MAX_CODE + 1), "1025 bytes of code, expected at most 1024"),
    ):
        with pytest.raises(InputError, match=f"program 'odd'.*{words}"):
            lower(Program(code, "odd"))


@pytest.mark.parametrize("code", ["01c803", "1f000a", "180a0000", "38000004", "481000"])
def test_operands_out_of_range_are_refused(code: str) -> None:
    """They would spill into other fields of an entry."""
    with pytest.raises(InputError, match="at offset 0: an operand is"):
        lower(Program(bytes.fromhex(code)))


def test_data_behind_the_last_instruction_is_no_hindrance() -> None:
    words = lower(Program(b"\x80\xff\x01\x02")).reshape(-1, 4)
    assert not words[micro.BASE + 1 : micro.BASE + 4].any() and words[micro.BASE + 4].any()


def test_sizes() -> None:
    assert lower(Program(b"\x80")).shape == (CODE_WORDS,) == (code_words(MAX_CODE),)
    assert lower(Program(bytes(MAX_CODE))).shape == (CODE_WORDS,)
    assert lower(Program(bytes(7)), 7).shape == (code_words(7),)
    with pytest.raises(InputError, match="8 bytes of code, expected at most 7"):
        lower(Program(bytes(8)), 7)


def test_every_way_through_stays_among_entries(rng: np.random.Generator) -> None:
    """Slots that an entry leads to hold entries: nothing in a lowered program can lead the interpreter astray."""
    for _ in range(200):
        program = random_program(rng)
        words = lower(program).reshape(-1, 4)
        reached, ahead = set(), {int(words[0, 2])} | {micro.BASE + b for b in range(len(program.code) + 1)}
        ahead = {slot for slot in ahead if words[slot, 0] >> micro.BOUNDARY_BIT & 1 or slot < micro.BASE}
        while ahead:
            slot = ahead.pop()
            reached.add(slot)
            w = [int(x) for x in words[slot]]
            assert w[0], f"slot {slot} is empty"
            rare = w[0] >> micro.RARE_BIT
            ends = rare and w[0] >> micro.KIND_BIT & 15 in (micro.Rare.HALT, micro.Rare.END)
            ahead |= set() if ends else {w[2]} - {0} - reached
            ahead |= set() if rare else {w[3]} - reached
