"""Safe arithmetic: an expression is parsed and walked, never evaluated as code."""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from agentopd.errors import ToolError
from agentopd.tooling import tool
from agentopd.tooling.syntax import expression_of

Value: TypeAlias = int | float

MAX_LENGTH = 200
MAX_VALUE = 1e15
MAX_EXPONENT = 64
_ONLY = "only numbers, + - * / // % ** and parentheses"

_ARITHMETIC = re.compile(r"[0-9eE_.+\-*/%()\s]*")
"""No keyword can be written with these, so that Python's parser has nothing to warn of, such as the ``1or 2`` of a confused model."""

_BINARY: Mapping[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Value], Value]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


@tool
def calculate(expression: str) -> str:
    """Calculate with numbers, + - * / // % ** and parentheses.

    Args:
        expression: For instance 3*45+2*17.
    """
    if len(expression) > MAX_LENGTH:
        raise ToolError(f"the expression is longer than {MAX_LENGTH} characters")
    if not _ARITHMETIC.fullmatch(expression):
        raise ToolError(_ONLY)
    try:
        tree = expression_of(expression.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolError("not an expression") from error
    value = _value(tree)
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def _value(node: ast.expr) -> Value:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _apply(op, _value(left), _value(right))
    raise ToolError(_ONLY)


def _apply(op: ast.operator, left: Value, right: Value) -> Value:
    if isinstance(op, ast.Pow) and abs(right) > MAX_EXPONENT:
        raise ToolError("the exponent is too large")
    try:
        return _bounded(_BINARY[type(op)](left, right))
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except OverflowError as error:
        raise ToolError("the number is too large") from error


def _bounded(value: Value) -> Value:
    if isinstance(value, complex):
        raise ToolError("the root of a negative number")
    if abs(value) > MAX_VALUE:
        raise ToolError("the number is too large")
    return value
