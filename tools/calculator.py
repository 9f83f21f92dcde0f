"""Exact arithmetic: an expression is parsed and walked, never evaluated as code.

Decimals are what is written, not the nearest binary number, and nothing is rounded on the way. A result that no decimal gives, such as 1/3,
is rounded when it is told, and so are the roots of what has none among the fractions.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from agentopd.errors import ToolError
from agentopd.tooling import tool
from agentopd.tooling.syntax import expression_of

MAX_LENGTH = 200
MAX_VALUE = 10**15
MAX_EXPONENT = 64
MAX_BITS = 4096
"""Of the denominator of a result, also in between."""
SMALLEST = -400
"""The power of ten of the smallest number that can be written."""
DECIMALS = 20
"""Decimals of a result that are told if they are all it has."""
ROUNDED = 10
"""Digits of one that has more; of a large one all digits before the point, and a few behind it."""
_BEHIND = 4
_ONLY = "only numbers, + - * / // % ** and parentheses"

_ARITHMETIC = re.compile(r"[0-9eE_.+\-*/%()\s]*")
"""No keyword can be written with these, so that Python's parser has nothing to warn of, such as the ``1or 2`` of a confused model."""

_PERCENT = re.compile(r"%\s*([-+*/)]|$)")
"""A per cent sign where no operand of a remainder follows, or one with a sign, as in ``100 + 20% - 5``."""

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Fraction], Fraction]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


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
    text = expression.strip()
    if _PERCENT.search(text):
        raise ToolError("% is the remainder of a division; write 20/100 for 20 per cent, and 7 % (-3) before a sign")
    try:
        tree = expression_of(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolError("not an expression") from error
    return _text(_value(tree, text))


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _written(ast.get_source_segment(text, node) or str(number), number)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand, text))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _apply(op, _value(left, text), _value(right, text))
    raise ToolError(_ONLY)


def _written(digits: str, about: float) -> Fraction:
    """A number as it is written, which is ``about`` so much; its power of ten is looked at before it is multiplied out."""
    if about > MAX_VALUE:
        raise ToolError("the number is too large")
    try:
        number = Decimal(digits)
    except InvalidOperation as error:  # a power of ten that even this cannot hold
        raise ToolError("the number is too small") from error
    if number and number.adjusted() < SMALLEST:
        raise ToolError("the number is too small")
    return Fraction(number)


def _apply(op: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    if isinstance(op, ast.Pow) and abs(right) > MAX_EXPONENT:
        raise ToolError("the exponent is too large")
    try:
        return _bounded(_BINARY[type(op)](left, right))
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except OverflowError as error:
        raise ToolError("the number is too large") from error


def _bounded(found: Any) -> Fraction:
    if isinstance(found, complex):
        raise ToolError("the root of a negative number")
    value = Fraction(found)  # of a root it is a float, and of // an integer
    if abs(value) > MAX_VALUE:
        raise ToolError("the number is too large")
    if value.denominator.bit_length() > MAX_BITS:
        raise ToolError("the number has too many digits")
    return value


def _text(value: Fraction) -> str:
    whole = 10**DECIMALS % value.denominator == 0
    digits = len(str(abs(int(value))))
    context = Context(prec=digits + DECIMALS if whole else max(ROUNDED, digits + _BEHIND))
    found = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{found:f}" if whole else f"{found.normalize():f}" if found.adjusted() > -ROUNDED else f"{found:g}"
