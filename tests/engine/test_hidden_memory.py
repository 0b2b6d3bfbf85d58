"""A device whose memory the host cannot see, with two decode steps in flight: what a discrete GPU is to the engine.

Played by whatever device there is: `Hidden` keeps back the mappings of its device memory, so that every upload, page
table and clearing of the cache goes through transfers.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import flux_vk as fx
from flux_vk.engine.model import Model
from flux_vk.gpu import Device
from flux_vk.gpu.buffer import Memory

JOBS = [("It was in July", 1), ("Natasha looked at him and" * 9, 2), ("The commander", 3), ("Prince", 4)]


class Hidden(Device):
    """Device memory without a host view, on a device that calls itself discrete."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = "discrete"

    @property
    def family(self) -> str:
        return "cpu"  # the kernels of the plain device, for the same bits

    def allocate(self, nbytes: int, kind: str = "device") -> Memory:
        memory = super().allocate(nbytes, kind)
        if kind == "device":
            memory.host = None
        return memory


@pytest.fixture(scope="module")
def hidden(demo_model: Path) -> Iterator[Model]:
    with fx.load(demo_model, device=Hidden(), kv_type="f32", context=128, kv_tokens=512) as m:
        assert m.runner.depth == 2 and m.runner.buffers.kcache[0].memory.host is None
        yield m


@pytest.fixture(scope="module")
def plain(device: Device, demo_model: Path) -> Iterator[Model]:
    if device.family != "cpu":
        pytest.skip(f"{device.name} chooses other kernels; the comparison is bit by bit")
    with fx.load(demo_model, device=device, kv_type="f32", context=128, kv_tokens=512) as m:
        yield m


def run(model: Model, job: tuple[str, int], n: int | None = 20) -> tuple[list[int], list[float | None], str | None]:
    params = fx.SamplingParams(
        temperature=0.8, seed=job[1], repeat_penalty=1.1, logprobs=1, logit_bias={2: float("-inf")}
    )
    g = model.start(job[0], params, max_tokens=n)
    tokens = list(g)
    return g.tokens, [t.logprob for t in tokens], g.finish_reason


def test_same_tokens_alone_and_in_threads(hidden: Model, plain: Model) -> None:
    want = [run(plain, job) for job in JOBS]
    assert [run(hidden, job) for job in JOBS] == want
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: run(hidden, job), JOBS)) == want


def test_steps_ahead_end_with_the_context(hidden: Model, plain: Model) -> None:
    found = run(hidden, JOBS[0], None)
    assert found == run(plain, JOBS[0], None)
    assert found[2] == "context"


def test_steps_ahead_are_forgotten(hidden: Model, plain: Model) -> None:
    """A stop string or a text that is left ends with a step in flight; the session goes on from the right place."""
    whole = "".join(plain.generate(JOBS[0][0], max_tokens=30, temperature=0))
    stop = whole[20:24]
    for turn in range(3):
        with hidden.session() as s:
            first = hidden.start(JOBS[0][0], fx.SamplingParams(temperature=0), stop=stop, session=s)
            for i, _ in enumerate(first):
                if turn and i == 2 * turn:
                    first.close()
                    break
            if not turn:
                assert first.text == whole[: whole.index(stop)] and first.finish_reason == "stop"
            again = hidden.start(JOBS[0][0], fx.SamplingParams(temperature=0), max_tokens=30, session=s)
            list(again)
            assert again.text == whole


def test_logits_and_shift(hidden: Model, plain: Model, demo_model: Path) -> None:
    ids = [1, *range(100, 220)]
    assert (hidden.logits(ids) == plain.logits(ids)).all()
    options = {"kv_type": "f32", "context": 96, "context_shift": True}
    found = []
    for device in (hidden.device, plain.device):
        with fx.load(demo_model, device=device, **options) as m:  # type: ignore[arg-type]
            found.append((run(m, JOBS[0], 150)[0], run(m, JOBS[1], 60)[0]))
    assert found[0] == found[1]
