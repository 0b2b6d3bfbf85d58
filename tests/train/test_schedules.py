"""Learning rates against the formulas, and at the places where schedules go wrong."""

from __future__ import annotations

import math

import pytest

from flux_vk.errors import InputError
from flux_vk.train.options import SCHEDULES, TrainOptions
from flux_vk.train.schedules import Schedule
from tests.train.golden_data import read_npz


@pytest.mark.parametrize("kind", SCHEDULES)
def test_warmup(kind: str) -> None:
    s = Schedule(kind, 2e-4, total=100, warmup=10, lowest=1e-5)
    assert s.rate(0) == 0
    assert s.rate(5) == pytest.approx(1e-4, rel=1e-12)
    assert s.rate(10) == 2e-4  # exactly


def test_cosine() -> None:
    s = Schedule("cosine", 2e-4, total=110, warmup=10, lowest=1e-5)
    assert s.rate(60) == pytest.approx((2e-4 + 1e-5) / 2, rel=1e-12)
    assert s.rate(110) == pytest.approx(1e-5, rel=1e-12) == s.rate(111) == s.rate(10**9)
    for step in range(10, 111):
        want = 1e-5 + (2e-4 - 1e-5) / 2 * (1 + math.cos(math.pi * (step - 10) / 100))
        assert s.rate(step) == pytest.approx(want, rel=1e-12)


def test_linear() -> None:
    s = Schedule("linear", 2e-4, total=110, warmup=10)
    for step in range(10, 111):
        assert s.rate(step) == pytest.approx(2e-4 * (110 - step) / 100, rel=1e-12, abs=1e-18)
    assert s.rate(110) == 0 == s.rate(200)


def test_constant() -> None:
    s = Schedule("constant", 2e-4, total=110, lowest=1e-5)
    assert {s.rate(step) for step in (0, 1, 110, 1000)} == {2e-4}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (5, 5), (5, 9), (0, 0)])
def test_short_trainings(kind: str, total: int, warmup: int) -> None:
    s = Schedule(kind, 1.0, total, warmup)
    assert all(0 <= s.rate(step) <= 1 for step in range(12))
    assert s.rate(warmup) == 1.0 or total == 0


def test_the_schedule_of_options() -> None:
    assert Schedule.of(TrainOptions(warmup=0.03), 100) == Schedule("cosine", 2e-4, 100, 3, 0.0)
    # A share is rounded down: in a training of a few steps none is spent at rate 0.
    assert Schedule.of(TrainOptions(warmup=0.03), 30).warmup == 0
    assert Schedule.of(TrainOptions(warmup=7, schedule="linear", min_lr=1e-6), 30) == Schedule(
        "linear", 2e-4, 30, 7, 1e-6
    )
    with pytest.raises(InputError, match="schedule: found 'step'"):
        Schedule("step", 1.0, 10)


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("kind", [*SCHEDULES, "cosine-min"])
def test_schedules_are_those_of_pytorch_training_loops(kind: str, warmup: int) -> None:
    """Rates that transformers' schedules gave; how they were made: golden/README.md."""
    golden = read_npz("schedules")
    lowest = float(golden["lowest"]) if kind == "cosine-min" else 0.0
    s = Schedule(kind.removesuffix("-min"), float(golden["peak"]), int(golden["total"]), warmup, lowest)
    want = golden[f"{kind}/{warmup}"]
    got = [s.rate(step) for step in range(len(want))]
    assert got == pytest.approx(want.tolist(), rel=1e-6, abs=1e-12)
