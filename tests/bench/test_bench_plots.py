"""--plot: pictures are written, whole or not at all; without matplotlib the extra is named before anything is timed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from flux_vk import bench
from flux_vk.cli import bench_plots
from flux_vk.cli.bench_kernels import Result
from flux_vk.cli.bench_plots import Point
from flux_vk.errors import InputError

PNG = b"\x89PNG\r\n\x1a\n"
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is missing: pip install 'flux_vk[plots]'"
)


def result(name: str, seconds: float, nbytes: float, flops: float) -> Result:
    return Result(name, "default", "1 x 1", seconds, 0.1, None, nbytes, flops, 1e10, 1e11, 0.0, 1, 1)


@needs_matplotlib
@pytest.mark.kernel
def test_roofline_of_kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "roof.png"
    argv = ["kernels", "--shape", "demo", "--rows", "2", "--repeat", "1", "--kernel", "rms_norm", "--kernel", "add"]
    assert bench.main([*argv, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(PNG) and [p.name for p in tmp_path.iterdir()] == ["roof.png"]
    assert "rms_norm" in capsys.readouterr().out


@needs_matplotlib
@pytest.mark.kernel
def test_scaling_of_a_model(tmp_path: Path) -> None:
    for command in (["model", "--pp", "none", "--tg", "2"], ["scale", "--batch", "1", "--tg", "2"]):
        path = tmp_path / f"{command[0]}.svg"
        assert bench.main([*command, "--depth", "0,32,64", "--repeat", "1", "--plot", str(path)]) == 0
        assert "<svg" in path.read_text()


@needs_matplotlib
def test_kernels_without_arithmetic_and_many_names(tmp_path: Path) -> None:
    many = [result(f"k{i}", 1e-3, 1e6, 1e6 * i) for i in range(40)]
    for results in (many, []):
        bench_plots.roofline(tmp_path / "a.png", results, 1e10, 1e11, "title")
        assert (tmp_path / "a.png").read_bytes().startswith(PNG)


@needs_matplotlib
def test_panels(tmp_path: Path) -> None:
    points = [Point("m", x, 10.0 / (1 + x), 0.1, 9.0 / (1 + x)) for x in (0, 1, 4)]
    bench_plots.scaling(tmp_path / "a.png", {"depth": points, "streams": points, "none": []}, "title")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    with pytest.raises(InputError, match="nothing to draw"):
        bench_plots.scaling(tmp_path / "b.png", {"none": []}, "title")


@needs_matplotlib
@pytest.mark.parametrize(("name", "said"), [("a.docx", "not supported"), ("missing/a.png", "cannot be written")])
def test_files_that_cannot_be(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        bench_plots.roofline(tmp_path / name, [], 1e10, 1e11, "title")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else there(name))
    for command in ("kernels", "model", "scale"):
        assert bench.main([command, "--plot", str(tmp_path / "a.png")]) == 2
        out, err = capsys.readouterr()
        assert out == "" and "flux_vk[plots]" in err and err.count("\n") == 1
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"flux_vk\[plots\]"):
        bench_plots.roofline(tmp_path / "a.png", [], 1e10, 1e11, "title")
