"""The pages' own examples, run as a reader would run them: files, commands and Python, in order, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import Block, Page, PageError, blocks, commands, matches

PAGES = (
    "architecture", "quickstart", "library", "command-line", "sampling", "grammar", "flux", "agents", "flux-gpu",
    "explain", "evolution", "training", "quantize",
    "adding-a-kernel", "adding-an-architecture",
)  # fmt: skip


def run_page(name: str, root: Path, folder: Path, reference: Path | None) -> str:
    """Run docs/NAME.md in `folder` in a process of its own; what it says it ran."""
    for link in ("native", "models"):
        (folder / link).symlink_to(root / link)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env.pop("FLUX_VK_REFERENCE", None)
    if reference is not None:
        env["FLUX_VK_REFERENCE"] = str(reference)
    command = [sys.executable, "-m", "tests.docs.pages", str(root / "docs" / f"{name}.md")]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, repo_root: Path, tmp_path: Path) -> None:
    """Every block that needs nothing but the repository."""
    print(run_page(name, repo_root, tmp_path, None))


def test_the_page_on_architectures_with_golden_logits(repo_root: Path, reference_dir: Path, tmp_path: Path) -> None:
    """The comparison with llama.cpp's logits, which needs the reference data."""
    said = run_page("adding-an-architecture", repo_root, tmp_path, reference_dir)
    assert "left out" not in said


def test_every_page_with_examples_is_run(repo_root: Path) -> None:
    runnable = {
        page.stem
        for page in (repo_root / "docs").glob("*.md")
        if any(b.kind in ("python", "console") for b in blocks(page.read_text(encoding="utf-8")))
    }
    assert runnable == set(PAGES)


def test_blocks_and_commands() -> None:
    text = "a\n```python\nx = 1\n```\n\n```text\n1\n```\nb\n```console\n$ a \\\n  b\nout\n$ c\n```\n"
    found = list(blocks(text))
    assert found[0] == Block("python", "x = 1", 3, False)
    assert found[1] == Block("text", "1", 7, True)
    assert (found[2].kind, found[2].adjacent) == ("console", False)
    assert list(commands(found[2].text)) == [("a \\\n  b", "out"), ("c", "")]
    assert Block("toml", "# my/a.toml\nname", 1, False).path == "my/a.toml"
    assert Block("python", "# a comment about x/y", 1, False).path is None
    with pytest.raises(ValueError, match="without a line that begins"):
        list(commands("ls"))


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ("a b", "a b  \n", True),
        ("a ... c", "a 12.5 c", True),
        ("a ... c", "a\nc", False),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nz", True),
        ("...", "", True),
        ("", "something", False),
        ("a.c", "abc", False),
    ],
)
def test_shapes(expected: str, found: str, same: bool) -> None:
    assert matches(expected, found) is same


def test_running_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks share names and files, and each kind of failure is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLUX_VK_REFERENCE", raising=False)
    page = tmp_path / "page.md"

    def run(text: str) -> Page:
        page.write_text(text)
        found = Page(page)
        found.run()
        return found

    good = "```python\nx = 2\n```\n```toml\n# d/f.txt\nhello\n```\n"
    good += "```console\n$ cat d/f.txt; echo 3 >&2\nhello\n3\n```\n"
    assert run(good + "```python\nprint(x)\n```\n```text\n2\n```\n").ran == 4
    assert run("```console\n$ ls $FLUX_VK_REFERENCE\n```\n").left_out == [2]
    with pytest.raises(PageError, match=r"page.md:2: the python block printed\s+2\s+expected\s+3"):
        run("```python\nprint(2)\n```\n```text\n3\n```\n")
    with pytest.raises(PageError, match=r"page.md:3: \$ echo no printed\s+no\s+expected\s+yes"):
        run("\n```console\n$ echo no\nyes\n```\n")
    with pytest.raises(PageError, match=r"page.md:3: \$ exit 3\s+exit status 3"):
        run("\n```console\n$ exit 3\n...\n```\n")
    with pytest.raises(ZeroDivisionError):
        run("```python\n1 / 0\n```\n")
