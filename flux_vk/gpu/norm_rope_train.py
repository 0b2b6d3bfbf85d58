"""Norms and rotations of training on a chain: which form of their kernels suits the device and the sizes.

Not for: what they compute (kernels/qk_rope.toml, qk_rope_backward.toml, rms_norm_backward.toml), or for inference.
"""

from __future__ import annotations

from typing import Any

from . import kernels
from .buffer import Buffer
from .chain import Chain

LANES = 8


def rms_norm_backward(
    chain: Chain, *, x: Buffer, w: Buffer, g: Buffer, dx: Buffer, eps: float, accumulate: int = 0
) -> Chain:
    """Append dx (+)= the gradient of sum(rms_norm(x, w) g) with respect to x; f32 [R, D], w f32 [D], dx may be g."""
    shape: dict[str, Any] = {}
    if x.shape[-1] % 4 == 0 and kernels.made_for(chain.device, "rms_norm_backward"):
        shape = {"variant": "lane", "ROWS": LANES, "WG": LANES}
    return chain.dispatch("rms_norm_backward", x=x, w=w, g=g, dx=dx, eps=eps, accumulate=accumulate, **shape)


def _rotation(chain: Chain, kernel: str, sizes: dict[str, Any], norms: dict[str, Buffer | None]) -> dict[str, Any]:
    wide = int(sizes["head_dim"] % 8 == 0 and sizes["n_rot"] % 8 == 0)
    shape = {"WIDE": wide, "NORM": int(any(w is not None for w in norms.values()))}
    if wide and kernels.made_for(chain.device, kernel):
        shape |= {"TEAM": 1, "WG": LANES}
        return {**sizes, **norms, **shape, "variant": "lane"}
    return {**sizes, **norms, **shape}


def qk_rope(
    chain: Chain,
    *,
    qkv: Buffer,
    pos: Buffer,
    turns: Buffer,
    qk: Buffer,
    qnorm: Buffer | None = None,
    knorm: Buffer | None = None,
    heads: int,
    kv_heads: int,
    head_dim: int,
    n_rot: int,
    mscale: float = 1.0,
    eps: float = 0.0,
    neox: bool = False,
) -> Chain:
    """Append qk = q and k of qkv after their norms (if given) and rotation, by the form that suits device and sizes.

    qkv: f32 [T, (heads + 2 kv_heads) head_dim]; qk: f32 [T, (heads + kv_heads) head_dim]; pos: u32 [T]; turns: u32
    [n_rot / 2], fractions of a turn for each position, in units of 2^-32; qnorm, knorm: f32 [head_dim]. neox: pairs are
    (i, i + n_rot / 2), else neighbours. Elements behind n_rot are normed and not rotated, nor multiplied by mscale.
    """
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "n_rot": n_rot, "mscale": mscale, "eps": eps}
    given = _rotation(chain, "qk_rope", {**sizes, "NEOX": int(neox)}, {"qnorm": qnorm, "knorm": knorm})
    return chain.dispatch("qk_rope", qkv=qkv, pos=pos, turns=turns, qk=qk, **given)


def qk_rope_backward(
    chain: Chain,
    *,
    qkv: Buffer,
    dqk: Buffer,
    pos: Buffer,
    turns: Buffer,
    dqkv: Buffer,
    qnorm: Buffer | None = None,
    knorm: Buffer | None = None,
    heads: int,
    kv_heads: int,
    head_dim: int,
    n_rot: int,
    mscale: float = 1.0,
    eps: float = 0.0,
    neox: bool = False,
) -> Chain:
    """Append the q and k columns of dqkv, from dqk: the gradient of `qk_rope`, called with the same numbers."""
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "n_rot": n_rot, "mscale": mscale, "eps": eps}
    given = _rotation(chain, "qk_rope_backward", {**sizes, "NEOX": int(neox)}, {"qnorm": qnorm, "knorm": knorm})
    return chain.dispatch("qk_rope_backward", qkv=qkv, dqk=dqk, pos=pos, turns=turns, dqkv=dqkv, **given)
