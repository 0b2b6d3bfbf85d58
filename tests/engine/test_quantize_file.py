"""Models written in other types: types, bytes, what stays as it was, what is refused, memory in windows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

import flux_vk as fx
from flux_vk.engine import quantize as engine
from flux_vk.errors import FluxError, InputError
from flux_vk.formats import blocks, casts, mixtures
from flux_vk.formats.adapter import Adapter, LoraPair, write_gguf_adapter
from flux_vk.formats.gguf import open_gguf
from flux_vk.formats.gguf_writer import TensorOut, Value, typed, write_gguf
from flux_vk.gpu import Device
from flux_vk.gpu.convert import Change, Converter, cast, writable
from tests.engine import quantised_files as files

ERROR = {"q4_k": 0.08, "q6_k": 0.02, "q5_0": 0.06, "q8_0": 0.008, "f16": 4e-4, "f32": 0.0}


def relative(y: np.ndarray, x: np.ndarray) -> float:
    return float(np.sqrt(((y.astype(np.float64) - x) ** 2).sum() / (x.astype(np.float64) ** 2).sum()))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_casts_round_to_even(rng: np.random.Generator, kind: str) -> None:
    x = (rng.standard_normal(5000) * 10.0 ** rng.uniform(-9, 4, 5000)).astype(np.float32)
    x[:2048] = (x[:2048].view(np.uint32) & np.uint32(0xFFFF8000 if kind == "bf16" else 0xFFFFF000)).view(np.float32)
    want = gguf.quants.quantize(x, gguf.GGMLQuantizationType[kind.upper()])
    np.testing.assert_array_equal(casts.encode(x, kind), want.reshape(-1).view(np.uint8))
    parts = list(cast(x.view(np.uint8), "f32", kind, (50, 100), window=1234))
    assert len(parts) == 5 and np.array_equal(np.concatenate(parts), casts.encode(x, kind))
    with pytest.raises(InputError, match="65504") if kind == "f16" else pytest.MonkeyPatch.context():
        casts.encode(np.float32([1e5]), kind)


def test_floats_need_no_device(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a device was opened")

    monkeypatch.setattr("flux_vk.gpu.Device", fail)
    values = files.write(tmp_path / "a.gguf", rng)
    seen: list[tuple[int, int]] = []
    work = fx.quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "F16", progress=lambda *at: seen.append(at))
    assert work.counts == {"f16": 10, "f32": 6} and work.before > work.after == seen[-1][0] == seen[-1][1]
    before, after = files.everything(tmp_path / "a.gguf"), files.everything(tmp_path / "b.gguf")
    added = {"general.file_type": 1, "general.quantization_version": 2}
    assert after[0] == before[0] | added and after[1] == before[1] | {"general.quantization_version": "u32"}
    assert list(after[2]) == list(before[2])
    for name, (kind, shape, raw) in after[2].items():
        assert raw == values[name].astype(np.float16 if kind == "f16" else np.float32).tobytes() and len(shape)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


@pytest.mark.kernel
def test_mixture(device: Device, tmp_path: Path, rng: np.random.Generator) -> None:
    """Every tensor has its type of the mixture and values close to what was there; vectors have the same bytes."""
    values = files.write(tmp_path / "a.gguf", rng, "f16")
    fx.quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_k_m", device=device)
    model = mixtures.Facts(3, gqa=2)
    want = mixtures.tensor_types("Q4_K_M", {n: (v.shape, "f32") for n, v in values.items()}, model)
    want["odd.weight"] = "f16"
    with open_gguf(tmp_path / "b.gguf") as f:
        assert {n: t.type for n, t in f.tensors.items()} == want and f.metadata["general.file_type"] == 15
        assert {"q4_k", "q6_k", "q5_0", "q8_0", "f16", "f32"} == set(want.values())
        for name, x in values.items():
            assert relative(files.values(f, name), x) <= ERROR[want[name]], name
    again = fx.quantize(
        tmp_path / "b.gguf", tmp_path / "c.gguf", "q8_0", pure=True, allow_requantize=True, device=device
    )
    assert set(again.counts) == {"q8_0", "f16", "f32"} and again.requantised
    with open_gguf(tmp_path / "b.gguf") as f, open_gguf(tmp_path / "c.gguf") as g:
        for name in ("token_embd.weight", "experts.weight", "blk.1.ffn_down.weight"):
            assert relative(files.values(g, name), files.values(f, name)) < ERROR["q8_0"]


@pytest.mark.kernel
@pytest.mark.parametrize(("source", "target"), [("f32", "q4_k"), ("f16", "q5_0"), ("q4_0", "q8_0"), ("q8_0", "f32")])
def test_windows_change_nothing(device: Device, rng: np.random.Generator, source: str, target: str) -> None:
    """The same bytes however many rows are on the device at once; dequantised exactly."""
    shape = (2, 11, 256)
    x = rng.standard_normal(shape).astype(np.float32)
    raw = gguf.quants.quantize(x, gguf.GGMLQuantizationType[source.upper()]).view(np.uint8).reshape(-1)
    whole, parts = (
        list(Converter(device, window).convert(raw, source, target, shape)) for window in (1 << 20, 3 * 256)
    )
    assert len(whole) == 1 and len(parts) == 8
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])
    if target == "f32":
        np.testing.assert_array_equal(whole[0].view(np.float32), blocks.dequantize(raw, source, shape).reshape(-1))


@pytest.mark.kernel
def test_changes_of_odd_shapes(device: Device, rng: np.random.Generator) -> None:
    """W + the sum of scale * b a, in windows, rows that are no whole texels; changes of another shape are refused."""
    n, k = 7, 33
    w = rng.standard_normal((n, k)).astype(np.float32)
    changes, want, size = [], w.astype(np.float64), np.abs(w).astype(np.float64)
    for rank, scale in ((1, 2.0), (5, -0.3)):
        b, a = rng.standard_normal((n, rank), np.float32), rng.standard_normal((rank, k), np.float32)
        changes.append(Change(b, a, scale))
        want = want + scale * (b.astype(np.float64) @ a)
        size = size + abs(scale) * (np.abs(b).astype(np.float64) @ np.abs(a))
    raw = w.view(np.uint8).reshape(-1)
    parts = list(Converter(device, 3 * k).convert(raw, "f32", "f32", (n, k), changes))
    assert len(parts) == 3
    error = np.abs(np.concatenate(parts).view(np.float32).reshape(n, k) - want)
    assert (error <= 6 * np.finfo(np.float32).eps * size).all()
    with pytest.raises(InputError, match=r"give \[33, 7\]"):
        list(Converter(device).convert(raw, "f32", "f32", (k, n), changes))


@pytest.mark.kernel
def test_damaged_weights_are_refused(device: Device, tmp_path: Path) -> None:
    for i, bad in enumerate((np.nan, np.inf, -np.inf)):
        x = np.ones((4, 256), np.float32)
        x[2, 77] = bad
        raw = x.view(np.uint8).reshape(-1)
        for pieces in (Converter(device).convert(raw, "f32", "q8_0", x.shape), cast(raw, "f32", "f16", x.shape)):
            with pytest.raises(InputError, match="NaN"):
                list(pieces)
        path = tmp_path / f"{i}.gguf"
        write_gguf(path, {"general.architecture": Value("str", "x")}, [TensorOut("a.weight", "f32", x.shape, raw)])
        with pytest.raises(InputError, match=rf"{i}.gguf: tensor 'a.weight'"):
            fx.quantize(path, tmp_path / "out.gguf", "q8_0", device=device)
        assert not list(tmp_path.glob("out*"))


def test_split_models_become_one_file(tmp_path: Path, rng: np.random.Generator) -> None:
    files.write(tmp_path / "whole.gguf", rng)
    with open_gguf(tmp_path / "whole.gguf") as f:
        outs = [TensorOut(t.name, t.type, t.shape, f.raw(t.name)) for t in f.tensors.values()]
        for i, part in enumerate((outs[:4], outs[4:])):
            keys = {"split.no": Value("u16", i), "split.count": Value("u16", 2)}
            keys["split.tensors.count"] = Value("i32", len(outs))
            base = typed(f.metadata, f.types) if i == 0 else {}
            write_gguf(tmp_path / f"m-0000{i + 1}-of-00002.gguf", base | keys, part)
    fx.quantize(tmp_path / "whole.gguf", tmp_path / "a.gguf", "bf16")
    fx.quantize(tmp_path / "m-00001-of-00002.gguf", tmp_path / "b.gguf", "bf16")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_what_is_refused(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.gguf"
    files.write(source, rng)
    (tmp_path / "there.gguf").write_text("mine")
    for target, options, message in (
        ("there.gguf", {}, "--force"),
        ("a.gguf", {"force": True}, "another name"),
        ("no/b.gguf", {}, "no folder"),
        ("b.gguf", {"type": "q9_k"}, "q4_k_m"),
        ("b.gguf", {"type": "iq4_xs"}, "no such mixture"),
        ("b.gguf", {"output_type": "iq4_nl"}, "no kernel writes"),
    ):
        with pytest.raises(InputError, match=message):
            fx.quantize(source, tmp_path / target, **{"type": "f16", **options})
    pair = LoraPair(np.ones((2, 32), np.float32), np.ones((32, 2), np.float32))
    write_gguf_adapter(Adapter("llama", 4.0, {"blk.0.attn_q.weight": pair}), tmp_path / "adapter.gguf")
    with pytest.raises(InputError, match="a LoRA adapter"):
        fx.quantize(tmp_path / "adapter.gguf", tmp_path / "b.gguf", "f16")
    (tmp_path / "adapter.gguf").unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(FluxError, match="are free"):
        fx.quantize(source, tmp_path / "b.gguf", "f16")
    assert (tmp_path / "there.gguf").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf", "there.gguf"]


def test_quantised_models_need_a_word(demo_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="43 tensors are quantised already"):
        fx.quantize(demo_model, tmp_path / "b.gguf", "f16")
    assert not list(tmp_path.iterdir())
    fx.quantize(demo_model, tmp_path / "b.gguf", "q8_0")  # nothing changes its type
    assert files.everything(tmp_path / "b.gguf")[2] == files.everything(demo_model)[2]


def test_names_of_types() -> None:
    assert set(writable()) == set(blocks.RUNNABLE) - {"iq4_nl", "iq4_xs"}
    found = [engine.file_type(name) for name in ("q4_k", "Q5-K-M", "q3_k", "F16")]
    assert found == ["Q4_K_M", "Q5_K_M", "Q3_K_M", "F16"]


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["q8_0", "q5_1", "bf16"])
def test_bytes_are_those_of_other_tools(device: Device, reference_dir: Path, tmp_path: Path, kind: str) -> None:
    folder = reference_dir / "models" / "stories260K"
    fx.quantize(folder / "stories260K.f32.gguf", tmp_path / "b.gguf", kind, device=device)
    with open_gguf(tmp_path / "b.gguf") as f, open_gguf(folder / f"stories260K.{kind}.gguf") as want:
        assert list(f.tensors) == list(want.tensors)
        same = [name for name, t in f.tensors.items() if t.type == want.tensors[name].type]
        assert len(same) >= len(want.tensors) - 1  # the embedding has more bits in llama.cpp's mixture
        for name in same:
            np.testing.assert_array_equal(f.raw(name), want.raw(name))
