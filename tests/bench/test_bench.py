"""The bench command: results are checked before they are timed; tables in every format; the demo model."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from flux_vk import bench
from flux_vk.cli import bench_cases, bench_kernels, bench_model
from flux_vk.gpu import Device, kernels

SMALL = ["kernels", "--shape", "demo", "--rows", "3", "--repeat", "2"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_kernels, "SUBMIT_SECONDS", 0.001)
    monkeypatch.setitem(bench_kernels.COPY_BYTES, "cpu", 1 << 20)
    monkeypatch.setattr(bench_kernels, "COPY_BYTES_GPU", 1 << 20)


@pytest.mark.kernel
def test_every_kernel_is_measured_or_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*SMALL, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    measured = {r["kernel"] for r in found["results"]}
    assert measured | set(bench_cases.UNCASED) == set(kernels.contracts()), err
    for r in found["results"]:
        assert r["time us"] > 0 and r["GB/s"] >= 0 and float(r["error"]) <= 1e-2 and r["of copy %"] > 0
    assert found["facts"]["device"] in out and "checked before timing" in found["note"]


@pytest.mark.kernel
def test_formats(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one = [*SMALL, "--kernel", "rms_norm"]
    assert bench.main([*one, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 1 and rows[0]["kernel"] == "rms_norm" and rows[0]["case"] == "3 x 256"
    path = tmp_path / "table.md"
    assert bench.main([*one, "--format", "md", "--out", str(path), "--warm"]) == 0
    assert capsys.readouterr().out == "" and "| rms_norm | default |" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"]


@pytest.mark.kernel
def test_a_wrong_result_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "flux_vk.cli.bench_cases.reference", lambda name: lambda x, w, eps: np.full(x.shape, 0.25)
    )
    assert bench.main([*SMALL, "--kernel", "rms_norm"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "rms_norm 3 x 256" in err and "not timed" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["kernels", "--kernel", "nonsense"], "nonsense"),
        (["kernels", "--kernel", "sample_pick"], "bench model"),
        (["kernels", "--type", "q9_9"], "q9_9"),
        (["kernels", "--shape", "gpt-5"], "gpt-5"),
        (["kernels", "--kernel", "rms_norm", "--rows", "0"], "no case"),
        (["model", "--pp", "999"], "context"),
        (["model", "absent.gguf"], "absent.gguf"),
    ],
)
def test_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["flight"], ["kernels", "--rows", "x"], ["model", "--repeat", "0"]])
def test_options(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(argv)
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith("flux_vk: ")


@pytest.mark.kernel
def test_demo_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = ["model", "--pp", "8", "--tg", "4", "--repeat", "2", "--check", "--format", "json", "-c", "64"]
    assert bench.main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["test"] for r in found["results"]] == ["pp8", "tg4"]
    assert all(r["tokens/s"] > 1 and r["repeats"] == 2 for r in found["results"])
    assert found["facts"]["file"] > 5_000_000 and "agree" in found["facts"]["check"]


def test_nmse() -> None:
    a = np.array([1.0, 2.0], np.float32)
    assert bench_kernels.nmse(a, a) == 0 and bench_kernels.nmse(a, a * 2) == pytest.approx(0.25)
    assert bench_kernels.nmse(a * np.nan, a) != bench_kernels.nmse(a * np.nan, a)
    ids = np.array([1, 2], np.uint32)
    assert bench_kernels.nmse(ids, ids) == 0 and bench_kernels.nmse(ids, ids + 1) == np.inf


@pytest.mark.kernel
def test_copies_keep_the_contents(device: Device, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((5, 7)).astype(np.float32), rng.integers(0, 9, 3).astype(np.uint32)
    sets = bench_kernels._sets(device, {"a": device.array(a), "b": device.array(b)})
    assert len(sets) == 32
    for one in (sets[0], sets[-1]):
        np.testing.assert_array_equal(one["a"].numpy(), a)
        np.testing.assert_array_equal(one["b"].numpy(), b)


def test_memory_of_this_process() -> None:
    found = bench_model.memory()
    assert 0 < found["resident"] <= found["peak"]
