"""The pass that lets the product of q, k and v go on with what follows it, in the same dispatch.

On CPU drivers, where a dispatch costs as much as a small kernel, with rope_store and attention
(kernels/matmul_attention.toml); on GPUs with rope_store (kernels/matmul_rope.toml), since attention's registers would
cost the product its occupancy. Not for: other passes (fusion.py).
"""

from __future__ import annotations

from typing import Any

from . import kernels
from .buffer import Buffer
from .chain import Call, Chain
from .matvec import FLOATS
from .operations import Operation, operations_of, same
from .steps import Dispatch

TILE = 32  # columns of a workgroup; a head is a multiple of it
MOST_ROWS = 8  # more rows are a prompt's: its rows of attention are better spread over all threads


def fold_attention(chain: Chain, operations: list[Operation]) -> list[Operation]:
    """Product, rope_store, attention behind each other: one dispatch (GPUs: two) where rows are few; the same bits."""
    out: list[Operation] = []
    for o in operations:
        made = None
        if len(out) >= 2 and o.call.kernel == "attention" and out[-1].call.kernel == "rope_store":
            made = _attending(chain, out[-2], out[-1], o) or _rotating(chain, out[-2], out[-1], o)
        if made is None:
            out.append(o)
        else:
            out[-2:] = made
    return out


def _attending(
    chain: Chain, product: Operation, rope: Operation, attention: Operation
) -> list[Operation] | None:
    """All three in one, on CPU drivers."""
    if not _fits(chain, "matmul_attention", product, rope, attention):
        return None
    lane = str(attention["variant"]).endswith(".lane") and product["w"].dtype not in FLOATS
    whole = attention["indirect"] is None and not attention["SPLIT"]
    width: int = attention["HEAD_DIM"]
    if not lane or not whole or width % TILE:
        return None
    heads, kv_heads = attention["heads"], attention["kv_heads"]
    parts = _parts(product["y_offset"] // width, product["w"].shape[0] // width, heads, kv_heads)
    if parts == 0:
        return None
    spec = _spec(product)
    args = {
        **_common(product, rope),
        **{name: attention[name] for name in ("scale", "softcap", "window", "context", "HEAD_DIM", "GROUP", "CHUNK")},
        "out": attention["y"], "counters": attention["counters"], "parts": parts * (width // TILE), "NR": TILE,
        "NT": spec["NT"], "NORM": spec["NORM"],
    }  # fmt: skip
    return [_made(chain, "matmul_attention", args, attention.tag)]


def _rotating(chain: Chain, product: Operation, rope: Operation, attention: Operation) -> list[Operation] | None:
    """The product with rope_store, then attention, on GPUs."""
    if not _fits(chain, "matmul_rope", product, rope, attention):
        return None
    spec, width = _spec(product), rope["head_dim"]
    total = rope["heads"] + 2 * rope["kv_heads"]
    counters: Buffer = attention["counters"]
    able = set(kernels.contract("matmul_rope").variants[0].requires) <= chain.device.features
    whole = product["y_offset"] == 0 and product["w"].shape[0] == total * width  # else heads would be stored too early
    if not able or not whole or width % spec["NR"] or counters.size < total:
        return None
    args = {
        **_common(product, rope), "head_dim": width, "counters": counters.rows(0, total),
        "parts": width // spec["NR"], **{name: spec[name] for name in ("WG", "NR", "NT", "STAGE", "NORM")},
    }  # fmt: skip
    return [_made(chain, "matmul_rope", args, rope.tag), attention]


def _common(product: Operation, rope: Operation) -> dict[str, Any]:
    qkv: Buffer = rope["qkv"]
    names = ("slot", "pos", "pages", "slot_info", "kcache", "vcache", "turns", "qnorm", "knorm", "n_rot", "NEOX", "PS")
    return {
        **{name: product[name] for name in ("w", "x", "bias", "norm", "eps", "y_offset")},
        **{name: rope[name] for name in (*names, "heads", "kv_heads", "mscale")},
        "y": qkv, "y_stride": qkv.shape[1], "rope_eps": rope["eps"],
    }  # fmt: skip


def _spec(product: Operation) -> dict[str, int]:
    step = product.steps[0]
    assert isinstance(step, Dispatch)
    return dict(zip((s.name for s in step.contract.spec), step.spec, strict=True))


def _made(chain: Chain, kernel: str, args: dict[str, Any], tag: str) -> Operation:
    part = chain.part()
    part.dispatch(kernel, **args)
    return Operation(Call(kernel, args), tag, operations_of(part)[0].steps)


def _fits(chain: Chain, kernel: str, product: Operation, rope: Operation, attention: Operation) -> bool:
    """What both forms ask for: one dispatch of the decode product for few rows, of all that its heads are."""
    qkv, step = rope["qkv"], product.steps[0]
    before = {"matmul_attention": "matmul", "matmul_rope": "matmul_wide"}[kernel]
    if product.call.kernel != "matmul" or len(product.steps) != 1 or not isinstance(step, Dispatch):
        return False
    width = rope["head_dim"]
    return (
        step.contract.name == before
        and chain.device.limits["max_bindings"] >= len(kernels.contract(kernel).bindings)
        and all(product[name] is None for name in ("residual", "act", "maxima"))
        and attention["counters"] is not None
        and chain.is_scratch(qkv)
        and same(product["y"], qkv)
        and same(attention["q"], qkv)
        and qkv.shape[0] <= MOST_ROWS
        and attention["kcache"].dtype == "f16"
        and product["y_offset"] % width == product["w"].shape[0] % width == 0
    )


def _parts(first: int, count: int, heads: int, kv_heads: int) -> int:
    """Heads of each KV head among heads first ... first + count - 1 (of q, then k, then v); 0 where they differ."""
    group = heads // kv_heads
    of = [h // group if h < heads else (h - heads) % kv_heads for h in range(first, first + count)]
    found = {of.count(kv_head) for kv_head in range(kv_heads)}
    return found.pop() if len(found) == 1 else 0
