"""What reaches the terminal: no control characters from models, bars only where they help; tables."""

from __future__ import annotations

import sys

import pytest

from flux_vk.cli import tables
from flux_vk.cli.common import human_bytes
from flux_vk.cli.terminal import Bar, Terminal


class Tty:
    """A stream that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_a_model_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Tty()
    monkeypatch.setattr(sys, "stdout", out)
    terminal = Terminal()
    terminal.write("a\x1b]0;title\x07\tb\n\x9b31mc")
    assert out.text == "a\ufffd]0;title\ufffd\tb\n\ufffd31mc"
    terminal.end_line()
    terminal.end_line()
    assert out.text.endswith("c\n") and not out.text.endswith("\n\n")


def test_pipes_get_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.write("a\x1bb")
    assert capsys.readouterr().out == "a\x1bb"


def test_no_bar_outside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal().progress("Loading") as progress:
        progress(1, 3)
        progress(3, 3)
    assert capsys.readouterr().err == ""


def test_bar_appears_after_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("flux_vk.cli.terminal.time.monotonic", lambda: now[0])
    opened: list[bool] = []
    bar = Bar("Loading", "bytes")
    monkeypatch.setattr(bar, "_open", lambda: opened.append(True) or setattr(bar, "_progress", FakeProgress()))
    bar.update(1, 10)
    assert not opened
    now[0] = 1.0
    bar.update(2, 10)
    bar.update(3, 10)
    assert len(opened) == 1
    bar.update(10, 10)
    assert bar._progress is None


class FakeProgress:
    def update(self, task: object, completed: int, total: int) -> None:
        assert 0 < completed < total == 10

    def stop(self) -> None:
        pass


def test_tables() -> None:
    header, rows = ("name", "n", "x"), [["a", 1, 0.5], ["long|name", 20, None]]
    assert tables.aligned(header, rows).splitlines() == ["name        n     x", "a           1  0.50", "long|name  20"]
    assert tables.markdown(header, rows).splitlines() == [
        "| name | n | x |", "|---|---:|---:|", "| a | 1 | 0.50 |", "| long/name | 20 |  |",
    ]  # fmt: skip
    assert tables.as_csv(header, rows).splitlines() == ["name,n,x", "a,1,0.5", "long|name,20,"]
    shown = [tables.shown(v) for v in (0.0, 0.00123, 12.3456, 123.456, 12345.6)]
    assert shown == ["0.00", "0.0012", "12.35", "123.5", "12346"]


@pytest.mark.parametrize(
    ("n", "shown"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 kB"), (2.5e9, "2.5 GB"), (5e12, "5000.0 GB")]
)
def test_bytes(n: float, shown: str) -> None:
    assert human_bytes(n) == shown
