"""Sampling behind the product that makes the logits: the head finds the block maxima, bias and penalties mend them."""

from __future__ import annotations

import numpy as np
import pytest

from flux_vk.decode import SamplerState, add_sampling
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.matmul import matmul
from tests.decode.test_sampling import MIXED, expected_token

pytestmark = pytest.mark.kernel
DIM, ROWS = 32, len(MIXED)


@pytest.mark.parametrize("family", ["cpu", "gpu"])
@pytest.mark.parametrize("vocab", [40, 1001, 9000])
def test_tokens_are_those_of_the_reference(
    device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, vocab: int, family: str
) -> None:
    """With the pass and without, for rows with their own parameters, from replay to replay."""
    monkeypatch.setenv("FLUX_VK_FAMILY", family)
    w = rng.standard_normal((vocab, DIM)).astype(np.float32)
    x = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    start = [rng.integers(vocab, size=n).tolist() for n in (0, 3, 10, 64, 80, 70)]
    for passes, names in (("head", {"matmul", "fill"}), ("none", {"matmul", "sample_stats"})):
        monkeypatch.setenv("FLUX_VK_FUSION", passes)
        state = SamplerState(device, ROWS, vocab, history=64, ring=16)
        logits, slots = device.empty((ROWS, vocab)), device.array(np.arange(ROWS, dtype=np.uint32))
        position = device.zeros((ROWS,), "u32")
        chain = Chain(device)
        chain.copy(src=state.slot_pos, dst=position)
        matmul(chain, w=device.array(w), x=device.array(x), y=logits)
        add_sampling(chain, state, logits, slots, position, ROWS)
        found = {s.name.split("--")[0].removesuffix("_wide") for s in chain.steps}
        assert names <= found and ("sample_stats" in found) == (passes == "none")
        step = chain.record()
        history = [list(h) for h in start]
        for slot, p in enumerate(MIXED):
            state.set_slot(slot, p, history[slot], 100)
        for at in range(101, 107):
            step.submit()
            step.wait()
            got = [state.token(slot, at) for slot in range(ROWS)]
            rows = logits.numpy()
            assert got == [expected_token(rows[i], p, at, history[i]) for i, p in enumerate(MIXED)], (passes, at)
            for slot, token in enumerate(got):
                history[slot].append(token)
