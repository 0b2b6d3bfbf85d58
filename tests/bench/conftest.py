"""Benchmarks in miniature: small pools, short submits. Nothing here asserts a speed."""

from __future__ import annotations

import pytest

from flux_vk.cli import bench_kernels, bench_yardsticks
from flux_vk.cli.kernel_cases import yardstick


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_kernels, "SUBMIT_SECONDS", 0.001)
    monkeypatch.setattr(bench_yardsticks, "FMA_SECONDS", 0.0005)
    monkeypatch.setattr(bench_yardsticks, "last_cache_bytes", lambda: 0)
    monkeypatch.setattr(yardstick, "ROUNDS", 8)
    for family in ("cpu", "gpu"):
        monkeypatch.setitem(bench_yardsticks.POOL, family, 2 << 20)
        monkeypatch.setitem(yardstick.THREADS, family, 512)
