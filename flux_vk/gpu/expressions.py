"""Integer arithmetic in kernel contracts: `ceil_div(R, 4) * max(1, N)`. Stdlib only (the build runs this too).

Not a general evaluator: names, numbers, + - * / // %, and ceil_div, min, max; anything else is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache

from ..errors import ContractError

Number = int | float


def _ceil_div(a: Number, b: Number) -> Number:
    return -(-a // b)


_FUNCTIONS: dict[str, Callable[..., Number]] = {"ceil_div": _ceil_div, "min": min, "max": max}
_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Div: lambda a, b: a / b,
    ast.Mod: lambda a, b: a % b,
}


@lru_cache(maxsize=4096)
def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL byte
        raise ContractError(f"expression {text!r} does not parse: {error}") from None


@lru_cache(maxsize=4096)
def names(text: str) -> frozenset[str]:
    """Names an expression needs (functions left out)."""
    return frozenset(n.id for n in ast.walk(_parse(text)) if isinstance(n, ast.Name)) - set(_FUNCTIONS)


def evaluate(text: str, values: Mapping[str, Number]) -> Number:
    """Value of an expression; ContractError where a name is missing or the syntax is not allowed."""
    try:
        return _value(_parse(text), values, text)
    except ZeroDivisionError:
        shown = ", ".join(f"{n}={values[n]}" for n in sorted(names(text)))
        raise ContractError(f"expression {text!r} divides by zero (with {shown})") from None
    except TypeError:
        raise ContractError(f"expression {text!r} calls a function with the wrong number of arguments") from None


def _value(node: ast.expr, values: Mapping[str, Number], text: str) -> Number:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.Name):
        if node.id in values:
            return values[node.id]
        raise ContractError(f"expression {text!r} needs {node.id!r}; known are {', '.join(sorted(values)) or 'none'}")
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left, values, text), _value(node.right, values, text))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, values, text)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id in _FUNCTIONS:
            return _FUNCTIONS[node.func.id](*(_value(a, values, text) for a in node.args))
    raise ContractError(f"expression {text!r} uses {type(node).__name__}, which contracts do not allow")
