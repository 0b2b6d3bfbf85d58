"""One guarded product by matmul_wide or matmul_dot, for the tests of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flux_vk.gpu import Chain, Device, kernels
from tests.gpu.harness import Guarded


def skip_unless_able(device: Device, kernel: str, variant: str) -> None:
    needed = set(kernels.contract(kernel).variant(variant).requires) - set(device.features)
    if needed:
        pytest.skip(f"this device lacks {', '.join(sorted(needed))}")


def product(
    device: Device,
    call: Callable[..., Chain],
    x_name: str,
    variant: str,
    raw: np.ndarray,
    shape: tuple[int, int],
    x: np.ndarray,
    *,
    y_stride: int = 0,
    norm: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    act: str | None = None,
    **more: Any,
) -> np.ndarray:
    """y is poisoned, and comes back whole as [R, y_stride]; nothing else may have been written."""
    guarded = Guarded(device)
    columns = shape[0] // 2 if act else shape[0]
    y = guarded.empty("y", (len(x), y_stride or columns))
    for name, value in (("norm", norm), ("bias", bias), ("residual", residual)):
        if value is not None:
            more[name] = guarded.array(name, value)
    w = guarded.weight("w", raw, variant.split(".")[0], shape)
    call(Chain(device), w=w, y=y, act=act, variant=variant, **{x_name: guarded.array(x_name, x)}, **more).run()
    guarded.check()
    return y.numpy()
