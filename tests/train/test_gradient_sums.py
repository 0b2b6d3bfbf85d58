"""Gradients that stand for each other are never added to while somebody still needs them as they are."""

from __future__ import annotations

import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Buffer, Chain
from flux_vk.gpu.null import NullDevice
from flux_vk.train.gradients import Gradients


@pytest.fixture
def chain() -> Chain:
    return Chain(NullDevice())


def row(chain: Chain) -> Buffer:
    return chain.scratch((4, 8))


def kernels(chain: Chain) -> list[str]:
    return [step.name for step in chain.steps]


def test_the_first_contribution_is_written_the_next_is_added(chain: Chain) -> None:
    grads, x = Gradients(chain), row(chain)
    grads.need(x)
    first, add = grads.into(x)
    assert not add
    again, add = grads.into(x)
    assert add and again is first
    assert grads.take(x) is first
    assert grads.take(x) is None


def test_what_nobody_needs_is_dropped(chain: Chain) -> None:
    grads, x, g = Gradients(chain), row(chain), row(chain)
    grads.give(x, g)
    assert grads.take(x) is None
    assert not chain.steps


def test_a_buffer_given_to_two_is_copied_before_one_is_added_to(chain: Chain) -> None:
    grads, x, r, g = Gradients(chain), row(chain), row(chain), row(chain)
    for buffer in (x, r):
        grads.need(buffer)
        grads.give(buffer, g)
    own, add = grads.into(x)
    assert add and own is not g
    assert kernels(chain) == ["copy"]
    assert grads.take(r) is g
    assert grads.into(x)[0] is own, "the copy is its own and need not be copied again"


def test_what_is_being_read_is_copied_before_it_is_added_to(chain: Chain) -> None:
    grads, x, y, g = Gradients(chain), row(chain), row(chain), row(chain)
    for buffer in (x, y):
        grads.need(buffer)
        grads.give(buffer, g)
    with grads.taken(y) as read:
        assert read is g
        assert grads.into(x)[0] is not g
    assert kernels(chain) == ["copy"]


def test_two_whole_contributions_are_added(chain: Chain) -> None:
    grads, x, g, h = Gradients(chain), row(chain), row(chain), row(chain)
    grads.need(x)
    grads.give(x, g)
    grads.give(x, h)
    assert kernels(chain) == ["add"]
    assert grads.take(x) is g


def test_a_gradient_of_another_shape_is_refused(chain: Chain) -> None:
    grads, x = Gradients(chain), row(chain)
    grads.need(x)
    with pytest.raises(ArgumentError, match="shape"):
        grads.give(x, chain.scratch((4, 7)))
