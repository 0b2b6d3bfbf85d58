"""What this device can do: bytes copied and multiply-adds done a second, measured in the same run as what is compared.

Not for: timing kernels next to them (bench_kernels.py).
"""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flux_vk.gpu import Chain, Device, Recorded

if TYPE_CHECKING:
    from flux_vk.gpu import Buffer

POOL = {"cpu": 128 << 20, "gpu": 1 << 30}
"""Least bytes of the cold pool, by family of device; on a CPU it is twice the last cache where that is more."""
POOL_MOST = 1 << 30
FMA_SECONDS = 0.005


def pool_bytes(device: Device) -> int:
    """Bytes that are touched between two uses of the same memory, so that no cache holds it any more.

    Less where the device has not eight times as much free.
    """
    wanted = POOL["cpu" if device.kind == "cpu" else "gpu"]
    if device.kind == "cpu":
        wanted = max(wanted, min(2 * last_cache_bytes(), POOL_MOST))
    return min(wanted, device.memory()["free"] // 8) // 8192 * 8192


def last_cache_bytes() -> int:
    """The machine's largest cache as the system tells it; 0 where it does not."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            said = path.read_text().strip()
            sizes.append(int(said[:-1]) * units[said[-1]])
        except (OSError, KeyError, ValueError, IndexError):
            continue
    return max(sizes)


def timed(step: Recorded) -> float:
    """Seconds from submit to the end of wait."""
    started = time.perf_counter()
    step.submit()
    step.wait()
    return time.perf_counter() - started


class Copy:
    """A copy of half the pool to the other half, by the faster of the transfer command and the copy kernel.

    It is also what empties the caches between two samples.
    """

    def __init__(self, device: Device, nbytes: int | None = None) -> None:
        self.pool = pool_bytes(device) if nbytes is None else nbytes
        window = min(self.pool // 2, device.max_range // 4096 * 4096)
        pairs = []
        for _ in range(max(1, self.pool // 2 // max(window, 1))):
            pairs.append((device.zeros((window // 4,), "u32"), device.empty((window // 4,), "u32")))
        self.nbytes = window * len(pairs)
        ways = {"chain.copy": _by_command(device, pairs), "the copy kernel": _by_kernel(device, pairs)}
        first = {how: min(timed(step) for _ in range(3)) for how, step in ways.items()}
        self.how = min(first, key=lambda how: first[how])
        self._step = ways[self.how]
        self.samples: list[float] = []

    def sample(self) -> None:
        """Time it once."""
        self.samples.append(timed(self._step))

    def rate(self, samples: list[float] | None = None) -> float:
        """Bytes per second, read and written, of the median of these samples (default: all so far)."""
        middle: float = statistics.median(samples or self.samples)
        return 2 * self.nbytes / middle

    def __str__(self) -> str:
        return f"{self.how} of {self.nbytes >> 20} MiB"


def _by_command(device: Device, pairs: list[tuple[Buffer, Buffer]]) -> Recorded:
    chain = Chain(device, name="copy")
    for source, target in pairs:
        chain.copy(src=source, dst=target)
    return chain.record()


def _by_kernel(device: Device, pairs: list[tuple[Buffer, Buffer]]) -> Recorded:
    chain, columns = Chain(device, name="copy kernel"), 1024
    for source, target in pairs:
        rows = source.size // columns
        flat = {"x": source.cast("f32", (rows, columns)), "y": target.cast("f32", (rows, columns))}
        chain.copy_strided(
            **flat, rows=rows, cols=columns, x_stride=columns, y_stride=columns, x_offset=0, y_offset=0
        )
    return chain.record()


class Fma:
    """The kernel fma_peak in its fastest shape, checked against its reference before it is believed."""

    def __init__(self, device: Device) -> None:
        from flux_vk.cli.bench_kernels import check
        from flux_vk.cli.kernel_cases.yardstick import shapes

        found = []
        for acc, case in shapes().items():
            prepared = case.make(device, np.random.default_rng(0))
            chain = Chain(device, name=f"fma_peak {acc}")
            prepared.append(chain, prepared.buffers)
            once = chain.record()
            timed(once)
            check(case, prepared)
            flops = chain.totals().flops
            found.append((min(timed(once) for _ in range(3)) / flops, acc, prepared, flops))
        per_flop, self.chains, prepared, flops = min(found, key=lambda f: f[0])
        self.calls = max(1, math.ceil(FMA_SECONDS / (per_flop * flops)))
        chain = Chain(device, name="fma_peak")
        for _ in range(self.calls):
            prepared.append(chain, prepared.buffers)
        self.flops = flops * self.calls
        self._step = chain.record()
        timed(self._step)
        self.samples: list[float] = []

    def sample(self) -> None:
        """Time it once."""
        self.samples.append(timed(self._step))

    def rate(self, samples: list[float] | None = None) -> float:
        """Operations per second (a multiply-add is two) of the median of these samples (default: all so far)."""
        middle: float = statistics.median(samples or self.samples)
        return self.flops / middle

    def __str__(self) -> str:
        return f"fma_peak with {self.chains} chains"
