"""Operations that take several kernels: scan, sort and top-k of long arrays, appended to a chain.

Not for: anything a single kernel does (call it on the chain), or for model code.
"""

from __future__ import annotations

from typing import Any

from ..errors import ArgumentError
from .buffer import Buffer
from .chain import Chain

SCAN_WG = 128
SORT_WG = 128
ITEMS = 16  # elements of one invocation in scan and sort
TOP_K_BLOCK = 64
TOP_K_MOST = 1024


def prefix_scan(chain: Chain, *, x: Buffer, y: Buffer) -> Chain:
    """Append y[i] = x[0] + ... + x[i]; x and y [N], both f32 or both u32 (which wraps). y may be x.

    Long arrays take three steps or more: totals of blocks, their scan, the blocks again on top of it.
    """
    n = x.shape[0] if len(x.shape) == 1 else -1
    if n < 0 or x.shape != y.shape or x.dtype != y.dtype:
        raise ArgumentError(f"prefix_scan: x is {x}, y is {y}; expected one dimension, equal length and type")
    blocks = -(-n // (ITEMS * SCAN_WG))
    if blocks <= 1:
        return chain.dispatch("prefix_scan", x=x, y=y, WG=SCAN_WG)
    totals = chain.scratch((blocks,), x.dtype)
    chain.dispatch("prefix_scan_totals", x=x, totals=totals, WG=SCAN_WG)
    prefix_scan(chain, x=totals, y=totals)
    return chain.dispatch("prefix_scan", x=x, before=totals, y=y, WG=SCAN_WG)


def sort(
    chain: Chain,
    *,
    keys: Buffer,
    values: Buffer | None = None,
    keys_out: Buffer,
    values_out: Buffer,
    descending: bool = False,
    bits: int = 32,
) -> Chain:
    """Append a stable sort of keys [N] (f32 or u32) that carries values [N] (u32) along, or else the indices.

    Equal keys keep their order in both directions; -0 equals +0; NaN comes last in both directions.
    `bits` may be set lower where unsigned keys are known to be below 2^bits (fewer passes).
    The inputs are left as they are and must not share memory with the outputs.
    """
    n = keys.size
    for name, b, types in (
        ("keys", keys, ("f32", "u32")),
        ("values", values, ("u32",)),
        ("keys_out", keys_out, (keys.dtype,)),
        ("values_out", values_out, ("u32",)),
    ):
        if b is not None and (b.shape != (n,) or b.dtype not in types):
            raise ArgumentError(f"sort: {name} is {b}, expected {' or '.join(types)} of shape [{n}]")
    is_float = keys.dtype == "f32"
    if not 1 <= bits <= 32 or (is_float and bits != 32):
        raise ArgumentError(f"sort: bits is {bits}, expected 1 to 32, and 32 for f32 keys")
    if n == 0:
        return chain
    blocks = -(-n // (ITEMS * SORT_WG))
    passes = -(-bits // 4)
    counts = chain.scratch((16 * blocks,), "u32")
    spare = (chain.scratch((n,), "u32"), chain.scratch((n,), "u32")) if passes > 1 else None
    final = (keys_out.cast("u32"), values_out)
    source: tuple[Buffer, Buffer | None] = (keys.cast("u32"), values)
    flags: dict[str, Any] = {"KEY": int(is_float), "DESC": int(descending), "WG": SORT_WG}
    for i in range(passes):
        target = final if (passes - i) % 2 or spare is None else spare
        chain.dispatch("sort_count", keys=source[0], counts=counts, shift=4 * i, **flags)
        prefix_scan(chain, x=counts, y=counts)
        chain.dispatch(
            "sort",
            keys=source[0],
            values=source[1],
            scanned=counts,
            keys_out=target[0],
            values_out=target[1],
            shift=4 * i,
            **flags,
        )
        source = target
    return chain


def top_k(chain: Chain, *, x: Buffer, values: Buffer, indices: Buffer) -> Chain:
    """Append the K <= 1024 largest of each row of x [R, D] (f32): values [R, K] (f32), indices [R, K] (u32).

    Falling order, equal ones by rising index, NaN last. Where K exceeds D, (-Inf, 2^32 - 1) fills the rest.
    """
    if len(x.shape) != 2 or len(values.shape) != 2 or not 0 <= values.shape[1] <= TOP_K_MOST:
        shapes = f"x is {x}, values is {values}"
        raise ArgumentError(f"top_k: {shapes}; expected [R, D] and [R, K], K up to {TOP_K_MOST}")
    if values.shape[1] == 0:
        return chain
    rows, d = x.shape
    maxima = chain.scratch((rows, -(-d // TOP_K_BLOCK)), "u32")
    chain.dispatch("top_k_blocks", x=x, maxima=maxima)
    return chain.dispatch("top_k", x=x, maxima=maxima, values=values, indices=indices)
