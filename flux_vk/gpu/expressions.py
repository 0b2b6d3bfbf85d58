"""Integer arithmetic in kernel contracts: `ceil_div(R, 4) * max(1, N)`. Stdlib only (the build runs this too).

Not a general evaluator: names, numbers, + - * / // %, and ceil_div, min, max; anything else is refused.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

from ..errors import ContractError

Number = int | float


def _ceil_div(a: Number, b: Number) -> Number:
    return -(-a // b)


_FUNCTIONS: dict[str, Callable[..., Number]] = {"ceil_div": _ceil_div, "min": min, "max": max}
_GLOBALS: dict[str, Any] = {"__builtins__": {}, **{f"({name})": f for name, f in _FUNCTIONS.items()}}
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


@lru_cache(maxsize=4096)
def _compiled(text: str) -> CodeType | None:
    """The expression as byte code, or None where it has anything that contracts do not allow."""
    tree = copy.deepcopy(_parse(text))
    called = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            called.add(node.func)
        if not _allowed(node):
            return None
    for name in called:  # a symbol of the same name is another thing
        name.id = f"({name.id})"
    return compile(ast.Expression(tree), "<contract>", "eval")


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
    if isinstance(node, ast.BinOp):
        return type(node.op) in _BINARY
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
    return isinstance(node, (ast.Name, ast.operator, ast.unaryop, ast.Load))


def evaluate(text: str, values: Mapping[str, Number]) -> Number:
    """Value of an expression; ContractError where a name is missing or the syntax is not allowed."""
    code = _compiled(text)
    if code is not None:
        try:
            found: Number = eval(code, _GLOBALS, values)
            return found
        except Exception:
            pass  # walked again below, where what is wrong gets its name
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
