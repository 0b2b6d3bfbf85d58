"""Programs for tests: written as mnemonics, or drawn at random. Not for: running them."""

from __future__ import annotations

from flux_vk.flux import BY_NAME
from flux_vk.flux.instructions import encode


def code(*lines: tuple[object, ...]) -> bytes:
    """Bytes of instructions given as (mnemonic, operands...)."""
    return b"".join(encode(BY_NAME[str(name)], operands) for name, *operands in lines)  # type: ignore[arg-type]
