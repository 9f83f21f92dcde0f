"""Arithmetic that cannot run code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.errors import ToolError
from agentopd.tools.calculator import calculate


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("3*45+2*17", "169"),
        (" (1 + 2) * -3 ", "-9"),
        ("7/2", "3.5"),
        ("6/2", "3"),
        ("7//2", "3"),
        ("-7 % 5", "3"),
        ("2**10", "1024"),
        ("0.1+0.2", "0.3"),
        ("2**-1", "0.5"),
        ("-" * 199 + "1", "-1"),
    ],
)
def test_results(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1/0", "division by zero"),
        ("9**9**9", "exponent"),
        ("99999999**64", "too large"),
        ("1e400", "too large"),
        ("(-8)**0.5", "root"),
        ("__import__('os')", "only numbers"),
        ("a+1", "only numbers"),
        ("True+1", "only numbers"),
        ("1j", "only numbers"),
        ("'a'*3", "only numbers"),
        ("1<2", "only numbers"),
        ("", "not an expression"),
        ("3*", "not an expression"),
        ("\x00", "not an expression"),
        ("(" * 150, "not an expression"),
        ("1+" * 150 + "1", "longer"),
    ],
)
def test_what_is_refused(expression: str, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        calculate(expression)


@given(st.text(alphabet="0123456789+-*/%(). e_", max_size=40))
def test_any_text_is_a_number_or_a_tool_error(expression: str) -> None:
    try:
        float(calculate(expression))
    except ToolError:
        return
