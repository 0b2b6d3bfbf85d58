"""What `attention` and `rope_store` refuse before anything runs. Their results: test_attention.py."""

from __future__ import annotations

import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Chain, Device


def test_rows_too_narrow_for_their_heads_are_refused(device: Device) -> None:
    """The last row would be read past its end."""
    rows, heads, dim = 2, 4, 32
    state = {"pos": device.zeros((rows,), "u32"), "slot": device.zeros((rows,), "u32")}
    state |= {"pages": device.zeros((1, 4), "u32"), "slot_info": device.zeros((1, 4), "u32")}
    cache = device.zeros((4, heads, 32, dim))
    narrow, wide = device.zeros((rows, heads * dim - 4)), device.zeros((rows, heads * dim))
    chain = Chain(device)
    with pytest.raises(ArgumentError, match="attention: q has 248 elements, expected .* = 252"):
        chain.attention(
            q=narrow, y=wide, heads=heads, kv_heads=heads, scale=1.0, HEAD_DIM=dim, kcache=cache, vcache=cache, **state
        )
    with pytest.raises(ArgumentError, match="rope_store: qkv has 256 elements, expected .* = 512"):
        chain.rope_store(
            qkv=wide, turns=device.zeros((dim // 2,), "u32"), heads=heads, kv_heads=heads, head_dim=dim, n_rot=dim,
            kcache=cache, vcache=cache, **state,
        )  # fmt: skip
