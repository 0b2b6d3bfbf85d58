"""Dead-step removal: what is written to scratch memory that nobody reads afterwards need not be computed.

Not for: fusing operations (fusion.py).
"""

from __future__ import annotations

from .chain import Chain
from .steps import Step, buffers_of


def drop_dead(chain: Chain, start: int = 0) -> int:
    """Take steps from number `start` on out of a chain whose results nobody reads; returns how many.

    A step stays when it writes anything that outlives the chain, or scratch memory that a later step reads (whatever
    part of it). A buffer that a step both reads and writes counts as read.
    """
    kept, read = [], set[int]()
    entries = chain.entries(start)
    for call, tag, step in reversed(entries):
        written = {a.memory for a in step.accesses() if a.writes}
        if written and written <= _scratch_of(chain, step) and not written & read:
            continue
        kept.append((call, tag, step))
        read.update(a.memory for a in step.accesses() if a.reads)
    kept.reverse()
    chain.rewrite(start, kept)
    return len(entries) - len(kept)


def _scratch_of(chain: Chain, step: Step) -> set[int]:
    return {b.memory.id for b in buffers_of(step) if chain.is_scratch(b)}
