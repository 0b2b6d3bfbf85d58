"""What the sampling of one recorded chain includes: the union of what its rows ask for.

Not for: what each row asks for (params.py); a row that asks for less in such a chain draws the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Drawing:
    """logprobs: log-probabilities of some rows. complete: samplers beyond bias, penalties, top-k, top-p, min-p and
    temperature in that order. masked: some rows may only take the tokens that a grammar allows. banned: agents
    vote for some rows in which logit_bias bans tokens, which are no candidates then. agents: most agents
    that vote for a row, 0 for none; candidates: most tokens they vote on; trace: their votes are told to the host.
    """

    logprobs: bool = False
    complete: bool = False
    masked: bool = False
    banned: bool = False
    agents: int = 0
    candidates: int = 0
    trace: bool = False

    @staticmethod
    def joined(drawings: Iterable[Drawing]) -> Drawing:
        """One that serves all of them."""
        every = list(drawings)
        if not every:
            return Drawing()
        return Drawing(**{f.name: max(getattr(d, f.name) for d in every) for f in fields(Drawing)})
