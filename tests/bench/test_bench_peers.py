"""`bench peers` with made-up programs on PATH: found, asked, compared; and what is said when there is none."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from flux_vk import bench
from flux_vk.cli import peer_worker, peers
from flux_vk.errors import FluxError

BENCH = """#!/bin/sh
case "$*" in *"-m broken"*) echo "cannot open broken" >&2; exit 3;; esac
cat <<'END'
[{"n_prompt": 8, "n_gen": 0, "avg_ts": 80.5, "backends": "%s", "n_gpu_layers": 99},
 {"n_prompt": 0, "n_gen": 4, "avg_ts": 20.25, "backends": "%s", "n_gpu_layers": 99}]
END
"""
CLI = """#!/bin/sh
echo "ggml_vulkan: Found 1 Vulkan devices:" >&2
echo "common_perf_print: prompt eval time =  100.00 ms /  8 tokens ( 12.50 ms per token,  80.00 tokens per second)" >&2
echo "common_perf_print:        eval time =  200.00 ms /  4 runs   ( 50.00 ms per token,  20.00 tokens per second)" >&2
"""
ASK = peers.Ask(Path("m.gguf"), 8, 4, 2, 99)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH but for the system's own tools, and no bindings."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in peers.BINDINGS else there(name))
    return folder


def put(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_nothing_is_found(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["peers"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    for name in peers.NAMES:
        assert name in err
    assert bench.main(["peers", "--peer", "xllamacpp"]) == 2
    assert "--peer xllamacpp" in capsys.readouterr().err


@pytest.mark.kernel
def test_compared_with_a_program(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(programs, "llama-bench", BENCH % ("Vulkan", "Vulkan"))
    assert bench.main(["peers", "--pp", "8", "--tg", "4", "--repeat", "2", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [r["test"] for r in told["results"]] == ["pp8", "tg4"]
    for r, theirs in zip(told["results"], (80.5, 20.25), strict=True):
        assert r["peer"] == "llama-bench" and r["peer tokens/s"] == theirs and r["peer on"] == "Vulkan"
        assert r["peer spread %"] == 0 and r["flux_vk"] > 0 and r["on"] == told["facts"]["device"]
        assert r["ratio"] == pytest.approx(r["flux_vk"] / theirs, rel=0.5)
    assert str(programs) in told["facts"]["peer"] and "another comparison" not in told["note"]


@pytest.mark.parametrize(("backends", "on"), [("Vulkan", "Vulkan"), ("CPU", "CPU"), ("CUDA,BLAS", "CUDA"), ("", "CPU")])
def test_what_llama_bench_ran_on(programs: Path, backends: str, on: str) -> None:
    put(programs, "llama-bench", BENCH % (backends, backends))
    assert peers.find().run(ASK) == peers.Answer(80.5, 20.25, on)


def test_llama_cli(programs: Path) -> None:
    put(programs, "llama-cli", CLI)
    peer = peers.find()
    assert peer.name == "llama-cli" and peer.run(ASK) == peers.Answer(80.0, 20.0, "Vulkan")
    assert peer.run(peers.Ask(Path("m.gguf"), 8, 4, 2, 0)).backend == "CPU"
    put(programs, "llama-bench", BENCH % ("CPU", "CPU"))
    assert peers.find().name == "llama-bench", "the program that is made for it comes first"
    assert peers.find("llama-cli").name == "llama-cli"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("llama-bench", "#!/bin/sh\necho 'no such model' >&2; exit 3\n", "code 3: no such model"),
        ("llama-bench", "#!/bin/sh\necho hello\n", "no JSON"),
        ("llama-bench", '#!/bin/sh\necho \'[{"n_prompt": 8, "avg_ts": 1}]\'\n', "expected a prompt test"),
        ("llama-cli", "#!/bin/sh\necho hello\n", "no times"),
    ],
)
def test_programs_that_fail(programs: Path, name: str, text: str, said: str) -> None:
    put(programs, name, text)
    with pytest.raises(FluxError, match=said):
        peers.find().run(ASK)


def test_what_a_binding_has_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peer_worker.backend(0) == "CPU"
    for text, on in (("/lib/libggml-vulkan.so", "Vulkan"), ("/lib/libggml-cuda.so", "CUDA"), ("/lib/libc.so", "CPU")):
        monkeypatch.setattr(Path, "read_text", lambda self, text=text: text)
        assert peer_worker.backend(99) == on and peer_worker.backend(0) == "CPU"
