"""A jinja2 environment in which a template from a stranger's file can waste neither time nor memory.

jinja2's own sandbox keeps a template away from Python's internals; this adds a budget. Not for: what chat
templates mean (template.py).

How it holds: every loop turn, call, filter, test, operator, literal and output of a template goes through a
method here (operators and calls by jinja2's own interception, the rest because `instrument` wraps the nodes
of the syntax tree). Each such step looks at the clock, and pays for what it makes before it is made, so
that no single step can be long and all of them together are bounded. Only harmless filters, functions and
methods are there at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from threading import local
from types import GeneratorType
from typing import Any

from jinja2 import Template, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flux_vk.text.budget import MAX_SMALL, OPAQUE, Budget, TooMuch, check_small, copied, replaced
from flux_vk.text.filters import FILTERS, FUNCTIONS
from flux_vk.text.instrument import Generation, instrument

_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby",
    "indent", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "reverse", "round", "safe", "select", "selectattr", "sort", "title", "trim", "truncate", "unique",
    "upper", "wordcount",
)  # fmt: skip
_METHODS = {
    str: frozenset(
        "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower "
        "isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace "
        "rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper".split()
    ),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
}
_WIDE = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\*|\d{3}|\d*\.(?:\*|\d{3}))")
"""A "%" format with a width or precision of three figures or more, or one from the arguments."""
_NOTHING_NEW = frozenset("count d default first last length".split())
_SHALLOW = _NOTHING_NEW | frozenset(
    "items join list map reject rejectattr reverse select selectattr sum boolean callable defined false filter "
    "integer iterable mapping none number sameas sequence true undefined".split()
)
"""Filters and tests that look at a value only, not through it; those that copy it pay for that elsewhere."""
_GROW = {"e": 5, "escape": 5, "indent": MAX_SMALL, "list": 8}
"""How much more than one character some filters may make of one."""
_PRODUCT = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})
"""Methods that may compare every character of the text with every one of their argument."""


class Environment(ImmutableSandboxedEnvironment):
    """Compiles and runs templates, each time within a Budget, which belongs to the current thread."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self._output,  # needs the context: nothing is folded at compile time
            extensions=["jinja2.ext.loopcontrols", Generation],
        )
        self._local = local()
        known = self.filters
        self.filters = {name: self._guard(name, known[name]) for name in _FILTERS}
        self.filters |= {name: self._guard(name, function) for name, function in FILTERS.items()}
        self.filters |= {
            "_each": self._each,
            "_made": self._made,
            "_seen": self._seen,
            "_sliced": self._sliced,
            "_data": self._data,
            "_concat": self._concat,
        }
        self.tests = {name: self._guard(name, function) for name, function in self.tests.items()}
        self.globals = dict(FUNCTIONS)

    # --- from outside ---

    def compiled(self, source: str, seconds: float) -> Template:
        """A template ready to run. Raises jinja2's errors, TooMuch, RecursionError, MemoryError,
        SyntaxError.
        """
        self._local.budget = Budget(seconds)
        tree = instrument(self.parse(source))
        self.budget.tick()
        code = self.compile(tree)
        self.budget.tick()
        return Template.from_code(self, code, self.make_globals(None))

    def run(self, template: Template, values: dict[str, Any], seconds: float, max_output: int) -> str:
        """The template's text. Raises whatever the template raises, and TooMuch."""
        self._local.budget = budget = Budget(seconds)
        parts, size = [], 0
        for part in template.generate(values):
            budget.tick()
            size += len(part)
            if size > max_output:
                raise TooMuch(f"it writes more than {max_output} characters")
            parts.append(part)
        return "".join(parts)

    @property
    def budget(self) -> Budget:
        """The budget of the rendering that this thread is in."""
        budget: Budget = self._local.budget
        return budget

    # --- jinja2's own interception ---

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Methods of Python's own types only by name: those that cannot blow up."""
        if callable(value):
            for kind, names in _METHODS.items():
                if isinstance(obj, kind):
                    return attr in names
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """No str.format: its widths make texts of any length. ("%" is there, with small widths.)"""
        return None

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902
        """Call a function, macro or method."""
        budget = __self.budget
        budget.tick()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, (str, list, tuple, dict)):
            budget.pay(0 if isinstance(owner, dict) else budget.weigh(owner) // 16)
            if isinstance(owner, str) and name == "replace" and len(args) > 1:
                budget.pay(replaced(owner, args[0], args[1]))
            elif isinstance(owner, str) and name == "join" and args:
                args = (__self.listed(args[0]),)
                budget.pay(len(owner) * len(args[0]) + budget.weigh(args[0]))
            elif isinstance(owner, str) and name in _PRODUCT and args and isinstance(args[0], str):
                budget.pay(len(owner) * len(args[0]) // 16)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, (str, list, tuple, dict)) and not isinstance(owner, dict):
            budget.pay(budget.weigh(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An arithmetic operator: integers of 64 bits, and texts and lists that are paid for."""
        budget = self.budget
        budget.tick()
        for value in (left, right):
            if isinstance(value, int) and value.bit_length() > MAX_SMALL:
                raise TooMuch("it calculates with integers of more than 64 bits")
        if operator == "**" and isinstance(right, int) and abs(right) > MAX_SMALL:
            raise TooMuch(f"it raises to the power of {right}")
        if isinstance(left, (str, list, tuple)) or isinstance(right, (str, list, tuple)):
            if operator == "*" and isinstance(left, int):
                budget.pay(budget.weigh(right) * max(0, left))
            elif operator == "*" and isinstance(right, int):
                budget.pay(budget.weigh(left) * max(0, right))
            elif operator == "+":
                budget.pay(copied(left) + copied(right))
            elif operator == "%" and isinstance(left, str):
                if _WIDE.search(left):
                    raise TooMuch("it formats text with a width of more than two figures")
                budget.pay(len(left) * 100 + budget.weigh(right) * max(1, left.count("%")))
        return self.binop_table[operator](left, right)

    # --- what the instrumented tree calls ---

    def text(self, value: Any) -> str:
        """`value` as a template writes it, paid for."""
        if isinstance(value, OPAQUE):
            raise SecurityError(f"a {type(value).__name__} cannot be written")
        self.budget.pay(self.budget.weigh(value))
        return str(value)

    def listed(self, values: Iterable[Any]) -> list[Any]:
        """All of an iterable, a step at a time."""
        return list(self._each(None, values))

    @pass_context
    def _output(self, context: object, value: Any) -> str:
        return self.text(value)

    @pass_context
    def _data(self, context: object, length: int) -> str:
        """Pays for the plain text of the template that is written beside it."""
        self.budget.pay(length)
        return ""

    @pass_context
    def _each(self, context: object, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.budget.pay(8)
            yield value

    @pass_context
    def _made(self, context: object, value: Any) -> Any:
        """A list, tuple or dictionary that the template has just made."""
        self.budget.pay(self.budget.weigh(value) if isinstance(value, (str, list, tuple, dict)) else 0)
        return value

    @pass_context
    def _sliced(self, context: object, value: Any) -> Any:
        """A part of a text or list."""
        self.budget.pay(copied(value))
        return value

    @pass_context
    def _seen(self, context: object, value: Any) -> Any:
        """One side of a comparison, which may have to look at all of it."""
        self.budget.pay(self.budget.weigh(value) // 16 if isinstance(value, (str, list, tuple, dict)) else 0)
        return value

    @pass_context
    def _concat(self, context: object, *values: Any) -> str:
        return "".join([self.text(value) for value in values])

    def _guard(self, name: str, function: Any) -> Callable[..., Any]:
        """A filter or test that looks at the clock and pays for what it is given and what it gives back."""
        first = int(hasattr(function, "jinja_pass_arg"))  # then the context stands before the value

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            budget = self.budget
            given = list(args)
            for i in range(first, len(given)):
                if isinstance(given[i], (GeneratorType, range)):
                    given[i] = self.listed(given[i])
            for value in (*given[first:], *kwargs.values()):
                deep = isinstance(value, (str, list, tuple, dict)) and name not in _SHALLOW
                budget.pay(budget.weigh(value) if deep else 0)
                if name in ("indent", "round", "tojson") and value is not given[first]:
                    check_small(name, value)
            if name == "trim":  # which may compare every character with every one of those to remove
                others = sum(len(str(value)) for value in (*given[first + 1 :], *kwargs.values()))
                budget.pay(copied(given[first]) * others // 16)
            if name in _GROW:
                budget.pay(_GROW[name] * copied(given[first]))
            result = function(*given, **kwargs)
            budget.pay(0 if name in _NOTHING_NEW else copied(result))
            return result

        return guarded
