"""A binding that has the buffer of another (`same_as`): bound without being passed, or left where texels do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_vk.errors import ArgumentError, ContractError
from flux_vk.gpu import Chain, NullDevice
from flux_vk.gpu.contract import load
from flux_vk.gpu.steps import Dispatch
from flux_vk.settings import FAMILY


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> NullDevice:
    """A recording-only device that prefers what is made for CPU drivers."""
    monkeypatch.setenv(FAMILY.name, "cpu")
    return NullDevice()


def loss_of(device: NullDevice, rows: int, vocab: int) -> Dispatch:
    chain = Chain(device)
    chain.cross_entropy(
        logits=device.empty((rows, vocab)), labels=device.empty((rows,), "u32"), loss=device.empty((rows,))
    )
    step = chain.steps[-1]
    assert isinstance(step, Dispatch)
    return step


def test_it_is_bound_in_a_first_and_in_a_remembered_call(cpu: NullDevice) -> None:
    first, again = loss_of(cpu, 4, 64), loss_of(cpu, 4, 64)
    for step in (first, again):
        assert step.variant.name == "lane" and "source" not in step.left_out
        assert step.buffers["source"] is step.buffers["logits"]
    assert first.buffers["source"] is not again.buffers["source"]


def test_a_buffer_that_is_not_made_of_whole_texels_is_read_as_storage(cpu: NullDevice) -> None:
    assert loss_of(cpu, 3, 5).variant.name == "default"
    assert loss_of(cpu, 4, 5).variant.name == "lane"


def test_it_cannot_be_passed(cpu: NullDevice) -> None:
    x = cpu.empty((1, 4))
    with pytest.raises(ArgumentError, match="cross_entropy: no argument 'source'"):
        Chain(cpu).dispatch(
            "cross_entropy", logits=x, source=x, labels=cpu.empty((1,), "u32"), loss=cpu.empty((1,))
        )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('same_as = "logits"', 'same_as = "logit"'),
        ('same_as = "logits"', 'same_as = "labels"'),
        ('access = "read"\ntype = "f32"', 'access = "read_write"\ntype = "f32"'),
    ],
)
def test_contracts_that_cannot_be(tmp_path: Path, repo_root: Path, old: str, new: str) -> None:
    text = (repo_root / "kernels" / "cross_entropy.toml").read_text()
    assert old in text
    path = tmp_path / "cross_entropy.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ContractError, match="binding source: same_as is"):
        load(path)
