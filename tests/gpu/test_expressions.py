"""Expressions of contracts: the values they have, and everything that is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.errors import ContractError
from flux_vk.gpu import expressions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("R*D + 1", 13),
        ("ceil_div(R, 2) * max(1, D)", 8),
        ("min(R, D, 2)", 2),
        ("-R + 10 // D", -1),
        ("R % 2", 1),
        ("R / 2", 1.5),
        ("(R + D) * (R - D)", -7),
    ],
)
def test_values(text: str, value: float) -> None:
    assert expressions.evaluate(text, {"R": 3, "D": 4}) == value


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_ceil_div(a: int, b: int) -> None:
    q = expressions.evaluate("ceil_div(a, b)", {"a": a, "b": b})
    assert isinstance(q, int)
    assert (q - 1) * b < a <= q * b or a == q == 0


def test_names_leave_functions_out() -> None:
    assert expressions.names("ceil_div(R, WG) * max(D, 1)") == {"R", "WG", "D"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("R +", "does not parse"),
        ("", "does not parse"),
        ("R\0", "does not parse"),
        ("X + R", "needs 'X'; known are D, R"),
        ("R ** D", "uses BinOp"),
        ("R if D else 1", "uses IfExp"),
        ("R < D", "uses Compare"),
        ("__import__('os')", "uses Call"),
        ("R.real", "uses Attribute"),
        ("[R][0]", "uses Subscript"),
        ("'R'", "uses Constant"),
        ("True", "uses Constant"),
        ("max(R, key=D)", "uses Call"),
        ("ceil_div(R)", "wrong number of arguments"),
        ("R // (D - 4)", "divides by zero \\(with D=4, R=3\\)"),
        ("R % 0", "divides by zero"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        expressions.evaluate(text, {"R": 3, "D": 4})
