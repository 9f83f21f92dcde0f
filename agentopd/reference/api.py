"""The page of every public name: how it is called, and what its docstring says first."""

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from textwrap import dedent
from types import ModuleType
from typing import Any, TypeAlias

from pydantic import BaseModel

from agentopd.reference.docstrings import cell, first_line, literals

MODULES = (
    "agentopd", "agentopd.objective", "agentopd.records", "agentopd.testing", "agentopd.types", "agentopd.tooling", "agentopd.chat",
    "agentopd.models", "agentopd.teachers", "agentopd.sharing", "agentopd.behaviour", "agentopd.sweeps", "agentopd.comparing",
    "agentopd.scaling", "agentopd.planning", "agentopd.doctor",
)  # fmt: skip
"""Those that are meant to be imported by other programs."""
_WIDTH = 120
_HEAD = """# Every public name

<!-- Written by `python -m agentopd.reference api`; what it says is in the code, beside each name. -->

How each is called, and the first lines of its docstring; `help(agentopd.train)` has the rest: arguments, results, errors. Shapes are in the
names of arrays: `_B` trajectories, `_S` turns, `_T` tokens, `_A` action rows, `_V` vocabulary, `_K` support, `_H` hidden. Settings are keys of
`docs/configuration.md`.
"""
_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def page() -> str:
    """The page, as Markdown."""
    return _HEAD + "".join(_module(importlib.import_module(name)) for name in MODULES)


def names_of(module: ModuleType) -> list[str]:
    """The public names of a module: those it lists, or else those it defines."""
    own = (name for name, one in vars(module).items() if _is_called(one) and one.__module__ == module.__name__)
    return sorted(getattr(module, "__all__", [name for name in own if not name.startswith("_")]), key=str.lower)


def _is_called(one: Any) -> bool:
    return inspect.isclass(one) or inspect.isfunction(one)


def _module(module: ModuleType) -> str:
    named = ((name, getattr(module, name)) for name in names_of(module))
    entries = (_entry(name, one) for name, one in named if not isinstance(one, ModuleType))
    return f"\n## `{module.__name__}`\n\n{first_line(module)}\n" + "".join(entries)


def _entry(name: str, one: Any) -> str:
    """A heading, how it is called or what it stands for, and what it says of itself."""
    called, said = (_called(name, one), first_line(one)) if _is_called(one) else _constant(name, one)
    methods = "".join(f"- `{method}`: {about}\n" for method, about in _methods(one)) if inspect.isclass(one) else ""
    return (
        "\n".join(
            [f"\n### `{name}`\n", f"```text\n{called}\n```", *([f"\n{said}"] if said else []), f"\n{methods}"]
        ).rstrip()
        + "\n"
    )


def _constant(name: str, one: Any) -> tuple[str, str]:
    """The assignment of a constant or an alias in the module that makes it, and the literal behind it."""
    for module in [module for home, module in sorted(sys.modules.items()) if home.startswith("agentopd.")]:
        tree = _source(module) if vars(module).get(name) is one else ast.Module([], [])
        for line in ast.iter_child_nodes(tree):
            if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
                target = line.targets[0] if isinstance(line, ast.Assign) else line.target
                if isinstance(target, ast.Name) and target.id == name:
                    value = ast.unparse(line.value)
                    return f"{name} = {value}" if len(value) < _WIDTH else name, cell(literals(tree).get(name, ""))
    return name, ""


def _called(name: str, one: Any) -> str:
    """How a function or class is called, in the words of its source."""
    if not inspect.isclass(one):
        return _signature(name, _source(one))
    if issubclass(one, BaseModel):
        return f"{name}(**settings)"
    made = one.__dict__.get("__init__")
    if "__dataclass_fields__" in one.__dict__:
        fields = [line for line in getattr(_source(one), "body", ()) if _is_field(line)]
        return _wrapped(name, [ast.unparse(line) for line in fields], "") if fields else name
    return _signature(name, _source(made), bound=True) if inspect.isfunction(made) else name


def _is_field(line: ast.AST) -> bool:
    return isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line.annotation)


def _methods(owner: type) -> Iterator[tuple[str, str]]:
    """The public methods and properties in the body of a class, each with the first lines of its docstring."""
    for line in getattr(_source(owner), "body", ()):
        if isinstance(line, _Function) and not line.name.startswith("_"):
            marks = [ast.unparse(mark) for mark in line.decorator_list]
            is_property = any("property" in mark for mark in marks)
            called = line.name if is_property else _signature(line.name, line, "staticmethod" not in marks, False)
            yield called, first_line(inspect.unwrap(getattr(owner, line.name)))


def _source(what: Callable[..., Any] | type | ModuleType) -> ast.AST:
    """The definition of a function or class, or the whole of a module."""
    tree = ast.parse(dedent(inspect.getsource(what)))
    return tree if isinstance(what, ModuleType) else tree.body[0]


def _signature(name: str, node: ast.AST, bound: bool = False, folds: bool = True) -> str:
    """A call; ``bound`` leaves out the first parameter, and what does not fold stands on one line."""
    assert isinstance(node, _Function)
    parameters = list(_parameters(node.args))[bound:]
    result = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return _wrapped(name, parameters, result) if folds else f"{name}({', '.join(parameters)}){result}"


def _parameters(given: ast.arguments) -> Iterator[str]:
    """Each parameter as it is written, and the marks between them."""
    by_place = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(by_place) - len(given.defaults)) + [*given.defaults]
    for i, (one, default) in enumerate(zip(by_place, defaults, strict=True)):
        yield _parameter(one, default)
        if i + 1 == len(given.posonlyargs):
            yield "/"
    if given.vararg or given.kwonlyargs:
        yield f"*{ast.unparse(given.vararg) if given.vararg else ''}"
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _parameter(one, default)
    if given.kwarg:
        yield f"**{ast.unparse(given.kwarg)}"


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return ast.unparse(one)
    return f"{ast.unparse(one)}{' = ' if one.annotation else '='}{ast.unparse(default)}"


def _wrapped(name: str, parameters: list[str], result: str) -> str:
    line = f"{name}({', '.join(parameters)}){result}"
    if len(line) <= _WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f"){result}"
