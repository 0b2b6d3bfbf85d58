"""Scoring on the device, likelihoods under votes, and the swarm that a population ends with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.flux import DEFAULT_SWARM, STOCK, assemble_program, load_program, stock
from flux_vk.flux.evolution import consensus
from flux_vk.flux.evolution.breeding import Individual
from flux_vk.flux.evolution.fitness import Weights
from flux_vk.flux.evolution.genome import digest, to_program
from flux_vk.flux.evolution.mutation import random_genome
from flux_vk.flux.evolution.population import Generation, Options, first_generation, next_generation
from flux_vk.flux.evolution.recording import Recorder, Recording
from flux_vk.flux.evolution.reference import flux_fitness
from flux_vk.flux.evolution.scoring import LEAST, Scorer, scores
from flux_vk.flux.evolution.winners import Winner, held_out, winners, write_agents
from flux_vk.flux.program import Trap
from flux_vk.gpu import Device

IDENTITY = assemble_program(".name identity\n.result F0\nHALT")


def text(
    rng: np.random.Generator, rows: int = 40, vocab: int = 60, candidates: int = 16, sharp: float = 2.0
) -> Recording:
    """Tokens drawn from a distribution of which the recorded logits are `sharp` times as sure."""
    recorder = Recorder(candidates, 5)
    for _ in range(2):
        logits = 1.5 * rng.standard_normal((rows, vocab))
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        context = [0, *(int(rng.choice(vocab, p=row)) for row in p)]
        recorder.add(context, 1, (sharp * logits).astype(np.float32))
    return recorder.finish({"candidates": candidates})


def test_a_population_is_scored_as_the_reference_says(device: Device, rng: np.random.Generator) -> None:
    recording = text(rng, rows=4)
    programs = [stock(name) for name in STOCK] + [to_program(random_genome(rng)) for _ in range(5)]
    scorer = Scorer(device, recording, 16)
    found = scorer.run(programs)
    r = recording
    loglik, pick, traps = flux_fitness(r.row_info, r.cand, programs, r.target, r.base)
    np.testing.assert_allclose(found.loglik, loglik, atol=1e-4)
    np.testing.assert_array_equal(found.pick, pick)
    np.testing.assert_array_equal(found.traps, traps)
    marks = scorer.fitness(programs[::-1], Weights(loglik=1, repetition=0, distinct=0, trap=0, length=0))
    np.testing.assert_allclose([m.total for m in marks], loglik.mean(1)[::-1], atol=1e-5)
    for wrong in ([], programs * 2):
        with pytest.raises(InputError, match="1 to 16"):
            scorer.run(wrong)


@pytest.mark.parametrize("candidates", [8, 256, 1024])
def test_endless_programs_are_stopped(device: Device, rng: np.random.Generator, candidates: int) -> None:
    """Each candidate of each, of the dearest instructions too, so that no driver ends a loop by itself."""
    recording = text(rng, rows=2, vocab=1100, candidates=candidates)
    sources = (
        "again: INC R0\nJMP again",
        "again: ROT\nSWAP\nDUP\nPOP R8\nJMP again",
        "again: IDIV R8, R0, R2\nJMP again",
    )
    pushed = "".join(f"PUSH R{i}\n" for i in range(4))
    programs = [assemble_program(pushed + source) for source in sources] + [stock("repetition_window"), IDENTITY]
    scorer = Scorer(device, recording, 5)
    found = scorer.run(programs)
    assert 128 <= scorer.max_steps <= 256
    assert (found.traps[:2, :, 0] == candidates).all() and (found.traps[:2, :, 1] == Trap.STEP_LIMIT).all()
    assert (found.traps[2, :, 0] == candidates).all()
    assert (found.traps[3:] == 0).all()
    for i in range(3):
        np.testing.assert_array_equal(found.loglik[i], found.loglik[4])


def test_elites_have_the_same_number_every_time(device: Device, rng: np.random.Generator) -> None:
    """The marks that an elite keeps are those that the device gives it again, to the last bit."""
    recording = text(rng)
    scorer = Scorer(device, recording, 12)
    options = Options(population=12, elite=3, seed=int(rng.integers(1000)))

    def score(programs: object) -> object:
        return scorer.fitness(programs, options.weights)  # type: ignore[arg-type]

    generation = first_generation(options, [IDENTITY], score)  # type: ignore[arg-type]
    for _ in range(4):
        last, generation = generation, next_generation(options, generation, score)  # type: ignore[arg-type]
        assert generation.best.order <= last.best.order
        again = scorer.fitness([m.program for m in generation.members], options.weights)
        assert again == [m.fitness for m in generation.members]


def test_scores_are_those_of_the_interpreter(device: Device, rng: np.random.Generator) -> None:
    recording = text(rng, rows=3)
    recording.row_info[1, 0] = 5
    found = scores(device, recording, [IDENTITY, stock("conservative")])
    np.testing.assert_array_equal(found[0], recording.logits)
    np.testing.assert_array_equal(found[1], 2 * recording.logits)
    assert np.isneginf(found[:, 1, 5:]).all()


def test_votes_by_their_definition(device: Device, rng: np.random.Generator) -> None:
    recording = text(rng, rows=3)
    recording.row_info[2, 0] = 7
    own = scores(device, recording, [stock(name) for name, _ in DEFAULT_SWARM])
    w = np.array([weight for _, weight in DEFAULT_SWARM])
    total = consensus.consensus(recording, own, w.tolist(), "sum")
    mean = consensus.consensus(recording, own, w.tolist(), "prob")
    for t, n in enumerate(recording.row_info[:, 0]):
        x = own[:, t, :n].astype(np.float64)
        np.testing.assert_allclose(total[t, :n], w @ x, rtol=1e-12)
        p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
        np.testing.assert_allclose(mean[t, :n], np.log(w @ p / w.sum()), rtol=1e-9)
        assert np.isneginf(total[t, n:]).all() and np.isneginf(mean[t, n:]).all()


def test_the_best_temperature_is_found(rng: np.random.Generator) -> None:
    recording = text(rng, rows=400, candidates=60, sharp=2.0)
    assert 1.6 < consensus.best_temperature(recording, LEAST) < 2.5


def test_an_ensemble_is_no_worse_than_its_best_agent(device: Device, rng: np.random.Generator) -> None:
    recording = text(rng)
    programs = [stock(name) for name in STOCK] + [IDENTITY]
    own = scores(device, recording, programs)
    alone = [consensus.likelihood(recording, s.astype(np.float64), LEAST).mean() for s in own]
    chosen = consensus.ensemble(recording, own, 1, LEAST)
    assert chosen == [(int(np.argmax(alone)), 1.0)]
    for most in (2, 3, 20):
        chosen = consensus.ensemble(recording, own, most, LEAST)
        assert len(chosen) <= most and abs(sum(w for _, w in chosen) - 1) < 1e-9
        votes = consensus.consensus(recording, own[[i for i, _ in chosen]], [w for _, w in chosen], "sum")
        assert consensus.likelihood(recording, votes, LEAST).mean() >= max(alone) - 1e-9
    near = [i for i, mean in enumerate(alone) if mean >= max(alone) - consensus.WORSE]
    kinds = consensus.unlike(recording, np.concatenate([own, own]), 20, LEAST)
    assert kinds == sorted(set(kinds)) and set(kinds) <= set(near) and near[0] in kinds


def test_winners_beat_what_they_come_from(device: Device, rng: np.random.Generator, tmp_path: Path) -> None:
    """A model that is twice too sure: agents that divide the logits win, here and on text they have not seen."""
    known, unknown = text(rng, rows=300), text(rng, rows=300)
    halved = assemble_program(".name half\n.result F0\n.const F8 0.5\nFMUL F0, F0, F8\nHALT")
    programs = [halved, IDENTITY, stock("conservative")]
    fitness = Scorer(device, known, 3).fitness(programs, Weights())
    pairs = enumerate(zip(programs, fitness, strict=True))
    members = [Individual(i, p, (), ("seed",), 0, f) for i, (p, f) in pairs]
    last = Generation(0, tuple(sorted(members, key=lambda m: m.order)), 3)
    found = winners(device, known, last, 2)
    assert found[0].program.name == "evolved-1" and digest(found[0].program) == digest(halved)
    assert not any(w.program.source for w in found)  # as after a checkpoint, which keeps none
    swarms = {
        "stock": [(stock(name), weight) for name, weight in DEFAULT_SWARM],
        "evolved": [(w.program, w.weight) for w in found],
    }
    compared = held_out(device, unknown, swarms, 2.0)
    assert list(compared) == ["model", "model at 2.00", "stock sum", "stock prob", "evolved sum", "evolved prob"]
    assert compared["evolved sum"].loglik > compared["model"].loglik > compared["stock sum"].loglik
    for h in compared.values():
        assert h.perplexity == pytest.approx(np.exp(-h.loglik))
    for path, winner in zip(write_agents(tmp_path, found), found, strict=True):
        again = load_program(path)
        assert digest(again) == digest(winner.program) and again.name == winner.program.name
    assert isinstance(found[0], Winner)
