"""The mask kernel against its reference, and what the samplers draw behind it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.decode import Drawing, SamplerState, SamplingParams, add_sampling
from flux_vk.decode.masks import TokenMasks, words_for
from flux_vk.errors import FluxError, InputError
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.reference import reference
from tests.gpu.harness import run_kernel

pytestmark = pytest.mark.kernel
VOCABS = [1, 7, 31, 32, 33, 255, 256, 257, 1000, 4097, 32000, 151936]


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("wg", [32, 64, 256])
def test_every_bit(device: Device, rng: np.random.Generator, vocab: int, wg: int) -> None:
    """Slots in any order, one twice, one without a mask, one that is in no table; infinities and NaN pass through."""
    slots = np.array([2, 0, 9, 1, 2], np.uint32)
    logits = rng.standard_normal((len(slots), vocab)).astype(np.float32)
    for value in (np.inf, -np.inf, np.nan):
        logits[rng.random(logits.shape) < 0.01] = value
    inputs = {
        "logits": logits,
        "row_slot": slots,
        "masked": np.array([1, 0, 7], np.uint32),
        "masks": rng.integers(0, 2**32, (3, words_for(vocab)), np.uint32),
    }
    found = run_kernel(device, "sample_mask", inputs, {"y": (logits.shape, "f32")}, WG=wg)["y"]
    want = reference("sample_mask")(**inputs)
    np.testing.assert_array_equal(found.view(np.uint32)[2], 0xFFFFFFFF)  # left unwritten
    np.testing.assert_array_equal(np.delete(found, 2, 0), np.delete(want, 2, 0))


def test_no_rows(device: Device) -> None:
    inputs = {
        "logits": np.zeros((0, 40), np.float32), "row_slot": np.zeros(0, np.uint32),
        "masked": np.ones(1, np.uint32), "masks": np.zeros((1, 2), np.uint32),
    }  # fmt: skip
    assert run_kernel(device, "sample_mask", inputs, {"y": ((0, 40), "f32")})["y"].shape == (0, 40)


def bits_of(tokens: list[int], vocab: int) -> npt.NDArray[np.uint32]:
    mask = np.zeros(words_for(vocab), np.uint32)
    for token in tokens:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask


class Bench:
    """Rows over fixed logits, each with a slot of its own; `draw` samples one token for each."""

    def __init__(self, device: Device, logits: npt.NDArray[np.float32], drawing: Drawing) -> None:
        rows, vocab = logits.shape
        self.state = SamplerState(device, rows, vocab, history=64, ring=16)
        self.x = device.array(logits)
        self.slots, self.pos = device.array(np.arange(rows, dtype=np.uint32)), device.zeros((rows,), "u32")
        chain = Chain(device)
        add_sampling(chain, self.state, self.x, self.slots, self.pos, rows, drawing=drawing)
        self.recorded = chain.record()

    def draw(self, params: list[SamplingParams], masks: dict[int, npt.NDArray[np.uint32]]) -> list[int]:
        for slot, p in enumerate(params):
            self.state.set_slot(slot, p, [], 0)
        for slot, mask in masks.items():
            self.state.masks.write(slot, mask)
        self.recorded.submit()
        self.recorded.wait()
        return [self.state.token(slot, 1) for slot in range(len(params))]


@pytest.mark.parametrize("vocab", [40, 1001, 32000])
def test_only_what_a_mask_allows_is_drawn(device: Device, rng: np.random.Generator, vocab: int) -> None:
    """The tokens are those of logits that were masked before; unmasked rows draw what they draw in a plain chain, and
    log-probabilities stay those of the model."""
    logits = (3 * rng.standard_normal((4, vocab))).astype(np.float32)
    allowed = sorted(int(t) for t in rng.choice(vocab, 5, replace=False))
    masks = {0: bits_of(allowed, vocab), 2: bits_of(allowed[:1], vocab)}
    hard = logits.copy()
    for slot, some in ((0, allowed), (2, allowed[:1])):
        hard[slot] = -np.inf
        hard[slot, some] = logits[slot, some]
    masked, plain = Bench(device, logits, Drawing(masked=True, logprobs=True)), Bench(device, hard, Drawing())
    for seed in range(12):
        params = [
            SamplingParams(seed=seed, temperature=2.0, logprobs=1, repeat_penalty=1.2),
            SamplingParams(seed=seed, temperature=0.9, logit_bias={3: 1.0}),
            SamplingParams(seed=seed, temperature=0),
            SamplingParams(seed=seed, temperature=0),
        ]
        drawn = masked.draw(params, masks)
        assert drawn == plain.draw(params, {})
        assert drawn[0] in allowed and drawn[2] == allowed[0]
        top = logits[0].astype(np.float64)
        logp = top - np.log(np.exp(top - top.max()).sum()) - top.max()
        found = masked.state.logprobs(0, 1)
        assert found.logprob == pytest.approx(logp[drawn[0]], abs=1e-4)
        assert found.top[0][0] == int(logits[0].argmax())
    np.testing.assert_array_equal(masked.x.numpy(), logits)  # the model's logits are as they were


def test_nothing_allowed_is_an_error(device: Device) -> None:
    bench = Bench(device, np.zeros((1, 100), np.float32), Drawing(masked=True))
    with pytest.raises(FluxError, match="position 1"):
        bench.draw([SamplingParams(temperature=0)], {0: bits_of([], 100)})
    assert bench.draw([SamplingParams(temperature=0)], {0: bits_of([77], 100)}) == [77]
    assert bench.draw([SamplingParams(temperature=0)], {}) == [0]  # a slot that is set anew has no mask


def test_masks_are_checked(device: Device) -> None:
    masks = TokenMasks(device, 2, 100)
    masks.write(1, np.array([1, 2], np.uint32))
    np.testing.assert_array_equal(masks.masks.view(), [[0] * 4, [1, 2, 0, 0]])
    np.testing.assert_array_equal(masks.masked.view(), [0, 1])
    for wrong in (np.zeros(5, np.uint32), np.zeros(4, np.int64), np.zeros((1, 4), np.uint32)):
        with pytest.raises(InputError, match="expected uint32 of at most 4 words"):
            masks.write(0, wrong)
