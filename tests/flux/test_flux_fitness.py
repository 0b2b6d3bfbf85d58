"""The kernel that scores a population, beside the reference VM and a float64 softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.flux import assemble_program
from flux_vk.flux.evolution.recording import OUTSIDE
from flux_vk.flux.evolution.reference import flux_fitness
from flux_vk.flux.evolution.scoring import LEAST, NO_PICK
from flux_vk.flux.program import Program, Trap
from flux_vk.flux.reference import U32
from flux_vk.gpu import Device, kernels
from tests.flux.program_maker import random_program
from tests.flux.rows import code_of, some_rows
from tests.gpu.harness import nmse, run_kernel

pytestmark = pytest.mark.kernel
F32 = npt.NDArray[np.float32]
IDENTITY = assemble_program(".result F0\nHALT")
UNIFORM = assemble_program("MOVI R0, 0\nHALT")
RANDOM = assemble_program("MOV R0, R10\nHALT")
TRAPS = assemble_program(".result F0\nFSUB F6, F6, F6\nFDIV F0, F0, F6")
ENDLESS = assemble_program("again: INC R0\nJMP again")
FAR = assemble_program(".result F0\n.const F8 1e38\nFMUL F0, F1, F8\nHALT")


def given(rng: np.random.Generator, rows: int, most: int) -> tuple[U32, U32, U32, F32]:
    """row_info, cand, target and base: every third target is outside, rows have 1 to `most` candidates."""
    info, cand = some_rows(rng, rows, most)
    info[:, 0] = rng.integers(1, most + 1, rows)
    info[0, 0] = most
    target = (rng.random(rows) * info[:, 0]).astype(np.uint32)
    target[::3] = OUTSIDE
    return info, cand, target, rng.uniform(-9, 0, rows).astype(np.float32)


def fitness(
    device: Device, case: tuple[U32, U32, U32, F32], programs: Sequence[Program | None], **scalars: float
) -> dict[str, npt.NDArray[np.generic]]:
    info, cand, target, base = case
    shape = (len(programs), len(info))
    inputs = {"row_info": info, "cand": cand, "code": code_of([programs]), "target": target, "base": base}
    outputs = {"loglik": (shape, "f32"), "pick": (shape, "u32"), "traps": ((*shape, 2), "u32")}
    return run_kernel(device, "flux_fitness", inputs, outputs, least=LEAST, **scalars)


def compare(
    device: Device, case: tuple[U32, U32, U32, F32], programs: Sequence[Program | None], **scalars: int
) -> dict[str, npt.NDArray[np.generic]]:
    found = fitness(device, case, programs, **scalars)
    info, cand, target, base = case
    loglik, pick, traps = flux_fitness(info, cand, programs, target, base, scalars.get("max_steps", 1024))
    np.testing.assert_array_equal(found["pick"], pick)
    np.testing.assert_array_equal(found["traps"], traps)
    assert nmse(found["loglik"], loglik) <= kernels.contract("flux_fitness").nmse
    return found


@pytest.mark.parametrize("variant", ["lane", "default"])
@pytest.mark.parametrize("wg", [16, 32, 64])
@pytest.mark.parametrize(("rows", "most"), [(1, 1), (3, 7), (2, 31), (2, 33), (1, 100)])
def test_random_programs(device: Device, rng: np.random.Generator, rows: int, most: int, wg: int, variant: str) -> None:
    programs: list[Program | None] = [random_program(rng, flavour=f) for f in ("", "floats", "stack", "loop")]
    found = compare(device, given(rng, rows, most), [*programs, None, IDENTITY], WG=wg, variant=variant, max_steps=200)
    assert (found["pick"][4] == NO_PICK).all() and (found["loglik"][4] == LEAST).all()


def test_what_programs_mean(device: Device, rng: np.random.Generator) -> None:
    """The model's own scores, no opinion, traps everywhere, no end, and scores whose differences overflow."""
    case = given(rng, 7, 40)
    info, cand, target, base = case
    found = compare(device, case, [IDENTITY, UNIFORM, TRAPS, ENDLESS, FAR], max_steps=50)
    np.testing.assert_array_equal(found["pick"][0], cand[:, 0, 0])  # candidates come in rank order
    inside = target != OUTSIDE
    want = np.where(inside, base - np.log(info[:, 0]), base)
    np.testing.assert_allclose(found["loglik"][1], want, rtol=1e-5)
    for place, trap in ((2, Trap.DIVIDE_BY_ZERO), (3, Trap.STEP_LIMIT)):
        np.testing.assert_array_equal(found["loglik"][place], found["loglik"][0])  # the candidate's own logit
        np.testing.assert_array_equal(found["traps"][place], np.stack([info[:, 0], np.full(7, trap)], 1))
    assert (found["loglik"] >= LEAST).all()


def test_equal_scores_pick_the_lowest_token(device: Device, rng: np.random.Generator) -> None:
    info, cand, target, base = given(rng, 5, 70)
    found = fitness(device, (info, cand, target, base), [UNIFORM])
    lowest = [cand[m, : info[m, 0], 0].min() for m in range(5)]
    np.testing.assert_array_equal(found["pick"][0], lowest)


def test_the_place_in_the_population_does_not_matter(device: Device, rng: np.random.Generator) -> None:
    """Marks of a program with random bits are the same wherever it stands, and in any company."""
    case = given(rng, 6, 50)
    found = compare(device, case, [IDENTITY, RANDOM, UNIFORM, RANDOM])
    alone = fitness(device, case, [RANDOM])
    for name in ("loglik", "pick", "traps"):
        np.testing.assert_array_equal(found[name][1], found[name][3])
        np.testing.assert_array_equal(found[name][1], alone[name][0])


def test_many_programs(device: Device, rng: np.random.Generator) -> None:
    """Three hundred at once, as a population is; each as if it were alone."""
    case = given(rng, 4, 9)
    programs = [random_program(rng, flavour="floats") for _ in range(300)]
    found = fitness(device, case, programs)
    for at in (0, 123, 299):
        alone = fitness(device, case, [programs[at]])
        for name in ("loglik", "pick", "traps"):
            np.testing.assert_array_equal(found[name][at], alone[name][0])


def test_no_candidates(device: Device, rng: np.random.Generator) -> None:
    info, cand, target, base = given(rng, 2, 3)
    info[1, 0] = 0
    found = compare(device, (info, cand, target, base), [IDENTITY])
    assert found["pick"][0, 1] == NO_PICK
