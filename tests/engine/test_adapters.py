"""A loaded model with adapters: the text of merged weights, alone, in batches, in threads; memory; the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import flux_vk as fx
from flux_vk import info, run
from flux_vk.engine.model import Model
from flux_vk.errors import AdapterError
from flux_vk.formats.adapter import Adapter, write_gguf_adapter, write_peft
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Device
from flux_vk.models import read_config
from tests.models.lora_models import adapter_for, noise, write_merged, write_tiny

PROMPTS = ("It was in July", "Natasha looked at him and", "The commander in chief", "Prince Andrew", "A")


@pytest.fixture(scope="module")
def adapter(demo_model: Path) -> Adapter:
    """A change of a tenth or so to everything in the demo model: another text."""
    with open_gguf(demo_model) as f:
        cfg = read_config(f)
    return adapter_for(cfg, rank=4, alpha=0.8, name="some noise")


@pytest.fixture(scope="module")
def adapted(device: Device, demo_model: Path, adapter: Adapter) -> Iterator[Model]:
    with fx.load(demo_model, device=device, kv_type="f32", kv_tokens=4096, lora=adapter) as m:
        yield m


@pytest.fixture(scope="module")
def merged(
    device: Device, demo_model: Path, adapter: Adapter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    """W + s B A in NumPy, from the dequantised weights, as an f32 model."""
    path = tmp_path_factory.mktemp("merged") / "merged.gguf"
    write_merged(demo_model, path, [(adapter, 1.0)])
    with fx.load(path, device=device, kv_type="f32", kv_tokens=4096) as m:
        yield m


def test_text_of_merged_weights(adapted: Model, merged: Model, model: Model) -> None:
    ids = model.tokenizer.encode(PROMPTS[1])
    want = merged.logits(ids)
    np.testing.assert_allclose(adapted.logits(ids), want, atol=2e-3)
    assert np.abs(model.logits(ids) - want).max() > 0.2
    for prompt in PROMPTS[:2]:
        texts = ["".join(m.generate(prompt, 40, temperature=0)) for m in (merged, adapted, model)]
        assert texts[0] == texts[1] != texts[2]


def test_alone_in_a_batch_and_in_threads(adapted: Model) -> None:
    """The same bits whatever runs beside it, and however a prompt was cut."""
    settings = {"temperature": 0.8, "seed": 5, "top_k": 40}
    alone = ["".join(adapted.generate(prompt, 16, **settings)) for prompt in PROMPTS]
    assert adapted.generate_many(PROMPTS, 16, **settings) == alone
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda p: "".join(adapted.generate(p, 16, **settings)), PROMPTS)) == alone
    ids = adapted.tokenizer.encode(PROMPTS[0] * 20)
    with adapted.session() as session:
        rows = [session.prefill(ids[i : i + 7]) for i in range(0, 70, 7)]
    assert rows[-1].tobytes() == adapted.logits(ids[:70])[-1].tobytes()


def test_agents_and_grammars_see_the_adapted_logits(adapted: Model, merged: Model) -> None:
    pytest.importorskip("llguidance")
    ways = ({"agents": fx.Swarm.default()}, {"grammar": fx.Grammar.regex("[a-z ,]{12}")})
    for way in ways:
        texts = ["".join(m.generate(PROMPTS[0], 12, temperature=0, **way)) for m in (adapted, merged)]
        assert texts[0] == texts[1]
    assert re.fullmatch("[a-z ,]{12}", texts[0])


def test_memory_is_counted(adapted: Model, model: Model, adapter: Adapter) -> None:
    plan, without = adapted.memory_plan(), model.memory_plan()
    weights = adapted.runner.buffers.weights
    parts = {id(part): part for part in weights.lora.values()}.values()
    assert plan["adapters"] == sum(part.a.nbytes + part.b.nbytes for part in parts) >= adapter.nbytes
    assert plan["weights"] == without["weights"] and plan["activations"] > without["activations"]
    assert weights.nbytes == model.runner.buffers.weights.nbytes + plan["adapters"] and "adapters" not in without
    assert [scaled.adapter for scaled in adapted.adapters] == [adapter] and model.adapters == ()


def test_several_files_at_scales(device: Device, tmp_path: Path) -> None:
    """A PEFT folder and a GGUF file on one model, at scales of their own, as their sum merged."""
    pytest.importorskip("safetensors")
    cfg = write_tiny(tmp_path / "tiny.gguf", "llama")
    first, second = adapter_for(cfg, seed=1), adapter_for(cfg, rank=2, seed=2, parts=("attn_q", "ffn_down"))
    write_peft(first, tmp_path / "first", (cfg.n_heads, cfg.n_kv_heads))
    write_gguf_adapter(second, tmp_path / "second.gguf")
    write_merged(tmp_path / "tiny.gguf", tmp_path / "merged.gguf", [(first, 0.5), (second, -1.0)])
    lora = [f"{tmp_path / 'first'}:0.5", (tmp_path / "second.gguf", -1.0)]
    ids = list(range(3, 60))
    with fx.load(tmp_path / "merged.gguf", device, kv_type="f32") as m:
        want = m.logits(ids)
    with fx.load(tmp_path / "tiny.gguf", device, kv_type="f32", lora=lora) as m:
        np.testing.assert_allclose(m.logits(ids), want, atol=1e-4)


def test_the_head_too(device: Device, tmp_path: Path) -> None:
    """An adapter of the head of a tied model, which the token embedding does not see; merged, it is a head of its own.

    The product that finds the largest logits on the way gives way.
    """
    cfg = write_tiny(tmp_path / "tiny.gguf", "llama")
    pair = adapter_for(cfg, rank=4, parts=("attn_v",)).tensors["blk.0.attn_v.weight"]
    head = Adapter("llama", 8.0, {"output.weight": type(pair)(pair.a, noise((3, 3), (cfg.vocab_size, 4), 0.3))})
    write_merged(tmp_path / "tiny.gguf", tmp_path / "merged.gguf", [(head, 1.0)])
    ids = list(range(3, 40))
    with fx.load(tmp_path / "merged.gguf", device, kv_type="f32") as m:
        want, text = m.logits(ids), [t.id for t in m.start(ids, fx.SamplingParams(temperature=0), max_tokens=20)]
    with fx.load(tmp_path / "tiny.gguf", device, kv_type="f32", lora=head) as m:
        np.testing.assert_allclose(m.logits(ids), want, atol=1e-4)
        assert [t.id for t in m.start(ids, fx.SamplingParams(temperature=0), max_tokens=20)] == text


def test_the_wrong_adapter_is_named_before_anything_is_loaded(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = write_tiny(tmp_path / "tiny.gguf", "qwen2")
    write_gguf_adapter(adapter_for(cfg), tmp_path / "other.gguf")
    monkeypatch.setattr("flux_vk.engine.model.Device", None)
    with pytest.raises(AdapterError, match=r"other\.gguf: an adapter for qwen2; expected one for llama"):
        fx.load(demo_model, lora=str(tmp_path / "other.gguf"))
    assert run.main([str(demo_model), "-p", "x", "--lora", str(tmp_path / "other.gguf")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "an adapter for qwen2; expected one for llama" in err and "Traceback" not in err


def test_command_lines(
    demo_model: Path, adapter: Adapter, adapted: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf_adapter(adapter, tmp_path / "a.gguf")
    options = ["-p", PROMPTS[0], "-n", "12", "-t", "0", "-q", "--kv-type", "f32"]
    half = str(tmp_path / "a.gguf") + ":0.5"
    assert run.main([str(demo_model), *options, "--lora", half, "--lora", half]) == 0
    assert capsys.readouterr().out.removesuffix("\n") == "".join(adapted.generate(PROMPTS[0], 12, temperature=0))
    assert info.main([str(tmp_path / "a.gguf")]) == 0
    told = capsys.readouterr().out
    assert "a LoRA adapter, GGUF" in told and "some noise" in told
    assert re.search(r"attn_q +\d+ +\d+ x \d+ +4 +0\.2", told)
