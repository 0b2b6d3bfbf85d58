"""Passes over a chain that put several operations into one kernel, with the same result.

A pass sees operations (`Chain.call`), not dispatches, and looks at nothing but kernels and the buffers between them: an
intermediate result may disappear when it is scratch memory that nobody else touches. Each pass has a name and can be
left out (FLUX_VK_FUSION). Not for: what the fused kernels compute (kernels/*.toml).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..settings import settings
from .buffer import Buffer
from .chain import Chain
from .fuse_attention import fold_attention
from .matmul import can_gate, matmul
from .matmul_tile import keeps_norm
from .operations import Operation, operations_of, same


def fuse(chain: Chain, start: int = 0, passes: Iterable[str] | None = None) -> None:
    """Apply passes (default: those of the settings) to the steps of a chain from number `start` on, in place."""
    wanted = settings().fusion if passes is None else tuple(passes)
    operations = operations_of(chain, start)
    for name, apply in PASSES.items():
        if name in wanted:
            operations = apply(chain, operations)
    chain.rewrite(start, [(o.call, o.tag, s) for o in operations for s in o.steps])


def fold_norms(chain: Chain, operations: list[Operation]) -> list[Operation]:
    """rms_norm whose result only matrix products read: they norm their activations themselves, one dispatch less.

    The products scale their results where the norm would scale their inputs, so the last bits differ.
    """
    out = list(operations)
    for norm in operations:
        y = norm["y"]
        if norm.call.kernel != "rms_norm" or not chain.is_scratch(y):
            continue
        at = out.index(norm)
        users = [i for i, o in enumerate(out) if o is not norm and o.touches(y)]
        if not users or users[0] < at or not all(_takes_norm(out[i], y) for i in users):
            continue
        if any(o.touches(norm["x"], writes=True) for o in out[at + 1 : users[-1] + 1]):
            continue
        for i in users:
            out[i] = _again(chain, out[i], x=norm["x"], norm=norm["w"], eps=norm["eps"])
        del out[at]
    return out


def _takes_norm(o: Operation, y: Buffer) -> bool:
    if o.call.kernel != "matmul" or not same(o["x"], y) or o["norm"] is not None or o.touches(y, writes=True):
        return False
    return not o["prompt"] or keeps_norm(o["w"].device, o["w"].dtype)


def fold_activations(chain: Chain, operations: list[Operation]) -> list[Operation]:
    """A product of gate and up rows, then swiglu or geglu: one kernel that writes the gated result, bit for bit."""
    out = list(operations)
    for gated in operations:
        act = {"swiglu": "silu", "geglu": "gelu"}.get(gated.call.kernel)
        x = gated["x"]
        if act is None or not chain.is_scratch(x):
            continue
        users = [o for o in out if o is not gated and o.touches(x)]
        if len(users) != 1 or not _gives_gates(users[0], x) or out.index(users[0]) > out.index(gated):
            continue
        at = out.index(users[0])
        if any(o.touches(gated["y"]) for o in out[at : out.index(gated)]):
            continue
        out[at] = _again(chain, users[0], y=gated["y"], y_stride=None, act=act)
        del out[out.index(gated)]
    return out


def _gives_gates(o: Operation, x: Buffer) -> bool:
    if o.call.kernel != "matmul" or not same(o["y"], x) or o["act"] is not None or o["residual"] is not None:
        return False
    w: Buffer = o["w"]
    whole = w.shape[0] == x.shape[1] and o["y_stride"] in (None, x.shape[1]) and not o["y_offset"]
    return whole and can_gate(w.device, w)


def give_maxima(chain: Chain, logits: Buffer, maxima: Buffer, clear: Buffer) -> bool:
    """Let the product that writes `logits`, the last operation to touch them, find the block maxima too.

    A fill of `clear`, which holds them, goes in front of the chain. False, and nothing is changed, where something else
    wrote the logits or the pass "head" is left out. The maxima are those that sample_stats finds, bit for bit.
    """
    if "head" not in settings().fusion:
        return False
    operations = operations_of(chain)
    last = next((i for i in reversed(range(len(operations))) if operations[i].touches(logits)), None)
    if last is None or not _gives_logits(operations[last], logits):
        return False
    front = chain.part()
    front.fill(dst=clear)
    first = operations_of(front)
    operations[last] = _again(chain, operations[last], maxima=maxima)
    chain.rewrite(0, [(o.call, o.tag, s) for o in [*first, *operations] for s in o.steps])
    return True


def _gives_logits(o: Operation, logits: Buffer) -> bool:
    plain = all(o[name] is None for name in ("bias", "residual", "act", "maxima")) and not o["y_offset"]
    able = all(s.name.startswith(("matmul--", "matmul_wide--")) for s in o.steps)
    return o.call.kernel == "matmul" and same(o["y"], logits) and plain and able


def _again(chain: Chain, o: Operation, **changes: Any) -> Operation:
    """The same product with other arguments."""
    part = chain.part()
    matmul(part, **{**o.call.args, **changes})
    made = operations_of(part)
    return Operation(made[0].call, o.tag, made[0].steps)


PASSES: dict[str, Callable[[Chain, list[Operation]], list[Operation]]] = {
    "norm": fold_norms,
    "act": fold_activations,
    "attention": fold_attention,
}
