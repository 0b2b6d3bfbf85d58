"""`demo`: three agents vote on twenty positions; no model is needed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flux_vk.cli.common import text, whole
from flux_vk.cli.tables import aligned

if TYPE_CHECKING:
    from flux_vk.flux import Program
    from flux_vk.flux.trace import TracedToken

    from ._simulation import Position

NAME = "demo"
HELP = "three agents vote on a text of simulated logits; needs no model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Seed, length, where to run."""
    add = parser.add_argument
    add("--seed", type=whole(0, 2**64 - 1), default=0, metavar="N", help="of the simulated logits; default 0")
    add("--positions", type=whole(1, 10_000), default=20, metavar="N", help="length of the text; default 20")
    add("--trace", type=Path, metavar="FILE", help="write the votes as a trace that explain reads")
    add("--device", type=text("an index or part of a name"), help="index or name part")
    add("--reference", action="store_true", help="run on the reference VM, not on a device")


def run(args: argparse.Namespace) -> int:
    """Simulate, vote, print."""
    from flux_vk.flux import DEFAULT_SWARM, stock

    from ._simulation import WORDS, backend, simulate

    programs = [stock(name) for name, _ in DEFAULT_SWARM]
    weights = [weight for _, weight in DEFAULT_SWARM]
    scores, where = backend(programs, weights, args.device, args.reference)
    found = simulate(scores, weights, args.seed, args.positions)
    print(f"{len(programs)} agents, run by {where}:")
    print(aligned(["", "", ""], _agents(programs, weights), "  "))
    print(f"\nText of {args.positions} positions by their consensus (simulated logits, no model; seed {args.seed}):")
    print("  " + " ".join(WORDS[int(p.cand[p.winner, 0])] for p in found))
    print("\nThe winner of each position, what each agent added to its total, and the runner-up:")
    print(aligned(["position", "winner", *(p.name for p in programs), "total", "runner-up", "total"], _rows(found)))
    if args.trace:
        _write_trace(args.trace, programs, weights, found, args.seed)
    return 0


def _agents(programs: Sequence[Program], weights: Sequence[float]) -> list[list[str]]:
    """Name, weight and the first line of each source."""
    lines = [program.source.partition("\n")[0].partition(":")[2].strip() for program in programs]
    return [[p.name, f"weight {w:g}", line] for p, w, line in zip(programs, weights, lines, strict=True)]


def _rows(found: Sequence[Position]) -> list[list[str | int]]:
    import numpy as np

    from ._simulation import WORDS

    rows: list[list[str | int]] = []
    for at, p in enumerate(found):
        second = int(np.lexsort((p.cand[:, 0], -p.consensus))[1])
        words = [WORDS[int(p.cand[place, 0])] for place in (p.winner, second)]
        parts = [f"{x:.3f}" for x in p.part[:, p.winner]]
        totals = [f"{p.consensus[place]:.3f}" for place in (p.winner, second)]
        rows.append([at, words[0], *parts, totals[0], words[1], totals[1]])
    return rows


def _write_trace(
    path: Path, programs: Sequence[Program], weights: Sequence[float], found: Sequence[Position], seed: int
) -> None:
    from flux_vk.flux import trace

    from ._simulation import WORDS

    agents = tuple(
        trace.TracedProgram(p.name, w, p.code, p.result, p.gp, p.fp) for p, w in zip(programs, weights, strict=True)
    )
    with trace.TraceWriter(path, trace.TraceHeader(agents, "", seed, "sum", len(WORDS), 0.0)) as writer:
        for index, position in enumerate(found):
            writer.token(_traced(index, position, weights))


def _traced(index: int, p: Position, weights: Sequence[float]) -> TracedToken:
    """A vote as the trace has it; here with all candidates, best consensus first."""
    import numpy as np

    from flux_vk.flux.trace import TracedAgent, TracedCandidate, TracedToken

    from ._simulation import WORDS

    logits = p.cand[:, 1].copy().view(np.float32)
    distances = p.cand[:, 3].copy().view(np.int32)
    candidates = tuple(
        TracedCandidate(
            id=int(p.cand[i, 0]), text=f" {WORDS[p.cand[i, 0]]}", rank=int(i), logit=float(logits[i]),
            count=int(p.cand[i, 2]), distance=int(distances[i]), consensus=float(p.consensus[i]),
            total=float(p.consensus[i]), score=tuple(map(float, p.score[:, i])),
            contribution=tuple(map(float, p.part[:, i])),
        )
        for i in np.lexsort((p.cand[:, 0], -p.consensus))
    )  # fmt: skip
    best, entropy, lse = map(float, p.row[1:4].view(np.float32))
    agents = tuple(TracedAgent(w, 1.0, int(n), int(code)) for w, (n, code) in zip(weights, p.traps, strict=True))
    word = int(p.cand[p.winner, 0])
    return TracedToken(
        index, int(p.row[4]), word, f" {WORDS[word]}", int(p.row[0]), best, entropy, lse, agents, candidates
    )
