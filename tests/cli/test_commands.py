"""The command lines as a user starts them: the demo model, pipes, signals, a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = [sys.executable, "-m", "flux_vk.run"]


def start(*argv: str, given: str | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *argv], input=given, capture_output=True, text=True, timeout=120, check=False, **options
    )  # type: ignore[call-overload]


def test_demo_model_from_anywhere(tmp_path: Path) -> None:
    done = start("-p", "It was in July", "-n", "12", "--seed", "5", cwd=tmp_path)
    assert done.returncode == 0 and len(done.stdout.split()) >= 3
    assert done.stderr.startswith("[") and "tokens/s" in done.stderr and done.stderr.count("\n") == 1


def test_json_repeats_with_a_seed() -> None:
    found = []
    for _ in range(2):
        done = start("-p", "The old prince", "-n", "8", "--seed", "11", "--json", "--logprobs", "1")
        assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1
        found.append(json.loads(done.stdout))
    a, b = found
    assert a["tokens"] == b["tokens"] and a["text"] == b["text"] and len(a["tokens"]) == 8
    assert a["finish_reason"] == "length" and a["prompt_tokens"][0] == 1 and a["device"]
    assert set(a["timings"]) == {"load_s", "ttft_s", "prompt_per_second", "generated_per_second"}
    assert all(entry["logprob"] < 0 and len(entry["top"]) == 1 for entry in a["logprobs"])


def test_errors() -> None:
    done = start("absent.gguf", "-p", "x")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "absent.gguf" in done.stderr
    done = start("-p", "x", "--device", "99")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "99" in done.stderr


def test_a_reader_that_leaves() -> None:
    running = subprocess.Popen(
        [*RUN, "-p", "x", "-n", "200", "--context-shift", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None and running.stderr is not None
    running.stdout.read(3)
    running.stdout.close()
    assert running.wait(60) == 141 and running.stderr.read() == b""
    running.stderr.close()


def test_interrupt() -> None:
    running = subprocess.Popen(
        [*RUN, "-p", "x", "-n", "1000000", "--context-shift"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    first = running.stdout.read(5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and len(first + out) > 5
    assert b"interrupted" in err and b"tokens/s" in err and b"Traceback" not in err


class Screen:
    """What a program writes to its terminal, read piece by piece."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.rest = b""

    def until(self, wanted: bytes, seconds: float = 30) -> None:
        """Read past `wanted`."""
        end = time.monotonic() + seconds
        while wanted not in self.rest and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.rest += os.read(self.fd, 4096)
                except OSError:  # the other side is closed
                    break
        assert wanted in self.rest, self.rest
        self.rest = self.rest.partition(wanted)[2]


def test_conversation_in_a_terminal() -> None:
    """Typed lines, Ctrl-C ends the answer and not the program, Ctrl-D leaves."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here: {error}")
    running = subprocess.Popen(
        [*RUN, "--context-shift", "--seed", "1"], stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
        preexec_fn=os.setsid, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    screen = Screen(ours)
    try:
        screen.until(b"> ")
        os.write(ours, b"It was in July\n")
        screen.until(b" and")
        running.send_signal(signal.SIGINT)
        screen.until(b"interrupted")
        screen.until(b"> ")
        os.write(ours, b"/help\n")
        screen.until(b"/reset")
        screen.until(b"> ")
        os.write(ours, b"\x04")
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()
        os.close(ours)


def test_streams_that_are_full_or_closed() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*RUN, "-p", "x", "-n", "2", "-q"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 1 and done.stderr == b"flux_vk: No space left on device\n"
    done = subprocess.run(
        [*RUN, "-n", "2"], stderr=subprocess.PIPE, timeout=60, check=False, preexec_fn=lambda: os.close(0)
    )
    assert done.returncode == 0 and done.stderr == b""
