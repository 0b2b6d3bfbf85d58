"""docs/kernels.md is what the contracts say."""

from __future__ import annotations

from pathlib import Path

from flux_vk.gpu import kernels
from flux_vk.gpu.kernel_page import kernel_page


def test_the_page_is_current(repo_root: Path) -> None:
    page = (repo_root / "docs" / "kernels.md").read_text(encoding="utf-8")
    assert page == kernel_page(), "run: python -m flux_vk.gpu.kernel_page > docs/kernels.md"


def test_every_kernel_is_on_it() -> None:
    page = kernel_page()
    for name, c in kernels.contracts().items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert c.summary in section
        for b in c.bindings:
            assert f"`{b.name}`" in section
        for s in c.spec:
            assert f"`{s.name}`" in section
        assert len(c.variants) == 1 or all(f"`{v.name}`" in section for v in c.variants)
