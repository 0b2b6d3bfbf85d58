"""Filters and functions for templates that jinja2 has not, or has without a bound.

Not for: which of jinja2's own filters there are (sandbox.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from jinja2 import pass_context, pass_environment
from jinja2.runtime import Context
from jinja2.utils import Namespace

from flux_vk.text.budget import Refused, TooMuch, replaced

if TYPE_CHECKING:
    from flux_vk.text.sandbox import Environment

MAX_RANGE = 100_000


@pass_environment
def _replace(env: Environment, text: Any, old: Any, new: Any, count: int | None = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    env.budget.pay(replaced(text, old, new))
    return str(text.replace(old, new, -1 if count is None else count))


@pass_environment
def _join(env: Environment, values: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    items = env.listed(values)
    if attribute is not None:
        items = [env.getitem(item, attribute) for item in items]
    between = str(d)
    env.budget.pay(len(between) * len(items))
    return between.join([env.text(item) for item in items])


@pass_environment
def _string(env: Environment, value: Any) -> str:
    return env.text(value)


@pass_context
def _sum(context: Context, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    env = cast("Environment", context.environment)
    for item in env.listed(values):
        value = item if attribute is None else env.getitem(item, attribute)
        start = env.call_binop(context, "+", start, value)
    return start


@pass_context
def _percent(context: Context, text: Any, *args: Any) -> Any:
    return cast("Environment", context.environment).call_binop(context, "%", str(text), args)


@pass_environment
def _json(
    env: Environment,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    parts = []
    for part in encoder.iterencode(value):  # a piece at a time: depth times indentation can be much
        env.budget.pay(len(part))
        parts.append(part)
    return "".join(parts)


def _range(*args: int) -> range:
    out = range(*args)
    if len(out) > MAX_RANGE:
        raise TooMuch(f"range() of {len(out)} numbers, expected at most {MAX_RANGE}")
    return out


def _raise_exception(message: object = "") -> None:
    raise Refused(str(message)[:500])


def _strftime_now(form: str) -> str:
    if len(form) > 256 or re.search(r"\d{3}", form):
        raise TooMuch("strftime_now() is given a format that is too long")
    return datetime.now().strftime(form)


FILTERS = {"format": _percent, "join": _join, "replace": _replace, "string": _string, "sum": _sum, "tojson": _json}
FUNCTIONS = {
    "namespace": Namespace,
    "dict": dict,
    "range": _range,
    "raise_exception": _raise_exception,
    "strftime_now": _strftime_now,
}
