"""Runs the fenced blocks of a documentation page in order, as a reader would, and compares what they print.

    python -m tests.docs.pages PAGE        in an empty folder with links to native/ and models/

python blocks share one namespace; the text block right behind one is what it prints. console blocks hold `$ commands`
for bash, which must end with status 0, and their output. A block that begins with a comment of a path alone
(`# my/file.toml`) is written to that file. In expected output `...` stands for anything within a line, and alone on a
line for any lines. Other fences are not run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REFERENCE = "$FLUX_VK_REFERENCE"
_PATH = re.compile(r"^(?:#|//) ((?:[\w.-]+/)+[\w.-]+)$")


class PageError(Exception):
    """A block failed or printed something else; the message names page, line, expected and found."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the page's line where the text begins."""

    kind: str
    text: str
    line: int
    adjacent: bool
    """Whether nothing but blank lines stands between this block and the one before."""

    @property
    def path(self) -> str | None:
        """The file that this block is, by its first line."""
        found = _PATH.match(self.text.split("\n", 1)[0])
        return found[1] if found else None


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    kind: str | None = None
    start, lines, adjacent = 0, [""], False
    for number, line in enumerate(page.splitlines(), 1):
        if kind is None and line.startswith("```"):
            kind, start, lines = line[3:].strip(), number + 1, []
        elif kind is not None and line.rstrip() == "```":
            yield Block(kind, "\n".join(lines), start, adjacent)
            kind, adjacent = None, True
        elif kind is not None:
            lines.append(line)
        elif line.strip():
            adjacent = False


def matches(expected: str, found: str) -> bool:
    """Whether output has the expected shape (see above); spaces at line ends do not matter."""

    def clean(text: str) -> list[str]:
        return [line.rstrip() for line in text.strip("\n").splitlines()]

    parts = []
    for line in clean(expected):
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(r"[^\n]*".join(re.escape(p) for p in line.split("...")) + r"\n")
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in clean(found))) is not None


def commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, expected output) of a console block; a command that ends in a backslash goes on in the next line."""
    command: str | None = None
    output: list[str] = []
    more = False
    for line in text.splitlines():
        if more:
            command = f"{command}\n{line}"
        elif line.startswith("$ "):
            if command is not None:
                yield command, "\n".join(output)
            command, output = line[2:], []
        else:
            output.append(line)
            continue
        more = line.endswith("\\")
    if command is None:
        raise ValueError("a console block without a line that begins with '$ '")
    yield command, "\n".join(output)


class Page:
    """A page being run in the current folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, object] = {"__name__": "__page__"}
        self.ran = 0
        self.left_out: list[int] = []

    def run(self) -> None:
        """All blocks, in order. Raises PageError at the first that fails."""
        found = list(blocks(self.path.read_text(encoding="utf-8")))
        for block, following in zip(found, [*found[1:], None], strict=True):
            if block.path is not None:
                target = Path(block.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(block.text.split("\n", 1)[1] + "\n", encoding="utf-8")
            elif block.kind == "python":
                printed = following is not None and following.kind == "text" and following.adjacent
                self.python(block, following.text if printed and following is not None else "")
            elif block.kind == "console":
                self.console(block)
            else:
                continue
            self.ran += 1

    def python(self, block: Block, expected: str) -> None:
        """Run a python block in the page's namespace; line numbers of tracebacks are the page's."""
        output = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.text, str(self.path), "exec")
        with contextlib.redirect_stdout(output):
            exec(code, self.names)
        self.compare(block, "the python block", expected, output.getvalue())

    def console(self, block: Block) -> None:
        """Run the commands of a console block; those that need the reference data only where it is."""
        for command, expected in commands(block.text):
            if REFERENCE in command and "FLUX_VK_REFERENCE" not in os.environ:
                self.left_out.append(block.line)
                continue
            done = subprocess.run(
                ["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise PageError(f"{self.path}:{block.line}: $ {command}\nexit status {done.returncode}\n{done.stdout}")
            self.compare(block, f"$ {command}", expected, done.stdout)

    def compare(self, block: Block, what: str, expected: str, found: str) -> None:
        if not matches(expected, found):
            raise PageError(f"{self.path}:{block.line}: {what} printed\n{found}\nexpected\n{expected}")


def main() -> int:
    page = Page(Path(sys.argv[1]))
    page.run()
    left_out = f", left out (no reference data): lines {page.left_out}" if page.left_out else ""
    print(f"{page.path.name}: {page.ran} blocks ran{left_out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
