"""`bench kernels` and what all subcommands share: every contract measured, results checked first, tables, options."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flux_vk import bench
from flux_vk.cli import bench_cases, bench_kernels, bench_yardsticks, kernel_cases
from flux_vk.gpu import Device, kernels

SMALL = ["kernels", "--shape", "demo", "--rows", "3", "--repeat", "2"]


@pytest.mark.parametrize("shape", ["demo", "qwen2.5-0.5b", "llama-3.1-8b"])
def test_every_contract_has_a_case(shape: str) -> None:
    missing = bench_cases.missing(bench_cases.SHAPES[shape])
    assert not missing, (
        f"no benchmark case for {', '.join(missing)}: yield a Case for each from a module of flux_vk/cli/kernel_cases/ "
        "(a new file is found by itself) or from flux_vk/cli/bench_cases.py; see docs/adding-a-kernel.md"
    )


def test_a_kernel_without_a_case_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> Iterator[bench_cases.Case]:
        yield from ()

    monkeypatch.setattr(kernel_cases, "cases", none)
    assert "sort" in bench_cases.missing(bench_cases.SHAPES["demo"])


@pytest.mark.kernel
def test_every_kernel_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """On this device, from make to table; one type of weights stands for all."""
    assert bench.main([*SMALL, "--type", "q8_0", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    left_out = {line.split()[1] for line in err.splitlines() if "left out" in line}
    assert {r["kernel"] for r in found["results"]} | left_out == set(kernels.contracts()), err
    for r in found["results"]:
        assert r["time us"] > 0 and r["GB/s"] >= 0 and r["of copy %"] > 0 and r["of FMA %"] >= 0 and r["copies"] >= 1
        assert float(r["error"]) <= 1e-2
    assert found["facts"]["device"] in out and "checked before timing" in found["note"]
    assert found["facts"]["copy_GB_per_s"] > 0 and found["facts"]["fma_GFLOP_per_s"] > 0


@pytest.mark.kernel
def test_formats(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one = [*SMALL, "--kernel", "rms_norm"]
    assert bench.main([*one, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 1 and rows[0]["kernel"] == "rms_norm" and rows[0]["case"] == "3 x 256"
    assert int(rows[0]["copies"]) > 1, "the same memory again and again"
    path = tmp_path / "table.md"
    assert bench.main([*one, "--format", "md", "--out", str(path), "--warm"]) == 0
    text = path.read_text()
    assert capsys.readouterr().out == "" and "| rms_norm | default |" in text and "which caches may hold" in text
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"]


@pytest.mark.kernel
def test_a_wrong_result_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "flux_vk.cli.bench_cases.reference", lambda name: lambda x, w, eps: np.full(x.shape, 0.25)
    )
    one = [*SMALL, "--kernel", "rms_norm"]
    assert bench.main(one) == 1
    out, err = capsys.readouterr()
    assert out == "" and "rms_norm 3 x 256" in err and "not timed" in err
    assert bench.main([*one, "--no-check", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["results"][0]["error"] is None and found["facts"]["checked"] is False


@pytest.mark.kernel
def test_a_wrong_yardstick_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "flux_vk.cli.kernel_cases.yardstick.reference", lambda name: lambda x, **_: np.full(x.shape, 0.25)
    )
    assert bench.main([*SMALL, "--kernel", "rms_norm"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "fma_peak" in err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["kernels", "--kernel", "nonsense"], "nonsense"),
        (["kernels", "--type", "q9_9"], "q9_9"),
        (["kernels", "--shape", "gpt-5"], "gpt-5"),
        (["kernels", "--kernel", "rms_norm", "--rows", "none"], "no case"),
        (["model", "--pp", "999"], "context"),
        (["model", "absent.gguf"], "absent.gguf"),
        (["peers", "absent.gguf"], ""),
        (["scale", "absent.gguf", "--batch", "1"], "absent.gguf"),
    ],
)
def test_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "argv",
    [
        [], ["flight"], ["kernels", "--rows", "x"], ["kernels", "--rows", "0"], ["model", "--repeat", "0"],
        ["model", "--tg", "1"], ["model", "--batch", "0"], ["scale", "--depth", "-1"], ["peers", "--peer", "torch"],
    ],
)  # fmt: skip
def test_options(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(argv)
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith("flux_vk: ")


def test_nmse() -> None:
    a = np.array([1.0, 2.0], np.float32)
    assert bench_kernels.nmse(a, a) == 0 and bench_kernels.nmse(a, a * 2) == pytest.approx(0.25)
    assert bench_kernels.nmse(a * np.nan, a) != bench_kernels.nmse(a * np.nan, a)
    ids = np.array([1, 2], np.uint32)
    assert bench_kernels.nmse(ids, ids) == 0 and bench_kernels.nmse(ids, ids + 1) == np.inf


@pytest.mark.kernel
def test_copies_keep_the_contents(device: Device, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((5, 7)).astype(np.float32), rng.integers(0, 9, 3).astype(np.uint32)
    sets = bench_kernels.copies(device, {"a": device.array(a), "b": device.array(b)}, 40, 1 << 20)
    assert len(sets) == 40
    for one in (sets[0], sets[-1]):
        np.testing.assert_array_equal(one["a"].numpy(), a)
        np.testing.assert_array_equal(one["b"].numpy(), b)
    whole = {"a": device.array(a)}
    assert len(bench_kernels.copies(device, whole, 40, 3 * a.nbytes)) == 3, "no more than the pool has room for"
    assert len(bench_kernels.copies(device, whole, 40, 0)) == 1


@pytest.mark.kernel
def test_the_copy_moves_its_pool(device: Device) -> None:
    copy = bench_yardsticks.Copy(device)
    assert copy.pool == bench_yardsticks.pool_bytes(device) and 2 * copy.nbytes == copy.pool
    copy.sample()
    assert copy.rate() == 2 * copy.nbytes / copy.samples[0] and "MiB" in str(copy)


def test_last_cache() -> None:
    assert bench_yardsticks.last_cache_bytes() >= 0
