"""The stock agents against their formulas, on the VM as the GPU runs them, over awkward candidates; their ABI."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.flux import (
    DEFAULT_SWARM,
    STOCK,
    Candidate,
    Program,
    Trap,
    assemble_program,
    check,
    disassemble,
    random_bits,
    run,
    score,
    score_of,
    stock,
)
from flux_vk.flux.abi import q16
from flux_vk.gpu.reference.sampling import draw_bits, philox4x32_10
from tests.flux.programs import code

F = np.float32
LOGITS = [0.0, -0.0, 1.0, -1.0, 12.25, -37.5, 1e-30, -1e-30, 32767.9, 32768.0, -32768.5, 1e30, -1e30, 1.5e38, -1.5e38]


def creative(c: Candidate) -> F:
    position = F(c.position)
    share = position / (position + F(16))
    return F(c.logit) / (share * F(0.6) + F(0.7))


def penalty(c: Candidate) -> F:
    times = F(c.count) + F(1)
    return F(c.logit) * times if c.logit < 0 else F(c.logit) / times


def min_p(c: Candidate) -> F:
    assert c.best is not None
    kept = F(c.logit) >= F(c.best) + F(math.log(0.05))
    return F(c.logit) if kept else F(c.logit) - F(100)


def repetition_window(c: Candidate) -> F:
    taken = 2 * (17 - c.distance) / 16 if 1 <= c.distance <= 16 else 0
    return F(c.logit) - F(taken)


FORMULAS: dict[str, Callable[[Candidate], F]] = {
    "conservative": lambda c: F(c.logit) * F(2),
    "creative": creative,
    "penalty": penalty,
    "min_p": min_p,
    "repetition_window": repetition_window,
    "greedy": lambda c: F(c.logit) - F(0 if c.rank == 0 else 100),
    "uniform": lambda c: F(0),
}


def test_the_agents_that_ship() -> None:
    assert set(FORMULAS) == set(STOCK)
    assert DEFAULT_SWARM == (("conservative", 0.5), ("creative", 0.3), ("penalty", 0.2))
    with pytest.raises(InputError, match="no stock agent 'greddy'; did you mean greedy.; there are conservative, "):
        stock("greddy")


def test_every_source_is_an_agent(repo_root: Path) -> None:
    assert {path.stem for path in (repo_root / "flux_vk" / "flux" / "agents").iterdir()} == set(STOCK)


@pytest.mark.parametrize("name", STOCK)
def test_they_are_for_the_gpu(name: str) -> None:
    program = stock(name)
    assert program.name == name and check(program, "gpu").ok
    again = assemble_program(disassemble(program))
    assert (again.code, again.fp, again.gp, again.result) == (program.code, program.fp, program.gp, program.result)


@pytest.mark.parametrize("name", STOCK)
def test_their_formulas(name: str) -> None:
    """Every combination of extreme logits with awkward positions, counts, distances and ranks."""
    program = stock(name)
    for logit in LOGITS:
        for best in (logit, max(logit, 20.0), 3e38):
            plain = Candidate(float(F(logit)), best=float(F(best)))
            varied = [
                *(replace(plain, position=p) for p in (0, 1, 15, 16, 17, 131071)),
                *(replace(plain, count=n) for n in (0, 1, 2, 63, 4096)),
                *(replace(plain, distance=d) for d in (-1, 1, 2, 8, 15, 16, 17, 4096)),
                *(replace(plain, rank=r) for r in (0, 1, 255)),
            ]
            for candidate in varied:
                with np.errstate(over="ignore"):
                    wanted = FORMULAS[name](candidate)
                found, trap, state = score_of(program, candidate)
                if np.isfinite(wanted):
                    assert (found, trap) == (float(wanted), Trap.NONE), candidate
                else:  # twice a logit beyond half of the largest float, and the like: the logit stands
                    assert (found, trap) == (candidate.logit, Trap.OTHER), candidate
                assert state.steps <= 80 and state.halted


def test_a_penalty_never_helps() -> None:
    """Dividing a negative logit by the frequency would."""
    for logit in (x for x in LOGITS if abs(x) < 1e38):
        scores = [score_of(stock("penalty"), Candidate(float(F(logit)), count=n))[0] for n in (0, 1, 2, 5, 100)]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == float(F(logit)) and (scores[-1] < scores[0] or abs(logit) < 1e-29)


def test_creative_grows_bolder() -> None:
    """Its temperature is 0.7 at the beginning, 1 at position 16, and stays below 1.3."""
    at = {p: 1 / score_of(stock("creative"), Candidate(1.0, position=p))[0] for p in (0, 1, 4, 16, 100, 10**6)}
    assert at[0] == pytest.approx(0.7) and at[16] == pytest.approx(1.0)
    assert list(at.values()) == sorted(at.values()) and at[10**6] < 1.3


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.0, 0), (1.0, 65536), (-1.0, -65536), (0.5 / 65536, 0), (1.5 / 65536, 2), (2.5 / 65536, 2), (-0.5 / 65536, 0),
        (-1.5 / 65536, -2), (32767.0, 32767 * 65536), (32768.0, 2**31 - 1), (1e38, 2**31 - 1), (-32768.0, -(2**31)),
        (-1e38, -(2**31)), (math.inf, 2**31 - 1), (-math.inf, -(2**31)), (math.nan, 0),
    ],
)  # fmt: skip
def test_q16(value: float, wanted: int) -> None:
    assert q16(value) == wanted


def test_registers_on_entry() -> None:
    candidate = Candidate(1.25, 7, 2, 99, 3, 50, 0.125, 4, 6.5, 2.0, 0xFFFFFFFE)
    state = run(b"", *candidate.registers())
    assert state.gp == (81920, 7, 2, 99, 3, 50, 8192, 4, 0, 0, -2, 65536, 0, 0, 0, 0)
    assert state.fp == (1.25, 0.125, 7.0, 2.0, 6.5, 2.0, *[0.0] * 10)


def test_scores() -> None:
    state = run(b"", {0: 98304}, {0: 2.5})
    assert score(Program(b""), state, 9.0) == (1.5, Trap.NONE)
    assert score(Program(b"", result="F0"), state, 9.0) == (2.5, Trap.NONE)
    trapped = run(code(("IDIV", 0, 0, 1)))
    assert score(Program(b""), trapped, 9.0) == (9.0, Trap.DIVIDE_BY_ZERO)
    infinite = run(b"", fp={0: math.inf})
    assert score(Program(b"", result="F0"), infinite, 9.0) == (9.0, Trap.OTHER)
    large = run(b"", {0: 2**31 - 1})
    assert score(Program(b""), large, 0.0)[0] == 32768.0  # rounded to 24 bits, as 32-bit floats are
    endless = Program(code(("JMP", 0, -4)))
    assert score_of(endless, Candidate(4.0))[:2] == (4.0, Trap.STEP_LIMIT)


def test_random_bits() -> None:
    """They depend on all four, and are not the bits that draw the token."""
    varied = ((1, 2, 3, 4), (2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5), (1 << 32, 2, 3, 4))
    found = {random_bits(*x) for x in varied}
    assert len(found) == 6 and all(0 <= bits < 1 << 32 for bits in found)
    assert random_bits(1, 2, 0, 0) != draw_bits(1, 2) & 0xFFFFFFFF


def test_random_bits_are_32_of_position_agent_and_token() -> None:
    """The ABI's own order of words; seeds count by their low 64 bits."""
    assert random_bits(7 << 32 | 3, 1, 2, 9) == philox4x32_10((1, 2, 9, 0x464C5558), (3, 7))[0]
    assert random_bits(-1, 5, 1, 9) == random_bits(2**64 - 1, 5, 1, 9) == random_bits(2**70 - 1, 5, 1, 9) < 2**32
