"""`bench model`, `scale`, `dispatch` and `tune` on the demo model: tables, counts per token, depths, streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk import bench
from flux_vk.cli import bench_bytes, bench_dispatch, bench_fill, bench_model, bench_scale
from flux_vk.engine import Model, load
from flux_vk.gpu import Chain, Device
from flux_vk.gpu.record import Counts

QUICK = ["--repeat", "2", "--format", "json"]


def found(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert bench.main([*argv, *QUICK]) == 0, capsys.readouterr().err
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    return read


@pytest.mark.kernel
def test_demo_model(capsys: pytest.CaptureFixture[str]) -> None:
    told = found(capsys, "model", "--pp", "8", "--tg", "4", "--depth", "0,40", "--check", "-c", "64")
    prompt, flat, deep = told["results"]
    assert [r["test"] for r in told["results"]] == ["pp8", "tg4", "tg4 @ d40"]
    assert all(r["tokens/s"] > 0 and r["±"] >= 0 and r["repeats"] == 2 for r in told["results"])
    assert prompt["depth"] is None and prompt["submits"] is None and prompt["note"] == flat["note"] == ""
    assert deep["note"] == "cache filled with random keys" and deep["depth"] == 40
    for r in (flat, deep):
        assert r["submits"] == 1 and r["recorded"] == "never" and r["dispatches"] > r["barriers"] > 0
    assert told["facts"]["file"] > 5_000_000 and "agree" in told["facts"]["check"]


@pytest.mark.kernel
def test_prompts_as_filling(capsys: pytest.CaptureFixture[str]) -> None:
    told = found(capsys, "model", "--pp", "none", "--tg", "2", "--depth", "40", "--fill", "prompt", "-c", "64")
    assert [(r["test"], r["note"]) for r in told["results"]] == [("tg2 @ d40", "")]


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Iterator[Model]:
    with load(demo_model, context=128, sequences=4, kv_tokens=512) as m:
        yield m


@pytest.mark.kernel
def test_random_cache_is_used_as_if_it_were_a_prompt(model: Model) -> None:
    """Sequences begin where the marked tokens end; afterwards they begin at nothing again, and text is right again."""
    from flux_vk.decode import SamplingParams

    ids, greedy = list(range(300, 340)), SamplingParams(temperature=0.0)

    def tokens() -> list[int]:
        generation = model.start(ids, greedy, max_tokens=6)
        return [t.id for t in generation]

    want = tokens()
    bench_fill.random_cache(model, 1)
    for cache in (*model.runner.buffers.kcache, *model.runner.buffers.vcache):
        values = cache.numpy().astype(np.float32)
        assert np.isfinite(values).all() and 0.9 < values.std() < 1.1
    with bench_fill.marked(model, ids[:-1]):
        sequence = model.runner.open_sequence()
        assert sequence.length == 39 and len(sequence.table.entries) == 2
        model.runner.close_sequence(sequence)
        assert tokens() != want, "the random keys were not looked at"
    assert tokens() == want
    assert model.runner.pool.n_free == model.runner.pool.n_pages


@pytest.mark.kernel
def test_streams_are_timed_together(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever decodes them: tokens behind the last stream's first one count, and all of them must come."""

    def start_many(self: Model, prompts: list[list[int]], params: Any, *, max_tokens: int) -> Iterator[Any]:
        streams = [iter(self.start(p, params, max_tokens=max_tokens)) for p in prompts]
        for _ in range(max_tokens):
            yield from [(i, next(s)) for i, s in enumerate(streams)]

    monkeypatch.setattr(Model, "start_many", start_many)
    setup = bench_model.Setup((), (4,), depths=(0,), batches=(1, 3), repeat=2)
    one, three = bench_model.run(model, setup)
    assert (one.name, three.name, three.batch) == ("tg4", "tg4 x3", 3)
    assert three.bytes == one.bytes and three.rate > 0 and len(three.rates) == 2

    def short(self: Model, prompts: list[list[int]], params: Any, *, max_tokens: int) -> Iterator[Any]:
        yield from start_many(self, prompts, params, max_tokens=max_tokens - 1)

    monkeypatch.setattr(Model, "start_many", short)
    with pytest.raises(bench_model.Unequal, match=r"expected 4 of each of 3"):
        bench_model.run(model, setup)


@pytest.mark.kernel
def test_streams_that_wait_for_each_other_are_not_timed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_many(self: Model, prompts: list[list[int]], params: Any, *, max_tokens: int) -> Iterator[Any]:
        for i, prompt in enumerate(prompts):
            yield from ((i, token) for token in self.start(prompt, params, max_tokens=max_tokens))

    monkeypatch.setattr(Model, "start_many", start_many)
    with pytest.raises(bench_model.Unequal, match="not decoded together"):
        bench_model.run(model, bench_model.Setup((), (4,), batches=(2,), repeat=1))


@pytest.mark.kernel
def test_room_for_all_streams(demo_model: Path) -> None:
    """Each has the pages it needs and one more."""
    setup = bench_model.Setup((), (8,), depths=(0, 100), batches=(1, 4))
    with bench_model.opened(demo_model, None, setup, None, "f16") as m:
        assert m.context >= setup.context == 109 and m.runner.slots.n == 4
        assert m.runner.pool.n_pages >= 4 * 5


@pytest.mark.kernel
def test_streams_of_the_demo_model(capsys: pytest.CaptureFixture[str]) -> None:
    """One submit a step, and nothing recorded again, for any number of streams."""
    told = found(capsys, "model", "--pp", "none", "--tg", "4", "--depth", "0,100", "--batch", "1,3,8")
    assert [(r["depth"], r["batch"]) for r in told["results"]] == [(d, b) for d in (0, 100) for b in (1, 3, 8)]
    assert all(r["submits"] == 1 and r["recorded"] == "never" for r in told["results"]), told["results"]


@pytest.mark.kernel
def test_bytes_of_a_step(model: Model) -> None:
    """The demo model ties its head to the embedding; its weights are nearly the whole file."""
    weights = bench_bytes.weight_bytes(model)
    assert 0.9 * 5_632_896 < weights < 1.1 * 5_632_896
    c = model.config
    assert bench_bytes.kv_bytes(model, 10) == 10 * 2 * 2 * c.kv_width * c.n_layers
    assert bench_bytes.step_bytes(model, 10, 3) == weights + 3 * bench_bytes.kv_bytes(model, 10)


def test_prediction_follows_bytes() -> None:
    first = bench_model.Measured("tg4", 1, 0, (10.0,), (0.1,), Counts(), bytes=100)
    deep = bench_model.Measured("tg4", 1, 9, (4.0,), (0.1,), Counts(), bytes=200)
    wide = bench_model.Measured("tg4", 4, 0, (30.0,), (0.1,), Counts(), bytes=100)
    assert bench_scale.by_bytes(deep, first) == 5.0
    assert bench_scale.by_bytes(wide, first) == 40.0


def test_depths_beyond_the_context_are_cut(demo_model: Path) -> None:
    assert bench_scale.fitting(demo_model, [0, 64, 4096, 32768], 16) == [0, 64, 256 - 17]


@pytest.mark.kernel
def test_scale(capsys: pytest.CaptureFixture[str]) -> None:
    told = found(capsys, "scale", "--depth", "0,64", "--batch", "1", "--tg", "3")
    assert [(r["batch"], r["depth"]) for r in told["results"]] == [(1, 0), (1, 64)]
    first, deep = told["results"]
    assert first["reached %"] == pytest.approx(100) and deep["MB per token"] > first["MB per token"]
    assert all(r["GB/s"] > 0 and r["of copy %"] > 0 for r in told["results"])


@pytest.mark.kernel
def test_dispatch(capsys: pytest.CaptureFixture[str]) -> None:
    told = found(capsys, "dispatch", "--count", "20")
    by_name = {r["what"]: r for r in told["results"]}
    assert by_name["chain of 20, dependent"]["barriers"] == 19
    assert by_name["chain of 20, independent"]["barriers"] == 0
    assert by_name["chain of 20, independent, barriers all the same"]["barriers"] == 19
    assert all(r["us"] > 0 for r in told["results"] if "chain" in r["what"] or "submit" in r["what"])
    assert {"a barrier", "each dependent dispatch", "each independent dispatch"} <= set(by_name)


@pytest.mark.kernel
def test_dispatch_chains_are_what_they_are_called(device: Device) -> None:
    for chain, last in ((bench_dispatch._dependent(device, 5), 5), (bench_dispatch._independent(device, 5), 1)):
        ones = chain.steps[0].buffers["b"]
        ones.write(np.ones(ones.shape, np.float32))
        chain.run()
        assert (chain.steps[-1].buffers["y"].numpy() == last).all(), chain.name


@pytest.mark.kernel
def test_device_counts(device: Device) -> None:
    x, y = device.zeros((4,)), device.zeros((4,))
    chain = Chain(device).copy(src=x, dst=y).add(a=y.reshape(1, 4), b=y.reshape(1, 4), y=x.reshape(1, 4))
    before = Counts(**vars(device.counts))
    step = chain.record()
    for _ in range(3):
        step.submit()
        step.wait()
    assert device.counts - before == Counts(recordings=1, submits=3, dispatches=3, barriers=3)


@pytest.mark.kernel
def test_tune(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_VK_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("flux_vk.cli.bench_tune.matrices", lambda model: [("q8_0", 32, 256)])
    told = found(capsys, "tune", "--repeat", "1")
    assert [r["product"].split()[-1] for r in told["results"]] == ["one", "many"]
    files = list(tmp_path.glob("*.tuning.json"))
    assert len(files) == 1 and str(files[0]) in told["note"]
    assert bench.main(["tune", "--forget"]) == 0
    assert "forgot 2" in capsys.readouterr().out and not files[0].exists()


def test_memory_of_this_process() -> None:
    used = bench_model.memory()
    assert 0 < used["resident"] <= used["peak"]
