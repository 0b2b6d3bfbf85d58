"""Adapters that are broken, damaged or not supported: an error that names file, tensor or key; never another."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux_vk.errors import AdapterError, FluxError, GGUFError
from flux_vk.formats.adapter import Adapter, LoraPair, read_adapter, write_gguf_adapter, write_peft
from flux_vk.formats.gguf_writer import TensorOut, Value, write_gguf
from tests.formats.adapter_data import HEADS, peft_folder, q_tensors, random_adapter, random_pair

pytest.importorskip("safetensors")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA'; expected 'LORA'"),
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save = ['embed_tokens'] is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights = 'pissa_niter_16' changes the base weights"),
        ({"init_lora_weights": [1]}, "init_lora_weights = [1]"),
        ({"r": 0}, "r = 0; expected a whole number from 1"),
        ({"r": True}, "r = True"),
        ({"r": 5}, "with the rank 5 of adapter_config.json"),
        ({"r": 10**30}, "with the rank 1000000000000000000000000000000"),
        ({"lora_alpha": None}, "lora_alpha = None; expected a finite number"),
        ({"lora_alpha": math.nan}, "lora_alpha = nan"),
        ({"lora_alpha": 10**400}, "lora_alpha = 1000"),
        ({"lora_alpha": 0}, "alpha = 0.0; expected a finite number above 0"),
        ({"lora_dropout": 1.0}, "dropout = 1.0"),
        ({"use_rslora": "yes"}, "use_rslora = 'yes'; expected true or false"),
        ({"rank_pattern": {"(a+)+b": 4}}, "rank_pattern: '(a+)+b'; expected a module's name"),
        ({"rank_pattern": {"q_proj": 2}}, "with the rank 2 of adapter_config.json"),
        ({"rank_pattern": [4]}, "rank_pattern = [4]; expected an object"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern['q_proj'] = 'x'"),
        ({"alpha_pattern": {"q\\": 2}}, "alpha_pattern"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path = 5"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path, **keys)
    with pytest.raises(AdapterError, match=re.escape(message)):
        read_adapter(folder, HEADS, arch="llama")


def changed(**changes: Any) -> dict[str, Any]:
    """q_tensors with the halves A, B replaced; None leaves one out."""
    out = dict(q_tensors())
    for half, values in changes.items():
        name = f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight"
        del out[name]
        if values is not None:
            out[name] = values
    return out


def with_one(name: str) -> dict[str, Any]:
    return q_tensors() | {name: ("F32", np.ones((4, 24), np.float32))}


ROOT = "base_model.model.model."


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (changed(A=None), "q_proj.lora_B.weight is there, its lora_A is not"),
        (changed(B=None), "q_proj.lora_A.weight is there, its lora_B is not"),
        (changed(A=("F32", np.ones((24, 4), np.float32))), "has shape (24, 4)"),
        (changed(B=("F32", np.ones((32, 3), np.float32))), "(32, 3); expected [rank, in] and [out, rank]"),
        (changed(B=("F32", np.ones((30, 4), np.float32))), "(30, 4); expected rows in 4 heads of an even size"),
        (changed(B=("F32", np.ones((32,), np.float32))), "expected two dimensions"),
        (changed(A=("F32", np.full((4, 24), np.nan, np.float32))), "blk.0.attn_q.weight: lora_A has NaN"),
        (changed(B=("F32", np.full((32, 4), np.inf, np.float32))), "blk.0.attn_q.weight: lora_B has NaN or infinite"),
        (changed(A=("I32", np.ones((4, 24), np.int32))), "has type I32; expected F32, F16 or BF16"),
        ({}, "no tensors"),
        (with_one(f"{ROOT}embed_tokens.lora_embedding_A"), "embed_tokens.lora_embedding_A is not supported"),
        (with_one(f"{ROOT}layers.0.self_attn.q_proj.lora_magnitude_vector"), "lora_magnitude_vector is not supported"),
        (with_one(f"{ROOT}layers.0.mlp.router.lora_A.weight"), "'router': llama has no such linear layer"),
        (with_one("base_model.model.vision_tower.layers.0.mlp.up_proj.lora_A.weight"), "vision_tower"),
        (with_one(f"{ROOT}layers.0.self_attn.q_proj.lora_A.default.weight"), "are the same half; expected one"),
    ],
)  # fmt: skip
def test_tensors_that_are_refused(tensors: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path, tensors)
    with pytest.raises(AdapterError, match=re.escape(message)) as caught:
        read_adapter(folder, HEADS, arch="llama")
    assert str(folder) in str(caught.value)


def test_what_the_reader_must_be_told(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = peft_folder(tmp_path / "p")
    with pytest.raises(AdapterError, match="does not say of what architecture"):
        read_adapter(folder, HEADS)
    with pytest.raises(AdapterError, match=re.escape("pass heads=(n_heads, n_kv_heads)")):
        read_adapter(folder, arch="llama")
    only_v = peft_folder(tmp_path / "v", q_tensors(module="self_attn.v_proj"))
    assert read_adapter(only_v).arch == ""
    write_peft(random_adapter(rng), tmp_path / "own", HEADS)
    with pytest.raises(AdapterError, match="an adapter for llama; expected one for qwen2"):
        read_adapter(tmp_path / "own", arch="qwen2")
    with pytest.raises(AdapterError, match=re.escape("an adapter for (4, 2) heads (queries, keys); expected (2, 2)")):
        read_adapter(tmp_path / "own", (2, 2))
    write_gguf_adapter(random_adapter(rng), tmp_path / "own.gguf")
    with pytest.raises(AdapterError, match="an adapter for llama; expected one for qwen2"):
        read_adapter(tmp_path / "own.gguf", arch="qwen2")


def test_places_without_an_adapter(tmp_path: Path, demo_model: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "adapter_model.bin").write_bytes(b"pickle")
    (tmp_path / "text").write_text("hello")
    for path, message in (
        (tmp_path / "absent", "nothing there; expected an adapter"),
        (tmp_path, "no adapter_model.safetensors; expected"),
        (tmp_path / "old", "adapter_model.bin is a pickle"),
        (tmp_path / "text", "neither GGUF nor .safetensors"),
        (demo_model, "general.type = 'model', adapter.type = ''; expected 'adapter' and 'lora'"),
    ):
        with pytest.raises(AdapterError, match=re.escape(message)):
            read_adapter(path)


def test_gguf_files_that_are_refused(tmp_path: Path) -> None:
    keys = {"general.architecture": Value("str", "llama"), "general.type": Value("str", "adapter")}
    keys["adapter.type"] = Value("str", "lora")
    path = tmp_path / "a.gguf"

    def refused(message: str, *outs: tuple[str, tuple[int, ...]], value: float = 1.0, **more: Value) -> None:
        tensors = [TensorOut(name, "f32", shape, np.full(shape, value, np.float32)) for name, shape in outs]
        write_gguf(path, keys | {k.replace("_", "."): v for k, v in more.items()}, tensors)
        with pytest.raises(AdapterError, match=re.escape(message)):
            read_adapter(path)

    a, b = ("w.weight.lora_a", (2, 8)), ("w.weight.lora_b", (6, 2))
    refused("no tensors")
    refused("tensor w.weight.lora_b is missing; expected both halves", a)
    refused("tensor w.weight.lora_a is missing", b)
    refused("expected a name that ends in .lora_a or .lora_b", a, b, ("w.weight", (6, 8)))
    refused("lora_b (6, 3); expected [rank, in]", a, ("w.weight.lora_b", (6, 3)))
    refused("lora_a has shape (2, 8, 1)", ("w.weight.lora_a", (2, 8, 1)), b)
    refused("lora_A has NaN", a, b, value=math.nan)
    refused("alpha = -1.0", a, b, adapter_lora_alpha=Value("f32", -1.0))
    refused("alpha = nan", a, b, adapter_lora_alpha=Value("f32", math.nan))


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("good")
    adapter = random_adapter(np.random.default_rng(5), rank=2, layers=1)
    write_peft(adapter, folder / "p", HEADS)
    write_gguf_adapter(adapter, folder / "a.gguf")
    return (folder / "p" / "adapter_model.safetensors").read_bytes(), (folder / "a.gguf").read_bytes()


damage = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("byte"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("head"), st.floats(0, 1), st.integers(0, 255)),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), damage)
def test_damaged_files_give_an_adapter_or_a_clear_error(
    good_files: tuple[bytes, bytes], tmp_path: Path, gguf: bool, how: tuple[str, float, int]
) -> None:
    """Never another exception, never factors with NaN or of shapes that do not fit."""
    data = bytearray(good_files[gguf])
    kind, where, value = how
    at = int(where * ((len(data) if kind != "head" else min(len(data), 1500)) - 1))
    if kind == "cut":
        del data[at:]
    else:
        data[at] = value
    path = tmp_path / ("x.gguf" if gguf else "x.safetensors")
    path.write_bytes(data)
    try:
        found = read_adapter(path)
    except FluxError as error:
        assert isinstance(error, (AdapterError, GGUFError)) and str(error)
    else:
        for pair in found.tensors.values():
            assert pair.a.shape[0] == pair.b.shape[1] and np.isfinite(pair.a).all() and np.isfinite(pair.b).all()


CHECKED = (
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "lora_dropout", "init_lora_weights",
    "base_model_name_or_path", "peft_type", "modules_to_save",
)  # fmt: skip
plain = st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers()


@given(st.recursive(plain, st.lists, max_leaves=4), st.sampled_from(CHECKED))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_a_key_is_taken_or_refused(tmp_path: Path, value: Any, key: str) -> None:
    folder = peft_folder(tmp_path, **{key: value})
    try:
        read_adapter(folder, HEADS, arch="llama")
    except AdapterError as error:
        assert "adapter" in str(error)


@pytest.mark.parametrize("text", ["", "[1]", "{", "{" * 100_000, '"x"', "null", " " * (1 << 20) + "{}"])
def test_configurations_that_are_no_object(text: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        read_adapter(peft_folder(tmp_path, config=text), HEADS, arch="llama")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Adapter("x", 1.0, {}), "no LoRA tensors"),
        (lambda p: Adapter("x", math.inf, {"w": p}), "alpha = inf"),
        (lambda p: Adapter("x", 1.0, {"w": p}, alphas={"v": 1.0}), "alpha of v, which is not among its tensors"),
        (lambda p: Adapter("x", 1.0, {"w": replace(p, a=p.a.astype(np.float64))}), "lora_A has type float64"),
        (lambda p: Adapter("x", 1.0, {"w": replace(p, a=p.a[0])}), "lora_A has shape (24,)"),
        (lambda p: Adapter("x", 1.0, {"w": replace(p, b=p.b[:, :1])}), "with the same rank"),
        (lambda p: Adapter("x", 1.0, {"w": LoraPair(np.ones((5000, 1), np.float32), np.ones((1, 5000), np.float32))}),
         "rank 5000; expected at most 4096"),
    ],
)  # fmt: skip
def test_no_adapter_is_made_of_what_is_none(
    make: Callable[[LoraPair], Adapter], message: str, rng: np.random.Generator
) -> None:
    with pytest.raises(AdapterError, match=re.escape(message)):
        make(random_pair(rng, (16, 24), 2))


def test_mlx_configurations_that_are_refused(tmp_path: Path) -> None:
    def refused(message: str, **keys: Any) -> None:
        with pytest.raises(AdapterError, match=re.escape(message)):
            read_adapter(peft_folder(tmp_path, config={"lora_parameters": {"rank": 4, "scale": 2.0}, **keys}))

    refused("fine_tune_type = 'dora'", fine_tune_type="dora")
    refused("lora_parameters = None; expected an object", lora_parameters=None)
    refused("lora_parameters.rank = None", lora_parameters={})
    refused("lora_parameters.scale = 'x'", lora_parameters={"rank": 4, "scale": "x"})
    refused("expected [in, rank] and [rank, out]", model="m")
