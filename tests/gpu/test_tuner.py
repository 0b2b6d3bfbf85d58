"""The tuner: choices are remembered, change no bits, and a damaged file is only a file less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from weights import random_raw

from flux_vk.gpu import Chain, Device, matmul_dot
from flux_vk.gpu.matmul import Tuned, matmul, tuning_key, variant_for
from flux_vk.gpu.matvec import cuts
from flux_vk.gpu.tune_matmul import candidates, tune
from flux_vk.gpu.tuner import Choice, Tuner, tuner_of


def test_choices_are_kept_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "device.tuning.json"
    tuner = Tuner(path)
    tuner._choices["matmul q4_0.lane 8x32 one"] = Choice({"rows": 8, "tokens": 1}, 1.0, 2.0)
    tuner.save()
    again = Tuner(path)
    assert again.get("matmul q4_0.lane 8x32 one") == {"rows": 8, "tokens": 1}
    assert again.get("matmul q4_0.lane 9x32 one") is None
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    again.clear()
    assert not path.exists() and len(again) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"values": {}}}'])
def test_a_damaged_file_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "device.tuning.json"
    path.write_text(text)
    assert len(Tuner(path)) == 0


def test_tuning_is_used_and_changes_no_bits(device: Device, rng: np.random.Generator) -> None:
    n, k = 96, 256
    w = device.weight(random_raw(rng, "q4_k", (n, k)), "q4_k", (n, k))
    x = device.array(rng.standard_normal((11, k), np.float32))

    def product(tuned: Tuned | None = None) -> np.ndarray:
        y = device.empty((11, n))
        matmul(chain := Chain(device), w=w, x=x, y=y, tuned=tuned)
        chain.run()
        return y.numpy()

    want = product()
    variant = variant_for(device, "q4_k")
    for many in (False, True):
        for values in candidates(device, variant, n, k, many):
            assert (product(Tuned(**values)) == want).all(), values
    names = [name for name, _ in tune(device, [("q4_k", n, k)] * 2, repeat=1)]
    assert names == [tuning_key(variant, n, k, m) for m in (False, True)]
    tuner = tuner_of(device)
    assert tuner is not None
    tuner._choices[names[1]] = Choice({"rows": 8, "tokens": 2}, 1.0, 2.0)
    matmul(chain := Chain(device), w=w, x=x, y=device.empty((11, n)))
    assert len(chain) == len(list(cuts(11, 2))) == 2
    assert (product() == want).all()
    for odd in ({"rows": 0, "tokens": 2}, {"rows": 8, "tokens": 3}, {"lanes": 8}):
        tuner._choices[names[1]] = Choice(odd, 1.0, 2.0)
        assert (product() == want).all(), "a choice of another version is left aside"
    del tuner._choices[names[0]], tuner._choices[names[1]]


def test_integer_products_are_measured_where_they_are_fast(
    device: Device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the product that would be used otherwise, which stays the choice unless they are faster; floats never."""
    if not matmul_dot.dot_able(device, "q4_k"):
        pytest.skip("this device has no integer dot product")
    monkeypatch.setattr(device, "features", device.features | {matmul_dot.FAST})
    tuner = tuner_of(device)
    assert tuner is not None
    names = [name for name, _ in tune(device, [("q4_k", 24, 256), ("f16", 24, 256)], repeat=1)]
    wanted = [matmul_dot.dot_key("q4_k", 24, 256, many) for many in (False, True)]
    assert [n for n in names if ".dot" in n] == wanted
    monkeypatch.delenv("FLUX_VK_INT_DOT", raising=False)
    for key, many in zip(wanted, (False, True), strict=True):
        chosen = tuner.get(key)
        assert chosen is not None and set(chosen) == {"dot", "rows", "tokens"}
        assert matmul_dot.dot_wanted(device, "q4_k", 24, 256, many) == (chosen["dot"] == 1)
    for name in names:
        del tuner._choices[name]
