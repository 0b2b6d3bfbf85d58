"""Contexts of 32,768 tokens: memory, pages, results at the far end, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import flux_vk as fx
from bench import make_model
from flux_vk.engine.model import Model
from flux_vk.formats.gguf import open_gguf
from flux_vk.gpu import Device
from flux_vk.models import reference
from tests.engine.null_model import null_model, script, submits

pytest.importorskip("gguf")
Array = npt.NDArray[np.float64]
CONTEXT = 32_768
PROMPT = CONTEXT - 41  # tokens of a long prompt; its last step is not full
GREEDY = fx.SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of 64 elements: small enough to run a whole context."""
    out = tmp_path_factory.mktemp("long") / "long.gguf"
    shape = replace(
        make_model.SHAPES["tiny"], layers=1, dim=64, ffn=64, heads=1, kv_heads=1, vocab=320, context=CONTEXT, tied=True
    )
    make_model.write_model(shape, "Q8_0", out, seed=1)
    return out


@pytest.fixture(scope="module")
def long(device: Device, path: Path) -> Iterator[Model]:
    with fx.load(path, device=device, kv_type="f32", context=CONTEXT, sequences=6, kv_tokens=2 * CONTEXT) as m:
        yield m


def last_rows(path: Path, ids: list[int], rows: int, monkeypatch: pytest.MonkeyPatch) -> Array:
    """Logits of the last rows in float64; with one layer, the attention of all others does not matter."""

    def attend(q: Array, k: Array, v: Array, scale: float, softcap: float = 0.0, window: int = 0) -> Array:
        y = np.zeros_like(q)
        for i in range(len(q) - rows, len(q)):
            s = k[: i + 1, 0] @ q[i, 0] * scale
            e = np.exp(s - s.max())
            y[i, 0] = (e / e.sum()) @ v[: i + 1, 0]
        return y

    monkeypatch.setattr(reference, "attend", attend)
    with open_gguf(path) as file:
        return reference.forward(file, np.array(ids))[-rows:]


@pytest.mark.slow
def test_a_whole_context(long: Model, path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt, the text behind it up to the end; each choice is that of float64."""
    prompt = rng.integers(0, 256, PROMPT).tolist()
    told: list[tuple[int, int]] = []
    ban = {t: float("-inf") for t in long.tokenizer.eog_ids}
    params = fx.SamplingParams(temperature=0, logit_bias=ban)
    g = long.start(prompt, params, prompt_progress=lambda *a: told.append(a))
    assert len(list(g)) == CONTEXT - PROMPT and g.finish_reason == "context"
    rows = long.runner.limits.max_rows
    assert told == [(min(at + rows, PROMPT), PROMPT) for at in range(0, PROMPT, rows)]
    n = len(g.tokens)
    exact = last_rows(path, [*prompt, *g.tokens[:-1]], n, monkeypatch)
    exact[:, list(ban)] = -np.inf
    best, second = np.sort(exact, axis=1)[:, :-3:-1].T
    clear = best - second > 1e-3
    assert clear.mean() > 0.5
    assert (exact.argmax(1) == g.tokens)[clear].all()
    assert long.runner.slots.in_use == 0 and long.runner.pool.n_free == long.runner.pool.n_pages


def test_memory_is_planned_for_it(long: Model, path: Path, device: Device) -> None:
    """Keys and values of two contexts, and no more on the device than that."""
    kv = long.memory_plan()["kv"]
    assert kv == 2 * CONTEXT * 64 * 2 * 4
    b = long.runner.buffers
    assert sum(c.nbytes for c in (*b.kcache, *b.vcache)) == kv
    assert b.pages.shape == (6, CONTEXT // 32)
    with fx.load(path, device=device, sequences=8, context=CONTEXT, kv_tokens=CONTEXT) as m:
        assert m.memory_plan()["kv"] == CONTEXT * 64 * 2 * 2


def test_together_at_different_depths(long: Model, rng: np.random.Generator) -> None:
    """Contexts of one page to many, shared by workgroups: each text is as it is alone. Six rows of eight are used."""
    prompts = [rng.integers(0, 256, n).tolist() for n in (3, 500, 512, 1500, 2570, 31)]
    params = [fx.SamplingParams(temperature=1.0, top_k=0, seed=i, logprobs=1) for i in range(6)]
    alone = [[(t.id, t.logprob) for t in long.start(p, q, max_tokens=20)] for p, q in zip(prompts, params, strict=True)]
    found: list[list[tuple[int, float | None]]] = [[] for _ in prompts]
    for i, token in long.start_many(prompts, params, max_tokens=20):
        found[i].append((token.id, token.logprob))
    assert found == alone
    assert long.runner.buffers.arena.nbytes <= long.memory_plan()["activations"]


def test_every_step_to_the_end_of_several(demo_model: Path) -> None:
    """Bookkeeping alone: pages for one context and a little, so that the second text has to make room for the first."""
    model = null_model(demo_model, context=CONTEXT, sequences=7)
    script(model, 400)
    many = model.start_many([[1] * 20_000, [1] * 12_000], GREEDY, max_tokens=[12_768, 4_000])
    list(many)
    assert [len(g.tokens) for g in many.generations] == [12_768, 4_000]
    assert submits(model)["prefill of 64"] > 20_000 // 64 + 2 * (12_000 // 64), "run again when the first had ended"
    assert model.runner.slots.in_use == 0 and model.runner.pool.n_free == 1030
