"""The maker of adapters for measuring: the right tensors, the same bytes for the same seed, errors in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import make_adapter
from flux_vk.formats.adapter import read_adapter
from flux_vk.formats.gguf import open_gguf
from flux_vk.models import read_config
from flux_vk.models.lora import check_adapter_fits


def test_adapters_for_the_demo_model(demo_model: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.gguf" for i in range(3)]
    for path, seed in zip(files, ("1", "1", "2"), strict=True):
        assert make_adapter.main([str(demo_model), "--rank", "5", "--seed", seed, "-o", str(path)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    with open_gguf(demo_model) as f:
        cfg = read_config(f)
    adapter = read_adapter(files[0])
    check_adapter_fits(adapter, cfg)
    assert adapter.rank == 5 and len(adapter.tensors) == 7 * cfg.n_layers
    assert make_adapter.main([str(demo_model), "--target", "q_proj,v_proj", "-o", str(files[0])]) == 0
    assert len(read_adapter(files[0]).tensors) == 2 * cfg.n_layers


@pytest.mark.parametrize(("more", "message"), [(["--rank", "0"], "--rank 0"), (["--target", "x"], "target 'x'")])
def test_what_makes_no_sense(
    more: list[str], message: str, demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_adapter.main([str(demo_model), *more, "-o", str(tmp_path / "a.gguf")]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
