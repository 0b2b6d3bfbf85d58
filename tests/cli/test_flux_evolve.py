"""`evolve` end to end with the demo model: files, resuming, what the evolved swarm is worth, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flux_vk.cli.flux import main
from flux_vk.decode.swarm import Swarm
from flux_vk.flux import load_program
from flux_vk.flux.evolution.genome import digest

TEXT = Path(__file__).with_name("harbour.txt")
SMALL = ("--population", "64", "--elite", "6", "--positions", "192", "--candidates", "32", "--seed", "3", "--quiet")
GENERATIONS = 15
FILES = ("checkpoint.json", "lineage.jsonl", "swarm.json", "summary.json", "evolved-1.flx")


def evolve(folder: Path, *more: str, generations: int = GENERATIONS) -> int:
    return main(["evolve", "--out", str(folder), "--generations", str(generations), *more])


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small evolution, without a stop."""
    folder = tmp_path_factory.mktemp("evolved") / "out"
    assert evolve(folder, "--text", str(TEXT), *SMALL) == 0
    return folder


def test_best_fitness_never_falls(evolved: Path) -> None:
    best = json.loads((evolved / "summary.json").read_text())["best_fitness"]
    assert len(best) == GENERATIONS + 1 and best == sorted(best) and best[-1] > best[0]
    by_generation: dict[int, float] = {}
    for line in map(json.loads, (evolved / "lineage.jsonl").read_text().splitlines()):
        number = line["generation"]
        by_generation[number] = max(by_generation.get(number, -np.inf), line["fitness"]["total"])
    np.testing.assert_array_equal(np.maximum.accumulate([by_generation[g] for g in range(len(best))]), best)


def test_the_evolved_swarm_beats_the_stock_one_on_held_out_text(evolved: Path) -> None:
    """And what it is compared with is the model itself: its perplexity is that of all its logits."""
    found = json.loads((evolved / "summary.json").read_text())["texts"]["held out"]
    for mode in ("sum", "prob"):
        assert found[f"evolved {mode}"]["loglik"] > found[f"stock {mode}"]["loglik"] + 0.1
        assert found[f"evolved {mode}"]["perplexity"] < found[f"stock {mode}"]["perplexity"]


def test_resumed_is_as_uninterrupted(evolved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert evolve(folder, "--text", str(TEXT), *SMALL, generations=5) == 0
    assert json.loads((folder / "checkpoint.json").read_text())["generation"] == 5
    capsys.readouterr()
    assert evolve(folder, "--text", str(TEXT), *SMALL, "--resume") == 0  # the same options may be given again
    for name in FILES:
        assert (folder / name).read_bytes() == (evolved / name).read_bytes(), name
    assert "held out" in capsys.readouterr().out


def test_the_winners_can_be_used(evolved: Path) -> None:
    swarm = Swarm.load(evolved / "swarm.json")
    assert 1 <= len(swarm.agents) <= 3 and sum(a.weight for a in swarm.agents) == pytest.approx(1)
    for agent in swarm.agents:
        again = load_program(evolved / f"{agent.name}.flx")
        assert digest(again) == digest(agent.program) and again.name == agent.name
    assert swarm.candidates == 32


def test_a_picture_and_a_summary(evolved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert evolve(evolved, "--resume", "--plot", "--quiet") == 0  # nothing left to do but the end
    assert (evolved / "fitness.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    best = json.loads((evolved / "summary.json").read_text())
    assert f"{best['best_fitness'][-1]:.6f}" in out and ".result F0" in out
    assert f"--agent {evolved / 'evolved-1.flx'}:{best['swarm'][0]['weight']:g}" in out
    assert "model" in out and "stock sum" in out and "evolved prob" in out


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ((), "--text"),
        (("--text", "absent.txt"), "absent.txt"),
        (("--text", str(TEXT), "--elite", "200"), "elite 200"),
        (("--text", str(TEXT), "--weights", "nonsense=1"), "nonsense"),
        (("--text", str(TEXT), "--weights", "loglik=1e300"), "loglik: 1e+300, expected a number from"),
        (("--text", "/dev/zero"), "/dev/zero: more than"),
        (("--text", str(TEXT), "--model", "absent.gguf"), "absent.gguf"),
        (("--resume",), "nothing to resume"),
    ],
)
def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], word: str) -> None:
    assert evolve(tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


def test_texts_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, word in ((b"", "no text"), (b"\xff\xfe\xfd", "UTF-8"), (b"Too short a text.", "tokens")):
        (tmp_path / "t.txt").write_bytes(content)
        assert evolve(tmp_path / "out", "--text", str(tmp_path / "t.txt")) == 2
        assert not (tmp_path / "out").exists()
        assert word in capsys.readouterr().err


def test_a_folder_is_not_written_over(evolved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (evolved / "checkpoint.json").read_bytes()
    assert evolve(evolved, "--text", str(TEXT)) == 2
    assert "--resume" in capsys.readouterr().err
    other = Path(__file__)
    for more, word in (
        (("--elite", "5"), "made with elite 6, expected 5; give"),
        (("--weights", "trap=2"), "made with trap 1.0, expected 2.0; give"),
        (("--candidates", "16"), "--candidates 16"),
        (("--model", "other.gguf"), "--model other.gguf"),
        (("--text", str(other)), f"--text {other}"),
        (("--text", str(TEXT), "--valid", str(other)), "another part of it"),  # then all of it is learnt from
        (("--valid", str(other)), f"--valid {other}"),
    ):
        assert evolve(evolved, "--resume", *more) == 2
        assert word in capsys.readouterr().err
    assert (evolved / "checkpoint.json").read_bytes() == before
