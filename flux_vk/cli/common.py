"""Shared by all command lines: a parser that fails in one line, checked numbers, errors as exit codes.

Not for: what a command does.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from flux_vk.errors import FluxError

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EXIT_PIPE = 141  # 128 + SIGPIPE


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr and exit code 2."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_INPUT, f"flux_vk: {message}; {self.prog} --help lists all options\n")


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`, for argparse's `type`."""
    wanted = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {wanted}") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"found {text}, expected {wanted}")
        return value

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """A reader of finite numbers from `low` to `high`, for argparse's `type`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # NaN fails too
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from {low:g} to {high:g}")
        return value

    return read


def text(what: str) -> Callable[[str], str]:
    """A reader of texts that must not be empty."""

    def read(value: str) -> str:
        if not value:
            raise argparse.ArgumentTypeError(f"found an empty text, expected {what}")
        return value

    return read


def guarded(body: Callable[[], int], debug: bool = False) -> int:
    """Run a command's body; turn whatever it raises into one line on stderr and an exit code.

    FluxError: its own code. Ctrl-C: 130. A closed pipe: 141, silently. debug: with the traceback.
    """
    _open_streams()
    try:
        code = body()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_PIPE
    except KeyboardInterrupt:
        return _failed("interrupted", EXIT_INTERRUPTED, debug)
    except FluxError as error:
        return _failed(str(error), error.exit_code, debug)
    except MemoryError:
        return _failed("this machine has not enough free memory for that", 1, debug)
    except OSError as error:
        _forget_stdout()  # it may be what failed: a full disk
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror or error}", 1, debug)
    except Exception as error:
        what = f"internal error: {type(error).__name__}: {error}"
        return _failed(f"{what} (--debug shows where; `python -m flux_vk.info` tells what a report needs)", 1, debug)


def _open_streams() -> None:
    """Python leaves out the streams that were closed when it started; what goes there is lost, not an error."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdin is None:
        sys.stdin = open(os.devnull)


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"flux_vk: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain about the closed pipe."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # stdout is no file of the system's: nothing to silence


def human_bytes(n: float) -> str:
    """1536 -> '1.5 kB' (powers of 1000, as disks and files are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n) < 1000 or unit == "GB":
            break
        n /= 1000
    return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
