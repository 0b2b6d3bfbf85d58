"""docs/opcodes.md is what the table of opcodes says."""

from __future__ import annotations

from pathlib import Path

from flux_vk.flux import OPCODES
from flux_vk.flux.opcode_page import opcode_page


def test_the_page_is_current(repo_root: Path) -> None:
    page = (repo_root / "docs" / "opcodes.md").read_text(encoding="utf-8")
    assert page == opcode_page(), "run: python -m flux_vk.flux.opcode_page > docs/opcodes.md"


def test_every_operation_is_on_it() -> None:
    lines = [line for line in opcode_page().splitlines() if line.startswith("| ") and line[2:4].isalnum()]
    rows = [line for line in lines if line[4:7] == " | "]
    assert len(rows) == len(OPCODES) == 131
    for op in OPCODES.values():
        assert any(f"| {op.byte:02X} | `{op.name}" in row and op.meaning in row for row in rows), op.name
