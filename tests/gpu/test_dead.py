"""Steps whose results nobody reads leave a chain; all others stay."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.gpu import Chain
from flux_vk.gpu.dead import drop_dead
from flux_vk.gpu.null import NullDevice


@pytest.fixture
def chain() -> Chain:
    return Chain(NullDevice())


def names(chain: Chain) -> list[str]:
    return [step.name.split("--")[0] for step in chain.steps]  # without the variant


def test_what_leads_nowhere_goes_with_all_that_led_to_it(chain: Chain) -> None:
    dev = chain.device
    x, out = dev.array(np.zeros((2, 8), np.float32)), dev.empty((2, 4))
    a, b, c = chain.scratch((2, 8)), chain.scratch((2, 8)), chain.scratch((2, 4))
    chain.add(a=x, b=x, y=a)
    chain.mul(a=a, b=a, y=b)  # only swiglu reads it
    chain.swiglu(x=b, y=c)  # nobody reads it
    chain.swiglu(x=a, y=out)
    assert drop_dead(chain) == 2
    assert names(chain) == ["add", "swiglu"]
    assert len(chain.tags) == 2


def test_what_is_added_to_counts_as_read(chain: Chain) -> None:
    dev = chain.device
    x, out = dev.array(np.zeros((2, 8), np.float32)), dev.empty((2, 8))
    a = chain.scratch((2, 8))
    chain.fill(dst=a)
    chain.add(a=a, b=x, y=a)
    chain.copy(src=a, dst=out)
    assert drop_dead(chain) == 0


def test_what_outlives_the_chain_stays(chain: Chain) -> None:
    out = chain.device.empty((2, 8))
    chain.fill(dst=out)
    assert drop_dead(chain) == 0
    chain.fill(dst=chain.scratch((4,)))
    assert drop_dead(chain, start=1) == 1
    assert names(chain) == ["fill"]


def test_a_reader_in_front_keeps_nothing_alive(chain: Chain) -> None:
    dev = chain.device
    out, a = dev.empty((2, 8)), chain.scratch((2, 8))
    chain.fill(dst=a)
    chain.copy(src=a, dst=out)
    chain.fill(dst=a, value=1)
    assert drop_dead(chain) == 1
    assert names(chain) == ["fill", "copy"]
