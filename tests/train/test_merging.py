"""Merged models: the sum in every weight, everything else as it was, and the same text as with the adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flux_vk as fx
from flux_vk.cli.train.merge import main
from flux_vk.errors import AdapterError, InputError
from flux_vk.formats.adapter import Adapter, LoraPair, write_gguf_adapter
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Device
from flux_vk.train.merging import merge
from tests.engine import quantised_files as files

TARGETS = ("attn_q", "attn_v", "ffn_down")
PROMPT = "It was in July"


def adapter_for(path: Path, seed: int, parts: tuple[str, ...] = TARGETS, rank: int = 5, size: float = 0.02) -> Adapter:
    """Factors for some parts of the first two layers and of the last; each change about `size` a weight."""
    rng = np.random.default_rng(seed)
    with open_gguf(path) as f:
        shapes = {f"blk.{i}.{p}.weight": f.tensors[f"blk.{i}.{p}.weight"].shape for i in (0, 1, 5) for p in parts}
        arch = str(f.metadata["general.architecture"])
    pairs = {}
    for name, (n, k) in shapes.items():
        a, b = rng.standard_normal((rank, k), np.float32), rng.standard_normal((n, rank), np.float32)
        pairs[name] = LoraPair(a, b * np.float32(size / np.sqrt(rank)))
    return Adapter(arch, float(rank), pairs)


@pytest.fixture(scope="module")
def base(demo_model: Path, tmp_path_factory: pytest.TempPathFactory, device: Device) -> Path:
    """The demo model in float32."""
    path = tmp_path_factory.mktemp("merging") / "base.gguf"
    fx.quantize(demo_model, path, "f32", allow_requantize=True, device=device)
    return path


def sums(path: Path, adapters: list[tuple[Adapter, float]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor -> W + sum of scale * B A in float64, and the sum of the terms' magnitudes."""
    found = {}
    with open_gguf(path) as f:
        for name in {name for a, _ in adapters for name in a.tensors}:
            w = files.values(f, name).astype(np.float64)
            size = np.abs(w)
            for adapter, factor in adapters:
                if name in adapter.tensors:
                    pair, s = adapter.tensors[name], adapter.scale(name) * factor
                    w = w + s * (pair.b.astype(np.float64) @ pair.a.astype(np.float64))
                    size = size + abs(s) * (np.abs(pair.b).astype(np.float64) @ np.abs(pair.a).astype(np.float64))
            found[name] = w, size
    return found


@pytest.mark.kernel
def test_the_sum_and_nothing_else(base: Path, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 weights are the float64 sum to float32 rounding; every other byte of the file is as it was."""
    first, second = adapter_for(base, 1), adapter_for(base, 2, ("attn_q", "ffn_up"), rank=3)
    out = tmp_path / "merged.gguf"
    work = merge(base, [first, (second, -0.5)], out, device=device)
    want = sums(base, [(first, 1.0), (second, -0.5)])
    assert len(want) == 12 and work.before == work.after
    before, after = files.everything(base), files.everything(out)
    assert before[:2] == after[:2] and list(before[2]) == list(after[2])
    for name, (kind, shape, raw) in after[2].items():
        assert (kind, shape) == before[2][name][:2]
        if name not in want:
            assert raw == before[2][name][2], name
            continue
        exact, size = want[name]
        error = np.abs(np.frombuffer(raw, np.float32).reshape(shape).astype(np.float64) - exact)
        assert (error <= 6 * np.finfo(np.float32).eps * size).all(), name
    assert len(after[2]) == len(before[2])


@pytest.mark.kernel
def test_quantised_weights(demo_model: Path, tmp_path: Path, device: Device) -> None:
    """By default q8_0 stays q8_0, with the format's error around the sum; `type` is for the whole file."""
    adapter = adapter_for(demo_model, 3)
    untouched = demo_model.read_bytes()
    write_gguf_adapter(adapter, tmp_path / "a.gguf")
    for kind, limit in ((None, 0.008), ("q4_k_m", 0.08), ("f16", 4e-4)):
        out = tmp_path / f"{kind}.gguf"
        merge(demo_model, f"{tmp_path / 'a.gguf'}:2", out, kind, device=device)
        with open_gguf(out) as f:
            types = {f.tensors[name].type for name in adapter.tensors}
            assert types == {None: {"q8_0"}, "q4_k_m": {"q4_k", "q6_k"}, "f16": {"f16"}}[kind]
            assert f.metadata["general.file_type"] == {None: 7, "q4_k_m": 15, "f16": 1}[kind]
            for name, (exact, _) in sums(demo_model, [(adapter, 2.0)]).items():
                error = files.values(f, name) - exact
                assert np.sqrt((error**2).sum() / (exact**2).sum()) < limit, name
    assert demo_model.read_bytes() == untouched


LLAMA_CPP = """
import json, sys, xllamacpp
p = xllamacpp.CommonParams()
p.model.path = sys.argv[1]
p.n_ctx, p.n_parallel, p.n_gpu_layers, p.verbosity = 128, 1, 0, -1
server = xllamacpp.Server(p)
found = server.handle_completions({"prompt": sys.argv[2], "max_tokens": 24, "temperature": 0})
print("\\n" + json.dumps(found["choices"][0]["text"] if "choices" in found else found["content"]))
"""


@pytest.mark.kernel
def test_the_text_is_that_of_the_adapter(base: Path, tmp_path: Path, device: Device) -> None:
    """Greedy text of the merged model: ours with the adapter at run time, ours merged, llama.cpp's merged."""
    adapter = adapter_for(base, 4, size=0.01)
    out = tmp_path / "merged.gguf"
    merge(base, adapter, out, device=device)
    options = {"device": device, "context": 128, "sequences": 1, "kv_type": "f32"}
    texts, logits = [], []
    for path, lora in ((base, adapter), (out, None), (base, None)):
        with fx.load(path, lora=lora, **options) as model:
            texts.append("".join(model.generate(PROMPT, max_tokens=24, temperature=0)))
            logits.append(model.logits(model.tokenizer.encode(PROMPT)).astype(np.float64))
    assert texts[0] == texts[1] != texts[2]
    assert ((logits[0] - logits[1]) ** 2).sum() < 1e-9 * (logits[1] ** 2).sum() < ((logits[1] - logits[2]) ** 2).sum()
    pytest.importorskip("xllamacpp", reason="llama.cpp is not there: pip install xllamacpp")
    ran = subprocess.run(
        [sys.executable, "-c", LLAMA_CPP, str(out), PROMPT], capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(ran.stdout.strip().splitlines()[-1]) == texts[1]


def test_what_does_not_fit(demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = adapter_for(demo_model, 5)
    pair = LoraPair(np.ones((2, 256), np.float32), np.ones((5376, 2), np.float32))
    with open_gguf(demo_model) as f:
        pair = LoraPair(pair.a, np.ones((f.tensors["token_embd.weight"].shape[0], 2), np.float32))
    with pytest.raises(InputError, match="one or more"):
        merge(demo_model, [], tmp_path / "b.gguf")
    with pytest.raises(InputError, match="serves as output too"):
        merge(demo_model, Adapter("llama", 1.0, {"output.weight": pair}), tmp_path / "b.gguf")
    with pytest.raises(AdapterError, match="qwen2; expected llama"):
        merge(demo_model, Adapter("qwen2", 1.0, adapter.tensors), tmp_path / "b.gguf")
    write_gguf_adapter(adapter, tmp_path / "a.gguf")
    there = [str(demo_model), str(tmp_path / "a.gguf"), "-o", str(tmp_path / "b.gguf")]
    assert main([*there, "--pure"]) == 2 and "--type" in capsys.readouterr().err
    assert main([*there[:1], str(tmp_path / "none"), *there[2:]]) == 2 and "none" in capsys.readouterr().err
    assert not (tmp_path / "b.gguf").exists()


@pytest.mark.kernel
def test_the_command_line(demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf_adapter(adapter_for(demo_model, 6), tmp_path / "a.gguf")
    argv = [str(demo_model), f"{tmp_path / 'a.gguf'}:0.5", "-o", str(tmp_path / "b.gguf")]
    assert main(argv) == 0
    assert "43 q8_0, 13 f32" in capsys.readouterr().err
    assert main(argv) == 2 and "--force" in capsys.readouterr().err
    assert main([*argv, "--force", "-q", "-t", "Q4_0"]) == 0 and capsys.readouterr() == ("", "")
    with open_gguf(tmp_path / "b.gguf") as f:
        assert f.tensors["blk.0.attn_q.weight"].type == "q4_0"
