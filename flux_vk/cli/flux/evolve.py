"""`evolve`: breed agents that make a model's text likelier, and compare their swarm with the stock one elsewhere."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_vk.cli.common import number, text, whole
from flux_vk.cli.terminal import Terminal
from flux_vk.errors import InputError

if TYPE_CHECKING:
    from flux_vk.flux.evolution.population import Generation, Options
    from flux_vk.flux.evolution.recording import Recording
    from flux_vk.flux.evolution.winners import HeldOut
    from flux_vk.gpu import Device

NAME = "evolve"
HELP = "evolve agents on a text, scored with a model's logits; writes the best as .flx files and as a swarm"
TRAINED, HELD_OUT = "recording.npz", "held-out.npz"
DEFAULTS = {"population": 128, "elite": 8, "seed": 0, "candidates": 64, "positions": 512}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to learn from, where to write, how to breed."""
    add = parser.add_argument
    add("--model", type=Path, metavar="MODEL", help="GGUF file; default: the demo model")
    add("--text", type=Path, metavar="FILE", help="text to learn from; its last quarter is held out unless --valid")
    add("--valid", type=Path, metavar="FILE", help="another text, for comparing what has come out")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoint, lineage, agents and pictures")
    add("--generations", type=whole(0, 100_000), default=50, metavar="N", help="behind the first one; default 50")
    add("--population", type=whole(2, 4096), metavar="N", help="programs of a generation; default 128")
    add("--elite", type=whole(1, 4095), metavar="N", help="the best so many live on unchanged; default 8")
    add("--seed", type=whole(0, 2**64 - 1), metavar="N", help="of everything that is random; default 0")
    add("--candidates", type=whole(1, 1024), metavar="N", help="the model's best N at each position; default 64")
    add("--positions", type=whole(16, 65535), metavar="N", help="tokens that are scored, of each text; default 512")
    add("--weights", metavar="NAME=X,...", help="of the fitness: loglik, repetition, distinct, trap, length")
    add("--mutation-rate", type=number(0, 1), metavar="P", help="probability of each further change; default 0.4")
    add("--crossover-rate", type=number(0, 1), metavar="P", help="share of children with two parents; default 0.3")
    add("--tournament", type=whole(1, 4096), metavar="N", help="the best of N becomes a parent; default 3")
    add("--agents", type=whole(1, 8), default=3, metavar="N", help="of the evolved swarm; default 3")
    add("--resume", action="store_true", help="go on from the checkpoint in --out; needs no text and no model")
    add("--plot", action="store_true", help="draw the fitness as DIR/fitness.png (the plots extra)")
    add("--device", type=text("an index or part of a name"), help="index or name part")
    add("--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Record, evolve, compare, write."""
    from flux_vk.flux.evolution import running
    from flux_vk.flux.evolution.scoring import Scorer
    from flux_vk.gpu import Device

    if args.plot:
        from flux_vk.cli.bench_report import need_matplotlib

        need_matplotlib()
    terminal = Terminal(args.quiet)
    options = _options(args)
    _check_folder(args)
    device = Device(args.device)
    trained, other = _recordings(args, options, device, terminal)
    scorer = Scorer(device, trained, options.population)

    def score(programs: Any) -> Any:
        return scorer.fitness(programs, options.weights)

    with terminal.progress("Evolving") as bar:

        def report(generation: Generation, best: list[float]) -> None:
            bar(generation.number, args.generations)
            if generation.number % 10 == 0 and generation.number < args.generations:
                terminal.note(f"generation {generation.number}: best fitness {best[-1]:.6f}")

        if args.resume:
            last, best = running.resume(args.out, options, score, args.generations, report)
        else:
            last, best = running.evolve(args.out, options, _seeds(), score, args.generations, report)
    return _finish(args, device, trained, other, last, best, options.seed)


def _options(args: argparse.Namespace) -> Options:
    """The options given over the defaults, or, to resume, over those of the checkpoint."""
    from flux_vk.flux.evolution.breeding import Breeding
    from flux_vk.flux.evolution.checkpoint import load_checkpoint
    from flux_vk.flux.evolution.fitness import read_weights
    from flux_vk.flux.evolution.population import Options

    base = load_checkpoint(args.out)[0] if args.resume else Options(seed=DEFAULTS["seed"])
    given = {name: getattr(args, name) for name in ("population", "elite", "seed") if getattr(args, name) is not None}
    if args.weights is not None:
        given["weights"] = read_weights(args.weights)
    bred = {f.name: getattr(args, f.name) for f in fields(Breeding) if getattr(args, f.name) is not None}
    return replace(base, **given, breeding=replace(base.breeding, **bred))


def _check_folder(args: argparse.Namespace) -> None:
    """InputError where the folder holds an evolution that was not to be resumed, or no text was given."""
    from flux_vk.flux.evolution.checkpoint import CHECKPOINT

    if args.resume:
        return
    if args.text is None:
        raise InputError("--text: no text to learn from; name a text file, or give --resume")
    if (args.out / CHECKPOINT).exists():
        raise InputError(f"{args.out}: holds an evolution already; give --resume, or another folder")


def _make_folder(args: argparse.Namespace) -> None:
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {args.out}: cannot be made ({error.strerror})") from error


def _recordings(
    args: argparse.Namespace, options: Options, device: Device, terminal: Terminal
) -> tuple[Recording, Recording]:
    """(trained on, held out): those in the folder to resume, else made with the model."""
    from flux_vk.cli.options import demo_model
    from flux_vk.engine.model import load
    from flux_vk.flux.evolution.recording import load_recording

    from ._recordings import Wanted, parts, record

    if args.resume:
        recordings = load_recording(args.out / TRAINED), load_recording(args.out / HELD_OUT)
        _check_recordings(args, *recordings)
        return recordings
    numbers = {n: DEFAULTS[n] if getattr(args, n) is None else getattr(args, n) for n in ("candidates", "positions")}
    wanted = Wanted(**numbers, seed=options.seed)
    learn, valid = parts(args.text, args.valid)
    path = args.model or demo_model()
    found = []
    with terminal.progress(f"Loading {path.name}", "bytes") as bar:
        model = load(path, device, progress=bar)
    with model, terminal.progress("Recording logits") as bar:
        for name, part in ((TRAINED, learn), (HELD_OUT, valid)):
            about = {"model": path.name, "candidates": wanted.candidates, "positions": wanted.positions}
            found.append(record(model, part, wanted, bar, about))
            if found[-1].positions < wanted.positions:
                terminal.note(f"{name}: the text has {found[-1].positions} positions to score, not {wanted.positions}")
    _make_folder(args)
    for name, recording in zip((TRAINED, HELD_OUT), found, strict=True):
        recording.save(args.out / name)
    return found[0], found[1]


def _check_recordings(args: argparse.Namespace, trained: Recording, other: Recording) -> None:
    """InputError where options say something else than the recordings that are there."""
    from ._recordings import fingerprint, parts, read_text

    def same(option: str, given: object, recording: Recording, key: str, file: str, what: str = "") -> None:
        made = recording.about.get(key)
        if given is not None and given != made:
            raise InputError(f"{option}: {args.out / file} was recorded with {what or made}; give the same, or none")

    another = "another text, or another part of it"
    for name in ("candidates", "positions"):
        same(f"--{name} {getattr(args, name)}", getattr(args, name), trained, name, TRAINED)
    same(f"--model {args.model}", args.model and args.model.name, trained, "model", TRAINED)
    if args.text is not None:
        learn, valid = map(fingerprint, parts(args.text, args.valid))
        same(f"--text {args.text}", learn, trained, "text_sha256", TRAINED, another)
        same(f"--valid {args.valid or args.text}", valid, other, "text_sha256", HELD_OUT, another)
    elif args.valid is not None:
        valid = fingerprint(read_text(args.valid))
        same(f"--valid {args.valid}", valid, other, "text_sha256", HELD_OUT, another)


def _seeds() -> list[Any]:
    from flux_vk.flux import STOCK, assemble_program, stock

    identity = [assemble_program(f".name identity\n.result {result}\nHALT") for result in ("F0", "R0")]
    return [*identity, *(stock(name) for name in STOCK)]


def _finish(
    args: argparse.Namespace, device: Device, trained: Recording, other: Recording, last: Generation,
    best: list[float], seed: int,
) -> int:  # fmt: skip
    """Choose the swarm, compare it, write everything, print the summary."""
    from flux_vk.decode.swarm import Swarm
    from flux_vk.flux import DEFAULT_SWARM, stock
    from flux_vk.flux.evolution.consensus import best_temperature
    from flux_vk.flux.evolution.scoring import LEAST
    from flux_vk.flux.evolution.winners import held_out, winners, write_agents

    from ._evolve_report import as_json, summary, write_summary

    found = winners(device, trained, last, args.agents)
    write_agents(args.out, found)
    candidates = int(trained.about["candidates"])
    swarm = Swarm([(w.program, w.weight) for w in found], candidates=candidates)
    swarm.save(args.out / "swarm.json")
    swarms = {
        "stock": [(stock(name), weight) for name, weight in DEFAULT_SWARM],
        "evolved": [(w.program, w.weight) for w in found],
    }
    temperature = best_temperature(trained, LEAST)
    compared: dict[str, dict[str, HeldOut]] = {
        "trained on": held_out(device, trained, swarms, temperature),
        "held out": held_out(device, other, swarms, temperature),
    }
    write_summary(args.out, as_json(last, best, found, compared))
    if args.plot:
        from ._pictures import fitness_picture

        fitness_picture(args.out / "fitness.png", best, f"seed {seed}, {trained.positions} positions")
    print(summary(args.out, last, best, found, compared))
    return 0
