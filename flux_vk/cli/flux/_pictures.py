"""Pictures of votes and of evolutions. Needs matplotlib (the `plots` extra). Not for: what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flux_vk.cli.bench_plots import new_figure, save_figure

if TYPE_CHECKING:
    from flux_vk.flux.trace import TracedToken


def fitness_picture(path: Path, best: Sequence[float], title: str) -> None:
    """The best fitness of every generation."""
    figure, (axes,) = new_figure()
    axes.step(range(len(best)), best, where="post")
    axes.set_xlabel("generation")
    axes.set_ylabel("best fitness")
    axes.set_title(title)
    axes.grid(True, alpha=0.3)
    save_figure(figure, path)


def vote_picture(path: Path, token: TracedToken, names: Sequence[str], vote: str) -> None:
    """Contributions of the agents to each leading candidate as stacked bars, downward where negative, with totals."""
    figure, (axes,) = new_figure()
    shown = token.candidates
    above, below = [0.0] * len(shown), [0.0] * len(shown)
    for agent, name in enumerate(names):
        values = [c.contribution[agent] for c in shown]
        bottoms = [above[i] if v >= 0 else below[i] for i, v in enumerate(values)]
        axes.bar(range(len(shown)), values, bottom=bottoms, label=name, width=0.7)
        for i, v in enumerate(values):
            if v >= 0:
                above[i] += v
            else:
                below[i] += v
    axes.plot(range(len(shown)), [c.total for c in shown], "k_", markersize=14, label="total")
    labels = [f"{c.text!r}{' (chosen)' if c.id == token.id else ''}" for c in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=45, ha="right", fontsize=8, parse_math=False)
    axes.axhline(0, color="black", linewidth=0.7)
    axes.set_ylabel(f"contribution to the total (vote: {vote})")
    axes.set_title(f"token {token.index}, position {token.position}")
    axes.legend(fontsize=8)
    axes.grid(True, axis="y", alpha=0.3)
    save_figure(figure, path)
