"""Sampling as a chain: per-slot state, llama.cpp's sampler vectors, penalties, log-probabilities, replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.decode import Drawing, Logprobs, SamplerState, SamplingParams, add_sampling
from flux_vk.errors import FluxError, InputError
from flux_vk.gpu import Chain, Device, Recorded
from flux_vk.gpu.reference import sampling as definition

pytestmark = pytest.mark.kernel
F32 = npt.NDArray[np.float32]
OPEN = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


class Bench:
    """One row per slot over fixed logits; `step` may be called again and again."""

    def __init__(self, device: Device, logits: F32, history: int = 64, ring: int = 16, **options: Any) -> None:
        self.logits = logits
        rows, vocab = logits.shape
        self.state = SamplerState(device, rows, vocab, history=history, ring=ring)
        self.x = device.array(logits)
        self.slots = device.array(np.arange(rows, dtype=np.uint32))
        self.chain = Chain(device)
        # The position of a row is what the previous step left in slot_pos: as in a decode loop.
        self.position = device.zeros((rows,), "u32")
        self.chain.copy(src=self.state.slot_pos, dst=self.position)
        options = {"drawing": Drawing(logprobs=True), **options}
        add_sampling(self.chain, self.state, self.x, self.slots, self.position, rows, **options)
        self.recorded: Recorded = self.chain.record()

    def set(
        self, params: Sequence[SamplingParams], history: Sequence[Sequence[int]] | None = None, pos: int = 0
    ) -> None:
        for slot, p in enumerate(params):
            self.state.set_slot(slot, p, history[slot] if history else [], pos)

    def step(self) -> None:
        self.recorded.submit()
        self.recorded.wait()

    def tokens(self, position: int) -> list[int]:
        return [self.state.token(slot, position) for slot in range(len(self.logits))]


def expected_token(logits: F32, p: SamplingParams, position: int, history: Sequence[int] = ()) -> int | None:
    adjusted = definition.adjust_row(
        logits, logit_bias=p.logit_bias, history=history, repeat_last_n=p.repeat_last_n,
        repeat_penalty=p.repeat_penalty, frequency_penalty=p.frequency_penalty, presence_penalty=p.presence_penalty,
    )  # fmt: skip
    return definition.pick_row(
        adjusted, inverse_temperature=1 / p.temperature if p.temperature else 0, top_k=p.top_k,
        top_p_share=None if p.top_p >= 1 else max(int(p.top_p * 2**32) - 4096, 0),
        ln_min_p=float(np.log(p.min_p)) if p.min_p else -np.inf, seed=p.resolved_seed, position=position,
    )  # fmt: skip


MIXED = [
    SamplingParams(temperature=0, seed=1),
    SamplingParams(temperature=0, repeat_penalty=1.5, repeat_last_n=5, seed=1),
    SamplingParams(seed=11),
    SamplingParams(seed=11, top_k=0, top_p=0.9, min_p=0, temperature=1.3, frequency_penalty=0.7, presence_penalty=0.2),
    SamplingParams(seed=2**63 + 5, temperature=1, logit_bias={3: 4.0, 8: -np.inf, 17: 2.5}, repeat_penalty=1.2, **OPEN),
    SamplingParams(seed=5, temperature=2, top_k=300, top_p=0.99, min_p=0.001, repeat_penalty=0.7, repeat_last_n=64),
]


@pytest.mark.parametrize("vocab", [40, 1001, 32000])
@pytest.mark.parametrize("exact", [False, True])
def test_loop_is_that_of_the_reference(device: Device, rng: np.random.Generator, vocab: int, exact: bool) -> None:
    """Twelve replays of one recording, six rows with their own parameters; the chain carries position and history."""
    logits = (3 * rng.standard_normal((len(MIXED), vocab))).astype(np.float32)
    bench = Bench(device, logits, history=64, ring=16, exact=exact)
    history = [rng.integers(vocab, size=n).tolist() for n in (0, 3, 10, 64, 80, 70)]
    bench.set(MIXED, history, pos=100)
    for position in range(101, 113):
        bench.step()
        got = bench.tokens(position)
        want = [expected_token(logits[i], p, position, history[i]) for i, p in enumerate(MIXED)]
        assert got == want, f"position {position}"
        for slot, token in enumerate(got):
            history[slot].append(token)
    assert bench.state.slot_token.numpy().tolist() == got
    assert bench.state.slot_pos.numpy().tolist() == [112] * len(MIXED)
    after = bench.x.numpy()
    np.testing.assert_array_equal(after.view(np.uint32), logits.view(np.uint32), "not as the model left them")


def test_same_seed_same_tokens(device: Device, rng: np.random.Generator) -> None:
    logits = np.repeat(rng.standard_normal((1, 500)).astype(np.float32), 3, axis=0)
    bench = Bench(device, logits, ring=64)
    runs = []
    for _ in range(2):
        bench.set([SamplingParams(temperature=1.5, seed=s) for s in (4, 4, 5)])
        for _ in range(40):
            bench.step()
        runs.append([bench.tokens(position) for position in range(1, 41)])
    assert runs[0] == runs[1]
    columns = list(zip(*runs[0], strict=True))
    assert columns[0] == columns[1] and columns[0] != columns[2]
    assert len(set(columns[0])) > 10


def support(
    device: Device, p: Sequence[float], settings: dict[str, Any], history: Sequence[int] = (), rows: int = 4096
) -> npt.NDArray[np.float64]:
    """Frequencies of tokens over many slots with different seeds; logits are ln p."""
    logits = np.repeat(np.log(np.array([p], np.float32)), rows, axis=0)
    bench = Bench(device, logits, ring=1)
    bench.set([SamplingParams(seed=s, **settings) for s in range(rows)], [history] * rows)
    bench.step()
    return np.bincount(bench.tokens(1), minlength=len(p)) / rows


# llama.cpp's tests/test-sampling.cpp (MIT), its probabilities after each sampler.
RISING, FLAT = [0.1, 0.2, 0.3, 0.4], [0.2] * 5
VECTORS: list[tuple[list[float], dict[str, Any], list[int], list[float]]] = [
    (RISING, {"top_k": 1}, [], [0, 0, 0, 1]),
    (RISING, {"top_k": 3}, [], [0, 0.22222, 0.33333, 0.44444]),
    (RISING, {"top_k": 4}, [], RISING),
    (RISING, {"top_k": 0}, [], RISING),
    (RISING, {"top_p": 0.0}, [], [0, 0, 0, 1]),
    (RISING, {"top_p": 0.7}, [], [0, 0, 0.428571, 0.571429]),
    (RISING, {"top_p": 0.8}, [], [0, 0.22222, 0.33333, 0.44444]),
    (RISING, {"top_p": 1.0}, [], RISING),
    (RISING, {"min_p": 0.24}, [], RISING),
    (RISING, {"min_p": 0.26}, [], [0, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9]),
    (RISING, {"min_p": 0.49}, [], [0, 0.2 / 0.9, 0.3 / 0.9, 0.4 / 0.9]),
    (RISING, {"min_p": 0.51}, [], [0, 0, 0.3 / 0.7, 0.4 / 0.7]),
    (RISING, {"min_p": 0.74}, [], [0, 0, 0.3 / 0.7, 0.4 / 0.7]),
    (RISING, {"min_p": 0.76}, [], [0, 0, 0, 1]),
    (RISING, {"min_p": 1.0}, [], [0, 0, 0, 1]),
    (FLAT, {"repeat_penalty": 50.0}, [0], [0, 0.25, 0.25, 0.25, 0.25]),
    (FLAT, {"repeat_penalty": 50.0}, [0, 1, 2], [0, 0, 0, 0.5, 0.5]),
    (FLAT, {"repeat_penalty": 50.0}, [0, 1, 2, 0, 0], [0, 0, 0, 0.5, 0.5]),
    (FLAT, {"frequency_penalty": 5.0, "presence_penalty": 5.0}, [0], [0.000011, *[0.249997] * 4]),
    (FLAT, {"frequency_penalty": 5.0, "presence_penalty": 5.0}, [0, 1, 2], [*[0.000023] * 3, *[0.499966] * 2]),
]


@pytest.mark.parametrize(("p", "settings", "history", "want"), VECTORS)
def test_llama_cpp_vectors_by_definition(
    p: list[float], settings: dict[str, Any], history: list[int], want: list[float]
) -> None:
    """The float64 distribution that the draws are tested against agrees with llama.cpp's figures."""
    chosen = {**OPEN, **settings}
    penalties = {k: chosen.pop(k) for k in list(chosen) if k.endswith("penalty")}
    logits = definition.adjust_row(np.log(np.array(p, np.float32)), history=history, **penalties)
    np.testing.assert_allclose(definition.distribution(logits, temperature=1.0, **chosen), want, atol=2e-5)


@pytest.mark.parametrize("i", [1, 4, 5, 6, 10, 13, 16, 19])
def test_llama_cpp_vectors_on_the_device(device: Device, i: int) -> None:
    p, settings, history, want = VECTORS[i]
    rows = 1024
    got = support(device, p, {"temperature": 1.0, **OPEN, **settings}, history, rows)
    assert (got[np.array(want) == 0] == 0).all()
    deviation = np.sqrt(np.array(want) * (1 - np.array(want)) / rows)
    assert (np.abs(got - want) < 5 * deviation + 0.002).all(), f"{got} instead of {want}"


@pytest.mark.parametrize("vocab", [30, 5000, 151936])
def test_logprobs(device: Device, rng: np.random.Generator, vocab: int) -> None:
    """Those of the model, whatever bias, penalties and temperature do to the draw."""
    logits = (4 * rng.standard_normal((4, vocab))).astype(np.float32)
    bench = Bench(device, logits)
    bias = {int(np.argsort(logits[2])[0]): 100.0}
    settings: list[dict[str, Any]] = [
        {"logprobs": 5}, {"logprobs": 20, "repeat_penalty": 3.0, "temperature": 2.0},
        {"logprobs": 1, "logit_bias": bias}, {"logprobs": 0},
    ]  # fmt: skip
    bench.set([SamplingParams(seed=3, **s) for s in settings], [list(range(10))] * 4, pos=6)
    bench.step()
    for slot in range(3):
        x = logits[slot].astype(np.float64)
        logp = x - x.max() - np.log(np.exp(x - x.max()).sum())
        got = bench.state.logprobs(slot, 7)
        assert isinstance(got, Logprobs) and got.token == bench.tokens(7)[slot]
        np.testing.assert_allclose(got.logprob, logp[got.token], atol=5e-6)
        order = np.argsort(-x, kind="stable")[: settings[slot]["logprobs"]]
        assert [token for token, _ in got.top] == order.tolist()
        np.testing.assert_allclose([value for _, value in got.top], logp[order], atol=5e-6)
    assert bench.tokens(7)[2] in bias
    assert bench.state.logprobs(3, 7).top == ()


def test_chain_without_logprobs(device: Device, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((2, 300)).astype(np.float32)
    bench = Bench(device, logits, drawing=Drawing())
    bench.set([SamplingParams(seed=1, logprobs=3), SamplingParams(seed=2)])
    bench.step()
    assert bench.tokens(1) == [expected_token(logits[s], SamplingParams(seed=s + 1), 1) for s in range(2)]
    assert bench.state.logprobs(0, 1).top == ()


def test_no_finite_logits_is_an_error(device: Device) -> None:
    logits = np.full((2, 100), np.nan, np.float32)
    logits[1] = 1
    bench = Bench(device, logits)
    bench.set([SamplingParams(temperature=0, logprobs=2)] * 2, pos=4)
    bench.step()
    bench.step()
    for position in (5, 6):
        with pytest.raises(FluxError, match="no finite logits for position 5"):
            bench.state.token(0, position)
        assert bench.state.token(1, position) == 0
    bench.set([SamplingParams(temperature=0)] * 2)
    assert bench.state.token(0, 0) == 0, "a slot starts afresh"


def test_many_rows_are_split(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_vk.decode.sampling._MAX_ROWS", 64)
    logits = rng.standard_normal((150, 90)).astype(np.float32)
    bench = Bench(device, logits)
    params = [SamplingParams(seed=s, temperature=1) for s in range(150)]
    bench.set(params)
    bench.step()
    assert bench.tokens(1) == [expected_token(logits[s], params[s], 1) for s in range(150)]
    assert sum(step.name == "sample_pick" for step in bench.chain.steps) == 3


def test_refused(device: Device) -> None:
    state = SamplerState(device, 2, 100, history=16)
    for slot, params, history, words in [
        (2, SamplingParams(), [], "slot is 2"),
        (0, SamplingParams(repeat_penalty=2, repeat_last_n=17), [], "repeat_last_n is 17"),
        (0, SamplingParams(logit_bias={100: 1.0}), [], "token 100"),
        (0, SamplingParams(), [5, 100], "5 to 100"),
    ]:
        with pytest.raises(InputError, match=words):
            state.set_slot(slot, params, history, 0)
    with pytest.raises(InputError, match="vocab is 262145; expected 1 to 262144"):
        SamplerState(device, 1, (1 << 18) + 1)
    rows = device.zeros((2,), "u32")
    with pytest.raises(InputError, match="rows of 100"):
        add_sampling(Chain(device), state, device.zeros((2, 99)), rows, rows, 2)
    with pytest.raises(InputError, match="n = 3"):
        add_sampling(Chain(device), state, device.zeros((2, 100)), rows, rows, 3)
