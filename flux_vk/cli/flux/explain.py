"""`explain`: why a token was chosen, or how a whole text was voted on, from a trace."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux_vk.cli.common import whole
from flux_vk.cli.tables import aligned
from flux_vk.errors import InputError

if TYPE_CHECKING:
    from flux_vk.flux.trace import Trace, TracedCandidate, TracedToken

    from ._retrace import Rerun

NAME = "explain"
HELP = "tell from a trace how agents voted: on one token with --at, else on the whole text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """TRACE, which token, what to draw."""
    add = parser.add_argument
    add("trace", type=Path, metavar="TRACE", help="a file that run --trace or demo --trace wrote")
    add("--at", type=whole(0), metavar="N", help="the token with this index, 0 for the first generated one")
    add("--plot", type=Path, metavar="FILE", help="with --at: draw the vote (png, svg or pdf); needs matplotlib")
    add("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Read and explain; 1 where a score of the trace is not what the reference VM finds."""
    from flux_vk.flux.trace import read_trace

    if args.plot and args.at is None:
        raise InputError(f"--plot {args.plot}: a picture shows the vote on one token; give --at N too")
    trace = read_trace(args.trace)
    if args.at is None:
        return _whole(args, trace)
    token = trace.token(args.at)
    chosen = token.chosen
    if chosen is None:
        raise InputError(
            f"{args.trace}: no vote is recorded for token {args.at}: it was drawn without agents; give another index"
        )
    return _one(args, trace, token, chosen)


# -- one token ------------------------------------------------------------------------------------------------------


def _one(args: argparse.Namespace, trace: Trace, token: TracedToken, chosen: TracedCandidate) -> int:
    from ._retrace import DIFFERS, rerun

    reruns = [rerun(trace, token, chosen, agent) for agent in range(len(trace.header.agents))]
    if args.plot:
        from ._pictures import vote_picture

        vote_picture(args.plot, token, [a.name for a in trace.header.agents], trace.header.vote)
    if args.json:
        print(json.dumps(_token_json(trace, token, reruns)))
    else:
        print("\n".join(_token_text(trace, token, chosen, reruns)))
    return 1 if any(r.verdict == DIFFERS for r in reruns) else 0


def _token_text(trace: Trace, token: TracedToken, chosen: TracedCandidate, reruns: list[Rerun]) -> list[str]:
    names = [p.name for p in trace.programs(token.index)]
    head = f"token {token.index}, position {token.position}: {token.text!r} (id {token.id})"
    h = trace.header
    facts = f"vote {h.vote}, {token.n} candidates, entropy {token.entropy:.4g} nats, seed {h.seed}"
    lines = [
        head,
        facts + (f", model {h.model}" if h.model else ""),
        "",
        _agents_table(trace, token),
        "",
        _candidates_table(names, token),
        "",
    ]
    if trace.header.vote in ("prob", "majority"):
        lines += ["total is a share of 1; the consensus is its natural logarithm", ""]
    for agent, found in enumerate(reruns):
        lines += _rerun_text(names[agent], chosen, found)
    return lines


def _agents_table(trace: Trace, token: TracedToken) -> str:
    from flux_vk.flux.program import Trap

    rows = []
    for program, a in zip(trace.programs(token.index), token.agents, strict=True):
        traps = f"{a.traps} ({_trap_name(a.trap)})" if a.traps else str(int(Trap.NONE))
        rows.append([program.name, f"{a.weight:.6g}", f"{a.trust:.6g}", f"{a.weight * a.trust:.6g}", traps])
    return aligned(["agent", "weight", "trust", "effective", "traps"], rows)


def _trap_name(code: int) -> str:
    from flux_vk.flux.program import Trap

    return Trap(code).name if code in list(Trap) else f"trap {code}"


def _candidates_table(names: list[str], token: TracedToken) -> str:
    header = ["", "token", "id", "rank", "logit", "count", "distance"]
    header += [f"{name} {what}" for name in names for what in ("score", "adds")]
    rows: list[list[str | int]] = []
    for c in token.candidates:
        pairs = zip(c.score, c.contribution, strict=True)
        numbers = [f"{x:.4f}" for score, part in pairs for x in (score, part)]
        mark = "*" if c.id == token.id else ""
        place = c.distance if c.distance > 0 else "never"
        facts: list[str | int] = [mark, repr(c.text), c.id, c.rank, f"{c.logit:.4f}", c.count, place]
        rows.append([*facts, *numbers, f"{c.total:.4f}", f"{c.consensus:.4f}"])
    return aligned([*header, "total", "consensus"], rows)


def _rerun_text(name: str, chosen: TracedCandidate, found: Rerun) -> list[str]:
    from flux_vk.flux import disassemble
    from flux_vk.flux.program import Trap

    from .run import step_table

    registers = [f"R{i}={v}" for i, v in sorted({**found.program.gp, **found.gp}.items())]
    registers += [f"F{i}={v:.9g}" for i, v in sorted({**found.program.fp, **found.fp}.items())]
    lines = [f"== {name}", disassemble(found.program).rstrip(), "", f"for {chosen.text!r} on entry:"]
    lines += ["  " + " ".join(registers), "", step_table(found.program, found.gp, found.fp, list(found.steps)).rstrip()]
    end = "" if found.trap == Trap.NONE else f", trapped: {found.trap.name}, so the logit counts"
    lines.append(f"score {found.score:.9g} from {found.program.result}{end}; {_verdict(found)}")
    return [*lines, ""]


def _verdict(found: Rerun) -> str:
    from ._retrace import BOUND, DIFFERS, EXACT

    return {
        EXACT: "the trace has the same",
        BOUND: f"the trace has {found.recorded:.9g}, within the float bound",
        DIFFERS: f"the trace has {found.recorded:.9g}: THEY DIFFER by more than the float bound",
    }[found.verdict]


def _token_json(trace: Trace, token: TracedToken, reruns: list[Rerun]) -> dict[str, Any]:
    from dataclasses import asdict

    from flux_vk.flux import disassemble

    agents = [
        {
            "name": program.name, **asdict(facts), "disassembly": disassemble(found.program),
            "entry": {"gp": found.gp, "fp": found.fp}, "score": found.score, "recorded": found.recorded,
            "verdict": found.verdict, "trap_of_winner": found.trap.name,
            "steps": [
                {"offset": s.instruction.offset, "mnemonic": s.instruction.op.name, "gp": s.gp,
                 "fp": [_finite(x) for x in s.fp], "trap": s.trap.name}
                for s in found.steps
            ],
        }
        for program, facts, found in zip(trace.programs(token.index), token.agents, reruns, strict=True)
    ]  # fmt: skip
    candidates = [{k: _finite(v) for k, v in asdict(c).items()} for c in token.candidates]
    return {
        "index": token.index, "position": token.position, "id": token.id, "text": token.text, "n": token.n,
        "vote": trace.header.vote, "entropy": token.entropy, "agents": agents, "candidates": candidates,
    }  # fmt: skip


def _finite(value: Any) -> Any:
    """JSON has no infinities: they become null."""
    import math

    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, tuple):
        return [_finite(v) for v in value]
    return value


# -- the whole text -------------------------------------------------------------------------------------------------


def _whole(args: argparse.Namespace, trace: Trace) -> int:
    from dataclasses import asdict

    from ._trace_summary import summarise

    found = summarise(trace)
    if args.json:
        print(json.dumps({"vote": trace.header.vote, "truncated": trace.truncated, **asdict(found)}))
        return 0
    h = trace.header
    print("".join(t.text for t in trace.tokens) or "(no tokens)")
    how = f"vote {h.vote}, trust rate {h.trust_rate:g}, seed {h.seed}"
    print(f"\n{found.tokens} tokens, {found.voted} voted on ({how})")
    print(f"the consensus' first candidate was drawn {found.first} times")
    rows = [
        [a.name, f"{_share(a.won, found.voted)}", f"{a.alone}", f"{a.trust[0]:.4g} to {a.trust[1]:.4g}",
         f"{a.traps} ({_trap_name(a.trap)})" if a.traps else "0"]
        for a in found.agents
    ]  # fmt: skip
    print("\n" + aligned(["agent", "its favourite won", "alone", "trust", "traps"], rows))
    names = [a.name for a in found.agents]
    if found.voted:
        agreement = [[n, *(f"{x:.0%}" for x in row)] for n, row in zip(names, found.agreement, strict=True)]
        print("\nsame favourite:\n" + aligned(["", *names], agreement))
    for change in trace.replacements:
        print(f"\nfrom token {change.index} on {names[change.agent]} ran {change.program.name}")
    if trace.truncated:
        print("\nthe last line of the file was cut off and is left out")
    return 0


def _share(part: int, of: int) -> str:
    return f"{part} ({part / of:.0%})" if of else "0"
