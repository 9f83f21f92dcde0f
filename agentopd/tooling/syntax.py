"""Python's parser, for what models write.

One thread at a time: CPython before 3.13 counts the depth of all trees that are being built as one, and raises ``SystemError`` in a thread
whose count another one changed (https://github.com/python/cpython/issues/106905).
"""

import ast
from threading import RLock

_parsing = RLock()


def expression_of(text: str) -> ast.expr:
    """The syntax tree of an expression; nothing is run.

    Raises:
        SyntaxError: It is no expression.
        ValueError, RecursionError, MemoryError: Nor is it one that can be read.
    """
    with _parsing:
        return ast.parse(text, mode="eval").body


def statements_of(text: str) -> list[ast.stmt]:
    """The syntax trees of a program's statements; nothing is run. Raises what :func:`expression_of` does."""
    with _parsing:
        return ast.parse(text).body
