"""Attention of training on a chain: forward, and the gradients of queries, keys and values.

Flash style (Dao 2023, arXiv 2307.08691): forward keeps one number a row and head, the log of the softmax's sum, and
the gradients make the weights again from it; nothing of the size rows x rows is ever in memory. Not for: decoding
over a cache (kernels/attention.toml), or rotating q and k (kernels/qk_rope.toml).
"""

from __future__ import annotations

from typing import Any

from ..errors import ArgumentError
from . import kernels
from .buffer import Buffer
from .chain import Chain
from .device import BaseDevice

MAX_HEAD_DIM = 256
BACKWARD = ("attention_back_q", "attention_back_kv")
LANES = 8
MOST_TURNS = 65_000
"""Turns that all loops of an invocation may take together: llvmpipe of Mesa 22.3 ends them after 65,535."""


def _checked(name: str, heads: int, kv_heads: int, head_dim: int) -> None:
    if kv_heads < 1 or heads < 1 or heads % kv_heads:
        raise ArgumentError(f"{name}: heads is {heads}, expected a multiple of kv_heads = {kv_heads}")
    if head_dim % 4 or not 4 <= head_dim <= MAX_HEAD_DIM:
        raise ArgumentError(f"{name}: head_dim is {head_dim}, expected a multiple of 4 up to {MAX_HEAD_DIM}")


def shape_for(device: BaseDevice, kernel: str, rows: int, heads: int, kv_heads: int, head_dim: int) -> dict[str, Any]:
    """Variant and constants of one of the three kernels on this device. The rows of a workgroup decide no bits.

    On CPU drivers eight lanes; else tiles with as many rows as registers hold, fewer where few tiles would be left.
    Raises ArgumentError where a CPU driver would end the kernel's loops too early (Mesa's llvmpipe counts them).
    """
    lanes = kernels.made_for(device, kernel) and int(device.limits["subgroup_size"]) >= LANES
    owners = rows * (kv_heads if kernel == "attention_back_kv" else heads)
    own = LANES if lanes else 64 if head_dim <= 64 and owners >= 16384 else 32 if head_dim <= 128 else 16
    if device.kind == "cpu":
        turns = rows // LANES + 3 * LANES if lanes else (rows // 32 + 1) * (2 + 60 * -(-head_dim // 32)) + 2 * own
        turns *= heads // kv_heads if kernel == "attention_back_kv" else 1
        if turns > MOST_TURNS:
            raise ArgumentError(
                f"{kernel}: {rows} rows with {heads // kv_heads} heads a KV head take up to {turns} turns of a loop, "
                f"this driver allows {MOST_TURNS}; take micro-batches of fewer rows"
            )
    return {"OWN": own, "HEAD_DIM": head_dim, **({"WG": LANES, "variant": "lane"} if lanes else {})}


def attention_forward(
    chain: Chain,
    *,
    qk: Buffer,
    qkv: Buffer,
    first: Buffer,
    y: Buffer,
    lse: Buffer,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
) -> Chain:
    """Append y[t] = softmax(cap(scale q[t] k)) v over the rows that row t sees, for every head.

    qk: f32 [T, (heads + kv_heads) head_dim], rotated; qkv: f32 [T, (heads + 2 kv_heads) head_dim], of which v is read.
    first: u32 [T], the row where each row's sequence begins; sequences are runs of rows. Row t sees rows
    max(first[t], t - window + 1 if window) ... t. y: f32 [T, heads head_dim]; lse: f32 [T, heads], the natural log of
    the softmax's sum. softcap: cap(s) = softcap tanh(s / softcap); 0: none.
    A sequence's bits do not depend on what else is in the batch. Raises ArgumentError naming what does not fit.
    """
    _checked("attention_forward", heads, kv_heads, head_dim)
    sizes: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "scale": scale, "softcap": softcap, "window": window}
    shape = shape_for(chain.device, "attention_train", qk.shape[0], heads, kv_heads, head_dim)
    return chain.dispatch("attention_train", qk=qk, qkv=qkv, first=first, y=y, lse=lse, **sizes, **shape)


def attention_backward(
    chain: Chain,
    *,
    qk: Buffer,
    qkv: Buffer,
    first: Buffer,
    last: Buffer,
    y: Buffer,
    lse: Buffer,
    dy: Buffer,
    dqk: Buffer,
    dqkv: Buffer,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
) -> Chain:
    """Append the gradients of sum(y dy): all of dqk (shaped like qk), and the v columns of dqkv (shaped like qkv).

    last: u32 [T], one past the last row of each row's sequence. Other arguments as attention_forward had them, y and
    lse as it left them; dy shaped like y. Sums are taken in one order (keys rising; for keys and values head by head,
    rows rising), so two runs agree bit for bit, and a sequence's bits do not depend on what else is in the batch.
    """
    _checked("attention_backward", heads, kv_heads, head_dim)
    rows = qk.shape[0]
    with chain.call("attention_backward", {"qk": qk, "qkv": qkv, "dy": dy, "dqk": dqk, "dqkv": dqkv}):
        delta = chain.scratch((rows, heads))
        chain.dispatch("attention_delta", y=y, dy=dy, delta=delta, heads=heads, HEAD_DIM=head_dim)
        given: dict[str, Any] = {"qk": qk, "qkv": qkv, "dy": dy, "lse": lse, "delta": delta, "dqk": dqk}
        given |= {"heads": heads, "kv_heads": kv_heads, "scale": scale, "softcap": softcap, "window": window}
        shapes = [shape_for(chain.device, kernel, rows, heads, kv_heads, head_dim) for kernel in BACKWARD]
        chain.dispatch("attention_back_q", first=first, **given, **shapes[0])
        return chain.dispatch("attention_back_kv", last=last, dqkv=dqkv, **given, **shapes[1])
