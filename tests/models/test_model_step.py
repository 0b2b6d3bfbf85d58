"""The GPU step against logits that nobody here produced: golden files and trained models, float32 cache."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Device, NullDevice
from flux_vk.models import memory_needed
from flux_vk.models.step import attention_shape, heads_per_workgroup
from tests.models.one_slot import OneSlot
from tests.models.test_model_reference import CONTEXT, F32_FILES

pytestmark = pytest.mark.kernel
TOLERANCE = 1e-3
QUANTISED = [
    f"{model}.{kind}"
    for model in ("qllama", "qqwen2")
    for kind in (
        "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
        "iq4_nl", "iq4_xs", "q4_k_m", "q5_k_m", "q3_k_m", "q2_k_mix",
    )
]  # fmt: skip


def check(model: OneSlot, want: dict[str, npt.NDArray[np.float32]], j: int) -> float:
    """One golden prompt: logits, argmax and log-sum-exp of the prefill, 24 greedy tokens. Returns the worst error."""
    model.reset()
    logits = model.prefill(want[f"ids_{j}"])
    worst = float(np.abs(logits[want[f"pos_{j}"]] - want[f"logits_{j}"]).max())
    wide = logits.astype(np.float64)
    worst = max(worst, float(np.abs(np.log(np.exp(wide).sum(1)) - want[f"lse_{j}"]).max()))
    clear = want[f"argmax_gap_{j}"] > 2 * TOLERANCE
    assert (logits.argmax(1) == want[f"argmax_{j}"])[clear].all()
    tokens, last = model.greedy(logits[-1], len(want[f"greedy_{j}"]))
    assert tokens == want[f"greedy_{j}"].tolist()
    return max(worst, float(np.abs(last - want[f"greedy_last_logits_{j}"]).max()))


def golden(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    with np.load(path) as z:
        return dict(z)


@pytest.mark.parametrize("name", F32_FILES)
def test_f32_files(device: Device, reference_dir: Path, name: str) -> None:
    """Every architecture and rope scaling: all three prompts."""
    want = golden(reference_dir / "golden" / f"{name}.golden.npz")
    with OneSlot(device, reference_dir / "golden" / f"{name}.f32.gguf", context=CONTEXT) as model:
        worst = max(check(model, want, j) for j in range(3))
    print(f"{name}: largest logit error {worst:.1e}")
    assert worst < TOLERANCE


@pytest.mark.parametrize("name", [*QUANTISED, "phi3.q8_0", "phi3.q4_0"])
def test_quantised_files(device: Device, reference_dir: Path, name: str) -> None:
    """Every block type against the exact logits (dequantised weights): all three prompts."""
    want = golden(reference_dir / "golden" / f"{name}.golden.npz")
    with OneSlot(device, reference_dir / "golden" / f"{name}.gguf", context=CONTEXT) as model:
        worst = max(check(model, want, j) for j in range(3))
    print(f"{name}: largest logit error {worst:.1e}")
    assert worst < TOLERANCE


@pytest.mark.parametrize("name", ["stories260K", "babyllama105"])
def test_trained_models(device: Device, reference_dir: Path, name: str) -> None:
    """Trained weights, in F32: greedy text of four prompts and the full logits at the end of each."""
    folder = reference_dir / "models" / name
    expected = json.loads((folder / f"{name}.expected.json").read_text())
    logits = golden(folder / f"{name}.expected_logits.npz")
    with OneSlot(device, folder / f"{name}.f32.gguf", context=256) as model:
        for i, case in enumerate(expected["cases"]):
            model.reset()
            last = model.prefill(case["prompt_ids"])[-1]
            assert np.abs(last - logits[f"p{i}_last_prompt_logits"]).max() < TOLERANCE
            assert model.greedy(last, len(case["greedy_ids"]))[0] == case["greedy_ids"]


@pytest.mark.parametrize("name", ["stories260K", "babyllama105"])
@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_trained_models_quantised(device: Device, reference_dir: Path, name: str, kind: str) -> None:
    """The same text as float64 arithmetic on the dequantised weights; rows of 172 stay F16 in these files."""
    folder = reference_dir / "models" / name
    expected = json.loads((folder / f"{name}.expected.json").read_text())
    case = expected["quantised"][kind]
    prompt = next(c["prompt_ids"] for c in expected["cases"] if c["prompt"] == case["prompt"])
    with OneSlot(device, folder / case["file"], context=256) as model:
        assert model.greedy(model.prefill(prompt)[-1], 32)[0] == case["greedy_ids"][:32]


@pytest.mark.parametrize("name", ["stories260K", "babyllama105"])
def test_the_same_model_as_qwen2(device: Device, reference_dir: Path, name: str) -> None:
    """A file with its q and k rows permuted to the other rope layout gives the same logits."""
    folder = reference_dir / "models" / name
    ids = json.loads((folder / f"{name}.expected.json").read_text())["cases"][1]["prompt_ids"]
    with (
        OneSlot(device, folder / f"{name}.f32.gguf", context=64) as a,
        OneSlot(device, folder / f"{name}.as-qwen2.f32.gguf", context=64) as b,
    ):
        np.testing.assert_allclose(a.prefill(ids), b.prefill(ids), atol=1e-4)


def test_demo_model(device: Device, demo_model: Path) -> None:
    """The demo model with both cache types: logits differ by f16 rounding only, and its text does not."""
    ids = [1, 688, 318, 297, 1150, 1993, 308]
    texts, logits = [], []
    for kv_type in ("f32", "f16"):
        with OneSlot(device, demo_model, context=128, kv_type=kv_type) as model:
            last = model.prefill(ids)[-1]
            texts.append(model.greedy(last, 16)[0])
            logits.append(last)
    np.testing.assert_allclose(logits[0], logits[1], atol=0.02)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_chunks_and_chosen_rows_are_bit_equal(device: Device, reference_dir: Path, name: str) -> None:
    """Prefill in one go, in chunks of 1, 7 and 32, with logits of some rows or none: always the same bits."""
    path = reference_dir / "golden" / f"{name}.f32.gguf"
    ids = golden(reference_dir / "golden" / f"{name}.golden.npz")["ids_2"][:70]
    with OneSlot(device, path, max_rows=70) as model:
        whole = model.prefill(ids)
        for chunk in (1, 7, 32):
            model.reset()
            assert np.array_equal(model.prefill(ids, chunk), whole), f"chunks of {chunk}"
        model.reset()
        assert model.step(ids[:30], []).shape[0] == 0
        assert np.array_equal(model.step(ids[30:], [39, 0, 20]), whole[[69, 30, 50]])


def test_sizes_are_checked(device: Device, demo_model: Path) -> None:
    with OneSlot(device, demo_model, context=64) as model:
        with pytest.raises(ArgumentError, match="n_logits = 3"):
            model.chain(2, 3)
        model.io.kcache.pop()
        with pytest.raises(ArgumentError, match="5 layers; the model has 6"):
            model.chain(2, 2)


@pytest.mark.parametrize(("group", "size"), [(1, 1), (4, 4), (7, 7), (8, 8), (11, 6), (16, 8), (9, 5), (32, 8)])
def test_heads_per_workgroup(group: int, size: int) -> None:
    """Even shares of at most eight."""
    assert heads_per_workgroup(group) == size


@pytest.mark.parametrize("name", ["llama", "phi3", "gemma3"])
def test_memory_needed(device: Device, reference_dir: Path, name: str) -> None:
    """What is worked out from the header covers what is used, and not by far."""
    with OneSlot(device, reference_dir / "golden" / f"{name}.f32.gguf", context=128, kv_type="f16") as model:
        need = memory_needed(model.file, model.cfg, context=128, kv_type="f16", max_rows=64)
        arena = model.chain(64, 1).plan().arena_bytes
        assert need["weights"] == pytest.approx(model.weights.nbytes, rel=0.01)
        assert need["kv"] == sum(cache.nbytes for cache in (*model.io.kcache, *model.io.vcache))
        assert arena <= need["activations"] <= 2 * arena + 4 * model.cfg.vocab_size


def test_dispatches_of_a_layer(device: Device, demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """q k v, rope and store, attention, output, gate and up, down: six. Without fusion two norms and swiglu besides."""
    for fusion, layer, head in (("all", 6, 1), ("none", 9, 2)):
        monkeypatch.setenv("FLUX_VK_FUSION", fusion)
        with OneSlot(device, demo_model, context=64) as model:
            plan = model.chain(1, 1).plan()
            assert len(plan.steps) == 1 + layer * model.cfg.n_layers + head  # embedding before, (norm and) head after
            assert len(plan.barriers) < len(plan.steps)


def test_attention_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU drivers with subgroups of eight get the variant made for them where the head size allows it."""
    monkeypatch.delenv("FLUX_VK_FAMILY", raising=False)
    wide, narrow = {"WG": 8, "CHUNK": 16, "variant": "f16.lane"}, {"WG": 8, "CHUNK": 16}
    assert attention_shape(NullDevice("discrete"), 64, "f16") == {"WG": 32, "CHUNK": 8}
    assert attention_shape(NullDevice("cpu"), 64, "f16") == wide
    assert attention_shape(NullDevice("cpu"), 80, "f16") == narrow
    assert attention_shape(NullDevice("cpu", subgroup_size=4), 64, "f32") == narrow
    assert attention_shape(NullDevice("cpu", features=frozenset({"storage16"})), 64, "f32") == narrow
