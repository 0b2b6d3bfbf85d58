"""What a template may spend while it is rendered: time, and the size of what it makes.

Not for: where it is paid (sandbox.py, filters.py).
"""

from __future__ import annotations

import time
from types import GeneratorType
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Namespace

MAX_SMALL = 64
"""The most bits, and the largest exponent, indentation and precision."""
MAX_WORK = 64 << 20
OPAQUE = (Namespace, Macro, LoopContext, GeneratorType)
"""What cannot be written: its text would show nothing useful, or be without end."""


class TooMuch(TemplateError):
    """The template used up its time, its memory or its output."""


class Budget:
    """What one rendering may still spend: seconds until `deadline`, and `work`, counted in characters; copying
    an item of a list counts 8, looking through it 32.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.work = MAX_WORK

    def tick(self) -> None:
        """TooMuch once the time is over."""
        if time.monotonic() > self.deadline:
            raise TooMuch(f"it takes longer than {self.seconds:g} s")

    def pay(self, amount: int) -> None:
        """TooMuch if this makes more than all steps together may make."""
        self.tick()
        self.work -= amount
        if self.work < 0:
            raise TooMuch(f"it makes more than {MAX_WORK >> 20} Mi characters of text and lists")

    def weigh(self, value: Any) -> int:
        """The size of a value written out: shared parts count as often as they occur."""
        if isinstance(value, str):
            return len(value)
        total, stack = 0, [value]
        while stack:
            item = stack.pop()
            total += 32
            if isinstance(item, str):
                total += len(item)
            elif isinstance(item, dict):
                stack += item.keys()
                stack += item.values()
            elif isinstance(item, (list, tuple)):
                stack += item
            elif isinstance(item, OPAQUE):
                raise SecurityError(f"a {type(item).__name__} cannot be part of a list or a text")
            if total + 32 * len(stack) > self.work:
                raise TooMuch(f"it makes more than {MAX_WORK >> 20} Mi characters of text and lists")
        return total


class Refused(TemplateError):
    """The template itself calls the messages wrong (raise_exception)."""


def copied(value: Any) -> int:
    """The price of copying a text or a list (not what is in it)."""
    if isinstance(value, str):
        return len(value)
    return 8 * len(value) if isinstance(value, (list, tuple, dict)) else 0


def check_small(name: str, value: Any) -> None:
    """TooMuch if an argument of the filter `name` is larger than there is a use for."""
    if (isinstance(value, int) and abs(value) > MAX_SMALL) or (isinstance(value, str) and len(value) > MAX_SMALL):
        raise TooMuch(f"the filter {name!r} is given more than {MAX_SMALL}")


def replaced(text: str, old: Any, new: Any) -> int:
    """The most characters that replacing can make."""
    if not isinstance(old, str) or not isinstance(new, str):
        return 0
    return len(text) + text.count(old) * len(new)
