"""What code says of itself: docstrings, the literals under fields, and both as Markdown."""

import ast
import inspect
import re
from collections.abc import Callable
from itertools import pairwise
from textwrap import dedent
from typing import Any

from agentopd.tooling.signature import argument_docs, summary

_ROLE = re.compile(r":\w+:`~?([^`]*)`")
_SECTIONS = re.compile(r"\n(?:Args|Returns|Raises|Yields):\n.*", re.DOTALL)


def markdown(text: str) -> str:
    """Markup of a docstring as Markdown: what a role refers to is told by its last name."""
    named = _ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    return named.replace("``", "`")


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(markdown(text).split()).replace("|", "\\|")


def prose(what: Any) -> str:
    """The docstring of a function or class without what it says of arguments, results and errors."""
    return markdown(_SECTIONS.sub("", inspect.cleandoc(what.__doc__ or "")).strip())


def first_line(what: Any) -> str:
    """The first paragraph of a docstring, as a cell."""
    return cell(summary(what.__doc__ or ""))


def fields_of(owner: type) -> dict[str, str]:
    """What stands under each field of a class and of those it inherits from, the nearest first to speak."""
    found: dict[str, str] = {}
    for kind in reversed(owner.__mro__):
        if kind.__module__.partition(".")[0] == "agentopd":
            found |= literals(ast.parse(dedent(inspect.getsource(kind))).body[0])
    return found


def literals(tree: ast.AST) -> dict[str, str]:
    """The string literals behind the names that are given a type or a value in the body of a class or a module."""
    found = {}
    for given, said in pairwise(getattr(tree, "body", [])):
        target = given.targets[0] if isinstance(given, ast.Assign) else getattr(given, "target", None)
        if isinstance(target, ast.Name) and isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant):
            found[target.id] = markdown(str(said.value.value))
    return found


def settings_of(function: Callable[..., Any]) -> dict[str, str]:
    """What a function says of its arguments, or a class of its fields: the settings of a kind."""
    return fields_of(function) if inspect.isclass(function) else argument_docs(function.__doc__ or "")
