"""AdamW and SGD against what PyTorch did (golden_optim/make.py), formulas, sizes, and steps that must not count."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import Chain, Device, optimizer
from flux_vk.gpu.optimizer import pack_knobs
from flux_vk.gpu.reference import reference
from tests.gpu.harness import Guarded, nmse, run_kernel

pytestmark = pytest.mark.kernel
GOLDEN = Path(__file__).parent / "golden_optim" / "optim.npz"
CASES = ["adamw", "adamw_knobs", "adamw_clipped", "sgd", "sgd_momentum", "sgd_clipped"]
ARRAYS = {"adamw": ("params", "grads", "m", "v"), "sgd": ("params", "grads", "m")}
GOOD = np.array([1, 1, 1, 0], np.float32)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as stored:
        return dict(stored)


def steps(golden: dict[str, np.ndarray], name: str, count: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Gradient (a sum over `count` labels) and knobs of each step of a case."""
    options: dict[str, Any] = json.loads(str(golden["cases"]))["cases"][name]
    options["betas"] = tuple(options.get("betas", (0.9, 0.999)))
    for i, (g, lr) in enumerate(zip(golden["grads"], golden["lr"], strict=True)):
        yield g * np.float32(count), pack_knobs(lr=float(lr), step=i + 1, inverse_count=1 / count, **options)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [1.0, 64.0])
def test_as_pytorch(device: Device, golden: dict[str, np.ndarray], name: str, count: float) -> None:
    """24 steps with warmup and cosine: parameters, norms and moments within 1e-6; gradients 0 after each."""
    kernel = name.split("_")[0]
    guarded = Guarded(device)
    start = golden["start"]
    buffers = {n: guarded.array(n, start if n == "params" else np.zeros_like(start)) for n in ARRAYS[kernel]}
    knobs, stats = guarded.empty("knobs", (16,)), guarded.empty("stats", (4,))
    chain = Chain(device)
    optimizer.gradient_stats(chain, grads=buffers["grads"], knobs=knobs, stats=stats)
    getattr(optimizer, kernel)(chain, **buffers, knobs=knobs, stats=stats)
    recorded = chain.record()
    for i, (g, scalars) in enumerate(steps(golden, name, count)):
        buffers["grads"].write(g)
        knobs.write(scalars)
        recorded.submit()
        recorded.wait()
        want = golden[f"{name}.params"][i]
        got = buffers["params"].numpy()
        assert np.linalg.norm(got - want) < 1e-6 * np.linalg.norm(want)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-7)
        np.testing.assert_allclose(got[:8], want[:8], rtol=3e-6, atol=1e-8)  # began at 0: all that is there are steps
        np.testing.assert_allclose(stats.numpy()[0], golden[f"{name}.norm"][i], rtol=1e-6)
        assert not buffers["grads"].numpy().any()
    for moment in ("m", "v"):
        if f"{name}.{moment}" in golden:
            want = golden[f"{name}.{moment}"]
            np.testing.assert_allclose(buffers[moment].numpy(), want, rtol=1e-6, atol=1e-6 * np.abs(want).max())
    guarded.check()


@pytest.mark.parametrize("name", CASES)
def test_the_reference_is_what_pytorch_does(golden: dict[str, np.ndarray], name: str) -> None:
    kernel = name.split("_")[0]
    state = {n: golden["start"] if n == "params" else np.zeros_like(golden["start"]) for n in ARRAYS[kernel]}
    for i, (g, knobs) in enumerate(steps(golden, name, 1.0)):
        stats = reference("grad_clip")(reference("grad_norm")(g, n=1), knobs)
        made = reference(kernel)(**{**state, "grads": g}, knobs=knobs, stats=stats)
        state = dict(zip(ARRAYS[kernel], made, strict=True))
        np.testing.assert_allclose(state["params"], golden[f"{name}.params"][i], rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
def test_first_step_of_adamw(device: Device, rng: np.random.Generator, scale: float) -> None:
    """Without decay -lr * g / (|g| + eps), at any scale of g; decay is lr * weight_decay of the parameter."""
    g = (scale * rng.standard_normal(1000)).astype(np.float32)
    start = rng.standard_normal(1000).astype(np.float32)
    zeros = np.zeros_like(g)
    for decay in (0.0, 0.5):
        knobs = pack_knobs(lr=0.25, step=1, weight_decay=decay)
        inputs = {"params": start, "grads": g, "m": zeros, "v": zeros, "knobs": knobs, "stats": GOOD}
        got = run_kernel(device, "adamw", inputs, {})
        wide = g.astype(np.float64)
        want = start * (1 - 0.25 * decay) - 0.25 * wide / (np.abs(wide) + 1e-8)
        np.testing.assert_allclose(got["params"], want, rtol=1e-6, atol=5e-7)
        np.testing.assert_allclose(got["v"], 0.001 * wide * wide, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("kernel", list(ARRAYS))
@pytest.mark.parametrize(
    ("size", "items", "wg"),
    [(n, 4, 64) for n in (0, 1, 3, 4, 255, 256, 257, 1023, 1025, 100_003)] + [(5001, 1, 128), (5001, 8, 256)],
)
def test_sizes(device: Device, rng: np.random.Generator, kernel: str, size: int, items: int, wg: int) -> None:
    inputs = {n: rng.standard_normal(size).astype(np.float32) for n in ARRAYS[kernel]}
    if "v" in inputs:
        inputs["v"] **= 2
    inputs["knobs"] = pack_knobs(lr=0.1, step=7, weight_decay=0.3, momentum=0.8, betas=(0.85, 0.97))
    inputs["stats"] = np.array([1, 0.7, 1, 0], np.float32)
    got = run_kernel(device, kernel, inputs, {}, ITEMS=items, WG=wg)
    want = reference(kernel)(**inputs)
    for name, array in zip(ARRAYS[kernel], want, strict=True):
        assert nmse(got[name], array) < 1e-12, name


@pytest.mark.parametrize("kernel", list(ARRAYS))
@pytest.mark.parametrize("size", [1024, 1027])
def test_a_step_that_must_not_count(device: Device, rng: np.random.Generator, kernel: str, size: int) -> None:
    """stats[2] = 0: whatever lies in parameters and moments stays bit for bit, the gradients become 0."""
    bits = {n: rng.integers(0, 2**32, size, dtype=np.uint32).view(np.float32) for n in ARRAYS[kernel]}
    knobs = pack_knobs(lr=0.1, weight_decay=0.1, momentum=0.9)
    got = run_kernel(device, kernel, {**bits, "knobs": knobs, "stats": np.array([np.nan, 0, 0, 0], np.float32)}, {})
    assert not got.pop("grads").view(np.uint32).any()
    for name, array in got.items():
        np.testing.assert_array_equal(array.view(np.uint32), bits[name].view(np.uint32), err_msg=name)


def test_knobs_without_the_rest_of_beta(device: Device, rng: np.random.Generator) -> None:
    """Where 1 - beta is left 0 it is taken in 32 bits, which is good for what ten bits can say."""
    p, g = rng.standard_normal((2, 300)).astype(np.float32)
    knobs = pack_knobs(lr=0.1, betas=(0.75, 0.875))
    knobs[10:12] = 0
    inputs = {"params": p, "grads": g, "m": 0 * p, "v": 0 * p, "knobs": knobs, "stats": GOOD}
    got = run_kernel(device, "adamw", inputs, {})
    for name, array in zip(ARRAYS["adamw"], reference("adamw")(**inputs), strict=True):
        assert nmse(got[name], array) < 1e-12


def test_pieces(device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters larger than one binding may span are done in several dispatches, with the same bits."""
    arrays = {n: np.abs(rng.standard_normal(40_001)).astype(np.float32) for n in ARRAYS["adamw"]}
    knobs, stats = device.array(pack_knobs(lr=0.1)), device.array(GOOD)
    whole, parts = ({n: device.array(a) for n, a in arrays.items()} for _ in range(2))
    optimizer.adamw(Chain(device), **whole, knobs=knobs, stats=stats).run()
    monkeypatch.setattr(type(device), "max_range", property(lambda self: 65_536))
    chain = optimizer.adamw(Chain(device), **parts, knobs=knobs, stats=stats)
    assert len(chain) == 3
    chain.run()
    for name in arrays:
        np.testing.assert_array_equal(parts[name].numpy(), whole[name].numpy())


def test_knobs_that_cannot_be() -> None:
    for wrong in ({"step": 0}, {"betas": (1.0, 0.999)}, {"betas": (0.9, -0.1)}):
        with pytest.raises(ArgumentError, match="expected a step from 1 on and 0 <= beta < 1"):
            pack_knobs(lr=1, **wrong)  # type: ignore[arg-type]
    assert pack_knobs(lr=1, betas=(0, 0))[[2, 3, 10, 11]].tolist() == [1, 1, 1, 1]
