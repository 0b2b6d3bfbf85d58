"""chain.profile(): every step timed, the table by kernel, the Chrome trace."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from flux_vk.errors import VulkanError
from flux_vk.gpu import Buffer, Chain, Device, NullDevice
from flux_vk.gpu.profile import Profile, Timed


@pytest.fixture
def chain(device: Device) -> tuple[Chain, Buffer]:
    x, y = device.array(np.ones((64, 1024), np.float32)), device.empty((64, 1024))
    z = device.empty((64, 1024))
    chain = Chain(device, name="demo")
    chain.scope("first")
    chain.add(a=x, b=x, y=y).add(a=y, b=x, y=z)
    chain.scope("second")
    chain.mul(a=z, b=x, y=y).copy(src=y, dst=z).fill(dst=y, value=0)
    return chain, z


def test_every_step_is_timed_and_the_result_is_the_same(chain: tuple[Chain, Buffer]) -> None:
    made, z = chain
    profile = made.profile(repeat=3)
    assert (z.numpy() == 3).all()
    assert [s.name for s in profile.steps] == ["add", "add", "mul", "copy", "fill"]
    assert [s.scope for s in profile.steps] == ["first", "first", "second", "second", "second"]
    assert all(0 <= s.ns < 10e9 for s in profile.steps)
    assert profile.total_ns > 0
    assert profile.steps[0].bytes == 3 * 4 * 64 * 1024


def test_the_table(chain: tuple[Chain, Buffer]) -> None:
    lines = str(chain[0].profile()).splitlines()
    assert lines[0].split() == ["kernel", "count", "ms", "share", "GB/s", "GFLOP/s"]
    assert sorted(line.split()[0] for line in lines[1:-4]) == ["add", "copy", "fill", "mul"]
    assert re.match(r"total\s+5\s+\d+\.\d+$", lines[-4])
    assert re.match(r"a replay, no timestamps\s+\d+\.\d+$", lines[-3])
    assert re.match(r"(gaps|overlap).*\s-?\d+\.\d+\s+-?\d+\.\d%$", lines[-2])
    assert "a timestamp itself takes" in lines[-1]


def test_gaps() -> None:
    """What a replay takes beyond the sum of its steps; steps that overlap make it negative."""
    step = Timed(0, "", "a", 6e6, 0.0, 0.0)
    assert Profile("demo", (step,), 8e6).gaps() == {"steps_ms": 6.0, "replay_ms": 8.0, "gap_ms": 2.0}
    assert str(Profile("demo", (step,), 8e6)).splitlines()[-2].split()[-2:] == ["2.000", "25.0%"]
    assert "overlap" in str(Profile("demo", (step,), 4e6)).splitlines()[-2]
    assert "replay" not in str(Profile("demo", (step,)))


def test_sums_and_shares() -> None:
    profile = Profile(
        "demo",
        (
            Timed(0, "", "a", 1000.0, 4000.0, 2000.0),
            Timed(1, "", "b", 6000.0, 6000.0, 0.0),
            Timed(2, "", "a", 1000.0, 4000.0, 2000.0),
        ),
    )
    b, a = profile.by_kernel()
    assert (b["kernel"], b["count"], b["share"], b["GB/s"]) == ("b", 1, 0.75, 1.0)
    assert (a["kernel"], a["count"], a["ms"], a["GB/s"], a["GFLOP/s"]) == ("a", 2, 0.002, 4.0, 2.0)
    assert Profile("empty", ()).by_kernel() == []


def test_the_chrome_trace(chain: tuple[Chain, Buffer]) -> None:
    trace = json.loads(json.dumps(chain[0].profile().chrome_trace()))
    events = trace["traceEvents"]
    assert [e["name"] for e in events] == ["add", "add", "mul", "copy", "fill"]
    assert all(e["ph"] == "X" and e["dur"] >= 0 for e in events)
    assert events[0]["cat"] == "first" and events[0]["ts"] == 0
    for a, b in zip(events, events[1:], strict=False):
        assert b["ts"] == pytest.approx(a["ts"] + a["dur"])


def test_a_device_without_timestamps() -> None:
    null = NullDevice()
    with pytest.raises(VulkanError, match="has no timestamps"):
        Chain(null).fill(dst=null.empty((4,))).profile()
