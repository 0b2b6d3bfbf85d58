"""Random chains on the device against NumPy: whatever the steps, barriers and shared scratch give the right bits."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux_vk.gpu import Buffer, Chain, Device

ROWS, WIDTH = 12, 64  # rows of 256 bytes: every row may be bound on any device


@st.composite
def step(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]], int, int]:
    """(operation, (buffer, first row) of each operand, rows, value); operands are disjoint or the same."""
    op = draw(st.sampled_from(["add", "mul", "copy", "fill"]))
    rows = draw(st.integers(1, 4))
    places = st.tuples(st.integers(0, 4), st.integers(0, ROWS // 4 - 1).map(lambda n: 4 * n))
    count = {"add": 3, "mul": 3, "copy": 2, "fill": 1}[op]
    operands = draw(st.lists(places, min_size=count, max_size=count, unique=True))
    if count == 3 and draw(st.booleans()):
        operands[2] = operands[0]  # in place
    return op, operands, rows, draw(st.integers(0, 5))


def expected(pool: list[np.ndarray], steps: list[tuple[str, list[tuple[int, int]], int, int]]) -> None:
    for op, operands, rows, value in steps:
        views = [pool[b][first : first + rows] for b, first in operands]
        if op == "add":
            views[2][:] = views[0] + views[1]
        elif op == "mul":
            views[2][:] = views[0] * views[1]
        elif op == "copy":
            views[1][:] = views[0]
        else:
            views[0].view(np.uint32)[:] = np.float32(value).view(np.uint32)


def append(chain: Chain, pool: list[Buffer], steps: list[tuple[str, list[tuple[int, int]], int, int]]) -> None:
    for op, operands, rows, value in steps:
        views = [pool[b].rows(first, first + rows) for b, first in operands]
        if op in ("add", "mul"):
            chain.dispatch(op, a=views[0], b=views[1], y=views[2])
        elif op == "copy":
            chain.copy(src=views[0], dst=views[1])
        else:
            chain.fill(dst=views[0], value=int(np.float32(value).view(np.uint32)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(step(), min_size=1, max_size=24), st.integers(1, 3))
def test_random_chains(
    device: Device, steps: list[tuple[str, list[tuple[int, int]], int, int]], copies: int
) -> None:
    """Buffers 0 to 2 are the caller's, 3 and 4 scratch; the chain is replayed without waiting in between."""
    start = [(np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH) % (5 + i)) - 2 for i in range(3)]
    pool = [device.array(a) for a in start]
    chain = Chain(device)
    scratch = [chain.scratch((ROWS, WIDTH)) for _ in range(2)]
    for i, s in enumerate(scratch):
        chain.fill(dst=s, value=int(np.float32(i + 1).view(np.uint32)))
    append(chain, [*pool, *scratch], steps)
    recorded = chain.record(copies=copies)
    for _ in range(3):
        recorded.submit()
    recorded.wait()
    want = [a.copy() for a in start]
    with np.errstate(all="ignore"):
        for _ in range(3):
            expected([*want, *(np.full((ROWS, WIDTH), i + 1, np.float32) for i in range(2))], steps)
    for got, w in zip(pool, want, strict=True):
        np.testing.assert_array_equal(got.numpy(), w)
