"""The info command: this machine as text and JSON, GGUF files good and broken, no Vulkan."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flux_vk import __version__, info
from flux_vk.cli import info_device
from flux_vk.errors import VulkanUnavailable
from flux_vk.gpu import kernels

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "formats"))
import gguf_bytes as gb  # noqa: E402


def as_json(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict:
    assert info.main([*argv, "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


@pytest.fixture
def no_vulkan(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise VulkanUnavailable("no Vulkan driver answers; install mesa-vulkan-drivers")

    monkeypatch.setattr("flux_vk.gpu.native.enumerate_devices", fail)


def test_machine(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys)
    assert found["versions"]["flux_vk"] == __version__ and found["versions"]["vulkan_loader"].startswith("1.")
    chosen = found["devices"][found["selected"]]
    assert chosen["name"] and chosen["limits"]["max_storage_buffer_range"] > 0
    named = {row["kernel"] for row in found["kernels"]}
    assert named == set(kernels.contracts())
    for row in found["kernels"]:
        assert row["variant"] or row["note"]
    products = {row["types"]["w"]: row["variant"] for row in found["kernels"] if row["kernel"] == "matmul"}
    assert products["q4_k"] and products["f16"]
    assert info.main([]) == 0
    text = capsys.readouterr().out
    assert chosen["name"] in text and "q4_k" in text and "kompute" in text


def test_tuned_shapes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `bench tune` left in the cache folder is told: how many and where, the table on demand."""
    monkeypatch.delenv("FLUX_VK_NO_CACHE", raising=False)
    monkeypatch.setenv("FLUX_VK_CACHE_DIR", str(tmp_path))
    found = as_json(capsys)["tuning"]
    assert found["count"] == 0 and found["choices"] == [] and Path(found["file"]).parent == tmp_path
    assert info.main([]) == 0
    assert "none measured" in capsys.readouterr().out
    choice = {"values": {"rows": 8, "tokens": 1}, "us": 10.0, "rule_us": 15.0}
    Path(found["file"]).write_text(json.dumps({"matmul q4_k.lane 8x256 one": choice}))
    found = as_json(capsys)["tuning"]
    assert found["choices"] == [{"name": "matmul q4_k.lane 8x256 one", **choice}]
    assert info.main([]) == 0
    out = capsys.readouterr().out
    assert "1 measured, 1 of them differ" in out and found["file"] in out and "8x256 one" not in out
    assert info.main(["--verbose"]) == 0
    out = capsys.readouterr().out
    assert "matmul q4_k.lane 8x256 one" in out and "rows=8 tokens=1" in out and "1.50" in out


def test_kompute_is_the_release_that_is_built(repo_root: Path) -> None:
    assert f"kp-{info_device.KOMPUTE}" in (repo_root / "native" / "fetch_kompute.py").read_text()


def test_without_vulkan(no_vulkan: None, capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    assert info.main([]) == 1
    out, err = capsys.readouterr()
    assert "mesa-vulkan-drivers" in out and "python" in out and err == ""
    found = as_json(capsys, str(demo_model))
    assert not found["here"]["runs"] and "mesa-vulkan-drivers" in found["here"]["error"]
    assert found["here"]["memory"]["weights"] > 5_000_000
    assert info.main([str(demo_model), "--device", "0"]) == 0


def test_unknown_device(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    for argv in (["--device", "no such card"], [str(demo_model), "--device", "99"]):
        assert info.main(argv) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("flux_vk: device") and err.count("\n") == 1


def test_demo_model(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    found = as_json(capsys, str(demo_model))
    assert found["file"]["bytes"] == demo_model.stat().st_size and found["file"]["version"] == 3
    assert found["metadata"]["general.architecture"] == {"type": "str", "value": "llama"}
    tokens = found["metadata"]["tokenizer.ggml.tokens"]["value"]
    assert tokens["length"] == 2048 and tokens["first"][1:3] == ["<s>", "</s>"]
    assert {t["name"]: t for t in found["tensors"]}["token_embd.weight"]["shape"] == [2048, 256]
    assert [(r["type"], r["tensors"]) for r in found["totals"]] == [("q8_0", 43), ("f32", 13)]
    assert found["model"]["n_layers"] == 6 and found["tokenizer"]["chat_template"] == "no"
    here = found["here"]
    assert here["runs"] and here["error"] is None and here["context"] == 256
    assert here["kernels"]["matmul q8_0"].startswith("q8_0") and here["kernels"]["attention f16"]
    assert info.main([str(demo_model)]) == 0
    text = capsys.readouterr().out
    assert "blk.5.ffn_up.weight" in text and "768 x 256" in text and "runs             yes" in text


def test_the_memory_follows_the_options(capsys: pytest.CaptureFixture[str], demo_model: Path) -> None:
    small = as_json(capsys, str(demo_model), "-c", "64")["here"]["memory"]["kv"]
    assert as_json(capsys, str(demo_model), "-c", "128", "--kv-type", "f32")["here"]["memory"]["kv"] == 4 * small
    here = as_json(capsys, str(demo_model), "-c", "1000")["here"]
    assert not here["runs"] and "256" in here["error"]


def test_a_file_that_cannot_run_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "strange.gguf"
    path.write_bytes(gb.gguf([
        gb.pair("general.architecture", gb.STRING, gb.text("martian")),
        gb.pair("text", gb.STRING, gb.text("\x1b[31mred\n")),
        gb.pair("nan", gb.F32, b"\x00\x00\xc0\x7f"),
        gb.pair("long", gb.STRING, gb.text("x" * 500)),
    ]))  # fmt: skip
    found = as_json(capsys, str(path))
    assert found["metadata"]["nan"]["value"] == "nan"
    assert "martian" in found["model"]["error"] and not found["here"]["runs"]
    assert info.main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and "(500 characters)" in text and "martian" in text


@pytest.mark.parametrize("data", [b"", b"GGUF", gb.gguf(n_tensors=2**60), gb.gguf()[:60], b"not a model" * 10])
def test_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    for more in ([], ["--json"]):
        assert info.main([str(path), *more]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("flux_vk: ") and err.count("\n") == 1 and str(path) in err


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf"):
        assert info.main([str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_malformed_collection(reference_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file of the collection gives a description or one line, and never a traceback."""
    folder = reference_dir / "gguf-malformed"
    for entry in json.loads((folder / "index.json").read_text()):
        path = folder / entry.get("file", "")
        if "base" in entry:
            data = bytearray((folder / entry["base"]).read_bytes())[: entry.get("truncate_at")]
            patch = bytes.fromhex(entry.get("patch_hex", ""))
            at = entry.get("patch_offset", 0)
            data[at : at + len(patch)] = patch
            path = tmp_path / "patched.gguf"
            path.write_bytes(data)
        code = info.main([str(path)])
        out, err = capsys.readouterr()
        assert code in (0, 2) and (code == 0) == (err == ""), entry
        if entry["expect"] == "reject":
            assert code == 2 and err.count("\n") == 1, entry
        if entry["expect"] == "accept":
            assert code == 0, entry
