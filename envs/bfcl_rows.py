"""Rows of BFCL's multi-turn categories, and the functions that they concern, as the package bfcl-eval ships them."""

import ast
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from gymnasium.error import DependencyNotInstalled
from pydantic import BaseModel, ConfigDict, Field, create_model

from agentopd.errors import ConfigError
from agentopd.settings.problems import nearest
from agentopd.tooling import Tool
from agentopd.tooling.syntax import expression_of
from agentopd.types import ToolCall

CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
PREAMBLE = "Tool description: "
"""What stands before it in the description of a function is the same for all of its simulator."""
ABSENT = object()
"""The value of an argument that a call leaves out: the simulator's own default counts, whatever the description says."""

_TYPES = {"dict": "object", "float": "number", "tuple": "array"}
"""BFCL's names of types, where JSON schema has others."""
_LAST_DIGITS = {"train": "012345", "stages": "012345", "validation": "6", "evaluation": "789"}
"""Of the numbers of the rows of a split. Rows of one number tell of one task in all categories, and neighbours are of one domain."""


@dataclass(frozen=True)
class Row:
    """One task: what a user asks for, turn after turn, and the calls that fulfil it."""

    entry: Mapping[str, Any]
    """As in the data, for the official checker."""
    truth: Sequence[Sequence[str]]
    """The ground truth of each turn: calls in Python's notation."""

    @property
    def id(self) -> str:
        """Such as ``multi_turn_base_17``."""
        return str(self.entry["id"])

    @property
    def category(self) -> str:
        """One of ``CATEGORIES``."""
        return self.id.removeprefix("multi_turn_").rpartition("_")[0]

    @property
    def classes(self) -> Sequence[str]:
        """The simulators that are concerned."""
        classes: Sequence[str] = self.entry["involved_classes"]
        return classes

    @cached_property
    def withheld(self) -> Mapping[int, Sequence[str]]:
        """Names of functions, by the turn before which they are not shown."""
        return {int(turn): names for turn, names in self.entry.get("missed_function", {}).items()}

    @cached_property
    def questions(self) -> Sequence[str]:
        """What the user says in each turn; nothing in one that only tells of withheld functions."""
        return ["\n".join(message["content"] for message in messages) for messages in self.entry["question"]]

    @cached_property
    def calls(self) -> Sequence[Sequence[ToolCall]]:
        """The ground truth of each turn, every argument by its name."""
        return [[self._call(text) for text in turn] for turn in self.truth]

    def _call(self, text: str) -> ToolCall:
        call = expression_of(text)
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        name = call.func.id
        given = dict(zip(self._places(name), call.args, strict=False)) | {w.arg or "": w.value for w in call.keywords}
        return ToolCall(name, {argument: ast.literal_eval(value) for argument, value in given.items()})

    def _places(self, name: str) -> Sequence[str]:
        """The names of the arguments of a function, in order."""
        classes = [getattr(official(module_of(kind)), kind) for kind in self.classes]
        method = next(getattr(one, name) for one in classes if hasattr(one, name))
        return list(inspect.signature(method).parameters)[1:]


@lru_cache
def rows_of(category: str) -> Mapping[str, Row]:
    """The rows of a category by their ids. They are shared: nobody changes them."""
    name = f"{official('constants.category_mapping').VERSION_PREFIX}_multi_turn_{category}.json"
    truths = {truth["id"]: truth["ground_truth"] for truth in _lines(f"possible_answer/{name}")}
    return {entry["id"]: Row(entry, truths[entry["id"]]) for entry in _lines(name)}


def row_of(id: object) -> Row:
    """The row of an id.

    Raises:
        ConfigError: There is none.
    """
    known = [one for category in CATEGORIES for one in rows_of(category)]
    if not isinstance(id, str) or id not in known:
        hint = nearest(id, known) if isinstance(id, str) else ""
        raise ConfigError(f"options.id: BFCL has no multi-turn row {id!r}{hint}; one is multi_turn_base_0")
    return next(rows_of(category)[id] for category in CATEGORIES if id in rows_of(category))


def rows_in(categories: Sequence[str], split: str) -> Sequence[Row]:
    """The rows of a split, in the order of ``categories``.

    Raises:
        ConfigError: No split is called so.
    """
    if split not in _LAST_DIGITS:
        raise ConfigError(
            f"options.split: no split is called {split!r}{nearest(str(split), _LAST_DIGITS)}; there are: {', '.join(_LAST_DIGITS)}"
        )
    return [row for category in categories for row in rows_of(category).values() if row.id[-1] in _LAST_DIGITS[split]]


@dataclass(frozen=True)
class Function:
    """A function of a simulator."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema."""
    model: type[BaseModel]
    """Of the names of the arguments. BFCL checks no types, and the truth of a row gives text for a number."""

    def tool(self, brief: bool, run: Callable[[str, dict[str, Any]], str]) -> Tool:
        """The function as a tool.

        Args:
            brief: Whether to leave out what the descriptions of all functions of the simulator begin with.
            run: Is called with the name of the function and the arguments that were given.
        """

        def called(**arguments: Any) -> str:
            return run(self.name, {name: value for name, value in arguments.items() if value is not ABSENT})

        shown = self.description.partition(PREAMBLE)[2] if brief else self.description
        # BFCL cuts no answer, and long_context is about long ones
        return Tool(self.name, shown, dict(self.parameters), called, self.model, max_characters=None)


@lru_cache
def functions_of(kind: str) -> Sequence[Function]:
    """The functions of a simulator."""
    file = official("constants.executable_backend_config").MULTI_TURN_FUNC_DOC_FILE_MAPPING[kind]
    return [_function(told) for told in _lines(f"multi_turn_func_doc/{file}")]


def _function(told: Mapping[str, Any]) -> Function:
    parameters = _json_schema(told["parameters"])
    fields: dict[str, Any] = {}
    for index, name in enumerate(parameters["properties"]):
        default = ... if name in parameters["required"] else ABSENT
        fields[f"argument_{index}"] = (Any, Field(default, alias=name))
    model = create_model(told["name"], __config__=ConfigDict(extra="forbid"), **fields)
    return Function(told["name"], told["description"], parameters, model)


def module_of(kind: str) -> str:
    """The module of bfcl-eval that holds a simulator."""
    paths = official("constants.executable_backend_config").CLASS_FILE_PATH_MAPPING
    return str(paths[kind]).removeprefix("bfcl_eval.")


def official(module: str) -> ModuleType:
    """A module of bfcl-eval. Only such are asked for as import neither clients of APIs nor make folders.

    Raises:
        DependencyNotInstalled: It is not installed.
    """
    try:
        return importlib.import_module(f"bfcl_eval.{module}")
    except ImportError as error:
        raise DependencyNotInstalled(
            f'BFCL needs bfcl-eval ({error}); run pip install "agentopd[bfcl]", then pip install --no-deps bfcl-eval'
        ) from error


def _lines(name: str) -> list[dict[str, Any]]:
    path = Path(str(importlib.import_module("bfcl_eval").__file__)).parent / "data" / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _json_schema(told: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(told) | {"type": _TYPES.get(told["type"], told["type"])}
    if "properties" in told:
        made["properties"] = {name: _json_schema(one) for name, one in told["properties"].items()}
    if "items" in told:
        made["items"] = _json_schema(told["items"])
    return made
