"""The pass that lets the product of q, k and v go on with rope_store and attention (kernels/matmul_attention.toml).

For CPU drivers, where a dispatch costs as much as a small kernel. On GPUs attention's registers would cost the product
its occupancy. Not for: other passes (fusion.py).
"""

from __future__ import annotations

from ..errors import ArgumentError
from . import kernels
from .buffer import Buffer
from .chain import Call, Chain
from .operations import Operation, operations_of, same
from .steps import Dispatch

TILE = 32  # columns of a workgroup; a head is a multiple of it
MOST_ROWS = 8  # more rows are a prompt's: its rows of attention are better spread over all threads
_MOVED = ("slot", "pos", "pages", "slot_info", "kcache", "vcache")


def fold_attention(chain: Chain, operations: list[Operation]) -> list[Operation]:
    """Product, rope_store, attention behind each other: one dispatch for a step of few rows, bit for bit."""
    out: list[Operation] = []
    for o in operations:
        made = None
        if len(out) >= 2 and o.call.kernel == "attention" and out[-1].call.kernel == "rope_store":
            made = _fused(chain, out[-2], out[-1], o)
        if made is None:
            out.append(o)
        else:
            out[-2:] = [made]
    return out


def _fused(chain: Chain, product: Operation, rope: Operation, attention: Operation) -> Operation | None:
    qkv: Buffer = rope["qkv"]
    if not _fits(chain, product, rope, attention):
        return None
    step = product.steps[0]
    assert isinstance(step, Dispatch)
    width: int = attention["HEAD_DIM"]
    heads, kv_heads = attention["heads"], attention["kv_heads"]
    parts = _parts(product["y_offset"] // width, product["w"].shape[0] // width, heads, kv_heads)
    if parts == 0:
        return None
    spec = dict(zip((s.name for s in step.contract.spec), step.spec, strict=True))
    args = {
        **{name: product[name] for name in ("w", "x", "bias", "norm", "eps", "y_offset")},
        **{name: rope[name] for name in (*_MOVED, "turns", "qnorm", "knorm", "n_rot", "NEOX", "PS")},
        **{name: attention[name] for name in ("scale", "softcap", "window", "context", "HEAD_DIM", "GROUP", "CHUNK")},
        "y": qkv, "y_stride": qkv.shape[1], "out": attention["y"], "counters": attention["counters"],
        "mscale": rope["mscale"], "rope_eps": rope["eps"], "heads": heads, "kv_heads": kv_heads,
        "parts": parts * (width // TILE), "NR": TILE, "NT": spec["NT"], "NORM": spec["NORM"],
    }  # fmt: skip
    part = chain.part()
    try:
        part.dispatch("matmul_attention", **args)
    except ArgumentError:  # a type of weights or a device that has no such kernel
        return None
    made = operations_of(part)
    return Operation(Call("matmul_attention", args), attention.tag, made[0].steps)


def _fits(chain: Chain, product: Operation, rope: Operation, attention: Operation) -> bool:
    device, qkv, step = chain.device, rope["qkv"], product.steps[0]
    if product.call.kernel != "matmul" or len(product.steps) != 1 or not isinstance(step, Dispatch):
        return False
    lane = step.contract.name == "matmul" and str(attention["variant"]).endswith(".lane")
    able = device.limits["max_bindings"] >= len(kernels.contract("matmul_attention").bindings)
    plain = all(product[name] is None for name in ("residual", "act", "maxima"))
    alone = attention["counters"] is not None and attention["indirect"] is None and not attention["SPLIT"]
    width = attention["HEAD_DIM"]
    return (
        lane
        and able
        and plain
        and alone
        and chain.is_scratch(qkv)
        and same(product["y"], qkv)
        and same(attention["q"], qkv)
        and qkv.shape[0] <= MOST_ROWS
        and attention["kcache"].dtype == "f16"
        and width % TILE == product["y_offset"] % width == product["w"].shape[0] % width == 0
    )


def _parts(first: int, count: int, heads: int, kv_heads: int) -> int:
    """Heads of each KV head among heads first ... first + count - 1 (of q, then k, then v); 0 where they differ."""
    group = heads // kv_heads
    of = [h // group if h < heads else (h - heads) % kv_heads for h in range(first, first + count)]
    found = {of.count(kv_head) for kv_head in range(kv_heads)}
    return found.pop() if len(found) == 1 else 0
