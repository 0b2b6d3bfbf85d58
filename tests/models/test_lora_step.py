"""The GPU step with adapters: against llama.cpp's logits, against merged weights, and what it makes of a chain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.errors import AdapterError, InputError
from flux_vk.formats.adapter import Adapter, LoraPair, write_gguf_adapter
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Device
from flux_vk.models import lora as lora_module
from flux_vk.models import reference
from flux_vk.models.lora import (
    Lora,
    check_adapter_fits,
    fill_lora,
    lora_bytes,
    plan_lora,
    prepare_lora,
    read_loras,
    split_scale,
)
from tests.models.lora_models import ARCHITECTURES, VOCAB, adapter_for, linear_names, write_merged, write_tiny
from tests.models.one_slot import OneSlot
from tests.models.test_model_step import check, golden

GOLDEN = (
    ("llama.f32", "llama.lora-qv"), ("llama.f32", "llama.lora-all7"), ("llama.f32", "llama.lora-all7out"),
    ("qwen2.f32", "qwen2.lora-qv"), ("qwen2.f32", "qwen2.lora-all7"), ("qwen2.f32", "qwen2.lora-all7-f16"),
    ("qllama.q4_k", "qllama.q4_k.lora-all7"),
)  # fmt: skip
IDS = np.array([1, 70, 104, 111, 200, 3, 258, 9, 88, 41, 2, 17])


def adapt(slot: OneSlot, lora: Lora) -> int:
    """Put adapters on the weights of a model; their bytes."""
    plans = plan_lora(slot.cfg, read_loras(lora, slot.cfg))
    slot.weights.lora = prepare_lora(slot.device, plans)
    fill_lora(slot.device, slot.weights.lora)
    return lora_bytes(plans)


@pytest.mark.kernel
@pytest.mark.parametrize(("base", "name"), GOLDEN)
def test_llama_cpps_logits(device: Device, reference_dir: Path, base: str, name: str) -> None:
    """Adapters of seven kinds on two architectures and quantised weights, at scale 1 and 0.5."""
    folder = reference_dir / "golden"
    want = golden(folder / f"{name}.golden.npz")
    with OneSlot(device, folder / f"{base}.gguf", context=512) as model:
        for scale, prefix in (("", ""), (":0.5", "s05_")):
            adapt(model, f"{folder / name}.gguf{scale}")
            model._recorded.clear()
            mine = {key.removeprefix(prefix): v for key, v in want.items() if key.startswith("s05_") == bool(prefix)}
            assert max(check(model, mine, j) for j in range(3)) < 1e-3


def merged_logits(base: Path, adapters: Sequence[tuple[Adapter, float]]) -> npt.NDArray[np.float64]:
    path = base.with_suffix(".merged")
    write_merged(base, path, adapters)
    with open_gguf(path) as f:
        return reference.forward(f, IDS)


@pytest.mark.kernel
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_equals_merged_weights(device: Device, tmp_path: Path, arch: str) -> None:
    """One adapter on everything (rank 3, so that ranks are filled up), then a second on some of it."""
    base = tmp_path / "tiny.gguf"
    cfg = write_tiny(base, arch)
    first = adapter_for(cfg, rank=3)
    some = list(dict.fromkeys(name.split(".")[2] for name in linear_names(cfg)))[1:3]
    second = adapter_for(cfg, rank=8, seed=9, parts=some, alpha=4.0, rslora=True)
    with OneSlot(device, base, context=64) as model:
        before = model.prefill(IDS)
        for loras in ([(first, 1.0)], [(first, 0.75), (second, -0.5)]):
            nbytes = adapt(model, list(loras))
            assert nbytes == sum({id(p): p.a.nbytes + p.b.nbytes for p in model.weights.lora.values()}.values())
            model._recorded.clear()
            model.reset()
            logits = model.prefill(IDS)
            want = merged_logits(base, loras)
            scale = np.abs(want).max()
            assert np.abs(logits - want).max() < 1e-5 * scale
            assert np.abs(before - want).max() > 0.05 * scale  # the adapters matter
            model.reset()
            rows = np.concatenate([model.step(IDS[i : i + 1]) for i in range(len(IDS))])
            assert rows.tobytes() == logits.tobytes()  # a row's bits do not depend on its company


@pytest.mark.kernel
def test_products_apart_and_together(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """q, k, v share a pair of products where the zeros in it are few, else each has its own; the result is the same."""
    base = tmp_path / "tiny.gguf"
    cfg = write_tiny(base, "qwen2")
    adapter = adapter_for(cfg, parts=("attn_q", "attn_v", "ffn_gate", "ffn_up", "ffn_down"))
    made, sizes = [], []
    with OneSlot(device, base, context=64) as model:
        for spare in (lora_module.SPARE, -1):
            monkeypatch.setattr(lora_module, "SPARE", spare)
            sizes.append((len(plan_lora(cfg, read_loras(adapter, cfg))), adapt(model, adapter)))
            model._recorded.clear()
            model.reset()
            made.append(model.prefill(IDS))
            np.testing.assert_allclose(made[-1], merged_logits(base, [(adapter, 1.0)]), atol=1e-4)
    (together, larger), (apart, smaller) = sizes
    assert (together, apart) == (6, 10) and larger > smaller


def kernels(model: OneSlot) -> list[str]:
    return [step.name.partition("--")[0] for step in model.chain(1, 1).steps]


@pytest.mark.kernel
def test_fusion_leaves_adapters_their_place(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes fold norms into products with A too, and no product that an adapter adds to into what follows it."""
    base = tmp_path / "tiny.gguf"
    cfg = write_tiny(base, "llama")
    with OneSlot(device, base, context=64) as model:
        plain = kernels(model)
        adapt(model, adapter_for(cfg, parts=("attn_v",)))
        assert len(kernels(model)) > len(plain)
        adapt(model, adapter_for(cfg))
        fused = model.prefill(IDS)
        assert "rms_norm" not in kernels(model) and {"swiglu", "rope_store", "attention"} <= set(kernels(model))
        monkeypatch.setenv("FLUX_VK_FUSION", "none")
        model._recorded.clear()
        model.reset()
        np.testing.assert_allclose(model.prefill(IDS), fused, rtol=1e-4, atol=1e-4)
        monkeypatch.delenv("FLUX_VK_FUSION")
        model.weights.lora = {}
        assert kernels(model) == plain


def test_what_load_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = write_tiny(tmp_path / "tiny.gguf", "qwen2")
    adapter = adapter_for(cfg, parts=("attn_v",))
    path = tmp_path / "a.gguf"
    write_gguf_adapter(adapter, path)

    def scales(lora: Lora) -> list[float]:
        return [scaled.scale for scaled in read_loras(lora, cfg)]

    assert read_loras(None, cfg) == [] and scales([]) == []
    assert scales(path) == scales(str(path)) == scales(adapter) == scales([path]) == [1.0]
    assert scales(f"{path}:0.5") == scales((path, 0.5)) == scales((str(path), 0.5)) == scales((adapter, 0.5)) == [0.5]
    assert scales([adapter, (path, 2), f"{path}:-1", path]) == [1.0, 2.0, -1.0, 1.0]
    assert split_scale("a/b:c/d") == ("a/b:c/d", 1.0) and split_scale("x:1e-1") == ("x", 0.1)
    odd = tmp_path / "a:5"
    odd.write_bytes(path.read_bytes())
    assert split_scale(str(odd)) == (str(odd), 1.0) and split_scale(f"{odd}:3") == (str(odd), 3.0)
    for wrong, message in (
        ((adapter, float("nan")), "the scale of an adapter is nan"),
        ([5], "an adapter is int; expected a path or an Adapter"),
        (5, "lora is int; expected a path"),
        (f"{path}:x", "a.gguf: found 'x' as the scale of this adapter; expected a number, such as"),
        ((adapter, 1e300), "the scale of an adapter is 1e+300, which with its alpha and rank"),
        ((replace(adapter, alpha=4000.0), -1e38), "the scale of an adapter is -1e+38, which with its alpha and rank"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            read_loras(wrong, cfg)  # type: ignore[arg-type]


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    cfg = write_tiny(tmp_path / "tiny.gguf", "qwen2")
    adapter = adapter_for(cfg, parts=("attn_v",), name="mine")
    check_adapter_fits(adapter, cfg)
    check_adapter_fits(replace(adapter, arch=""), cfg)

    def refused(message: str, wrong: Adapter) -> None:
        with pytest.raises(AdapterError, match=re.escape(message)):
            read_loras([adapter, wrong], cfg)

    pair = adapter.tensors["blk.0.attn_v.weight"]
    refused("adapter 'mine' is for architecture llama; expected qwen2", replace(adapter, arch="llama"))
    refused(
        "changes blk.2.attn_v.weight, which is no linear layer of this model; expected names such as blk.0.attn_q",
        replace(adapter, tensors={"blk.2.attn_v.weight": pair}),
    )
    named = tmp_path / "wrong.gguf"
    write_gguf_adapter(replace(adapter, tensors={"blk.2.attn_v.weight": pair}), named)
    with pytest.raises(AdapterError, match=re.escape(f"{named} changes blk.2.attn_v.weight")):
        read_loras([adapter, (named, 0.5)], cfg)
    refused("changes token_embd.weight", replace(adapter, tensors={"token_embd.weight": pair}))
    refused("changes blk.0.attn_norm.weight", replace(adapter, tensors={"blk.0.attn_norm.weight": pair}))
    wide = LoraPair(np.ones((2, 65), np.float32), pair.b[:, :2])
    refused(
        "adapter 'mine': blk.0.attn_v.weight: found factors for a weight of [32, 65] (out, in); expected [32, 64]",
        replace(adapter, tensors={"blk.0.attn_v.weight": wide}),
    )
    head = LoraPair(np.ones((2, 64), np.float32), np.ones((VOCAB, 2), np.float32))
    check_adapter_fits(replace(adapter, tensors={"output.weight": head}), cfg)
