"""The forward product of training: as matmul (matmul.py), for many rows of activations and with nothing folded in.

CPU drivers have a kernel that shares what it loads among 32 rows, half as fast again as the one that serves single rows
too; its sums are taken in another order. Everywhere else this is `matmul(prompt=True)`. Not for: generation.
"""

from __future__ import annotations

from typing import Any

from . import kernels, matvec
from .buffer import Buffer
from .chain import Chain
from .gemm import lanes_of, texels
from .matmul import matmul


def matmul_train(
    chain: Chain,
    *,
    w: Buffer,
    x: Buffer,
    y: Buffer,
    bias: Buffer | None = None,
    residual: Buffer | None = None,
    y_stride: int | None = None,
    y_offset: int = 0,
) -> Chain:
    """Append y[r, y_offset + n] = sum_k w[n, k] x[r, k] (+ bias[n]) (+ residual[r, y_offset + n]).

    w: [N, K] of any weight type. x: f32 [R, K] or wider (only the first K columns count). y: f32 [R, y_stride];
    y_stride defaults to y's last dimension. residual is shaped like y and may be y itself. A row's bits do not depend
    on R. Raises ArgumentError naming the argument, what was wanted and what it is.
    """
    n, k = matvec.checked("matmul_train", w, x)
    made = matvec.product("matmul_train", w, "x", x, y, bias, residual, y_stride, y_offset, None)
    able = kernels.made_for(chain.device, "matmul_train", w.dtype)
    if not able or (n | k | x.shape[1] | made.y_stride | y_offset) & 3:
        return matmul(
            chain, w=w, x=x, y=y, bias=bias, residual=residual, y_stride=y_stride, y_offset=y_offset, prompt=True
        )
    lanes = lanes_of(chain.device)
    given: dict[str, Any] = {
        "w": w, "x": x, "y": y, "bias": bias, "residual": residual, "y_stride": made.y_stride, "y_offset": y_offset
    }  # fmt: skip
    with chain.call("matmul_train", given):
        values = {**given, "residual": None if residual is None else texels(residual)}
        return chain.dispatch(
            "matmul_train", variant=w.dtype, **values, LANES=lanes, MR=rows_for(x.shape[0]),
            RESIDUAL=int(residual is not None),
        )  # fmt: skip


def rows_for(r: int) -> int:
    """Rows of activations of a workgroup."""
    return next((rows for rows in (8, 16) if r <= rows), 32)
