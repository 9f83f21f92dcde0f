"""From what a configuration says to the function it names: a ``kind``, with the function's keyword arguments as its siblings.

``{kind: jsd, beta: 0.5}`` names an entry of a literal registry; ``{kind: "package.module:name"}`` names any function of the same
form. The keyword-only parameters of the function are the settings, its annotations check them, its docstring documents them.
"""

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from agentopd.settings.choice import Choice
from agentopd.settings.problems import explain, nearest, shown
from agentopd.settings.signature import Function, Registry, kind_schema, leading, loose, model_of


@dataclass(frozen=True)
class Kinds:
    """The kinds of one part; a bare string is short for ``{kind: string}``. The settings are numbers as they stand."""

    part: str
    registry: Registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        serialise = core_schema.plain_serializer_function_ser_schema(Choice.plain)
        return core_schema.no_info_plain_validator_function(self.validate, serialization=serialise)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One object a kind, from the functions' signatures; import paths are any object with a ``kind``."""
        branches = [kind_schema(kind, self.model(function), handler) for kind, function in self.registry.items()]
        return {"anyOf": [*branches, {"type": "object", "properties": {"kind": {"type": "string", "pattern": ":"}}}]}

    def validate(self, value: Any) -> Choice:
        """Checks ``value`` against the signature of the function it names."""
        if isinstance(value, Choice):
            return value
        given = {"kind": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str):
            article = "an" if self.part[0] in "aeiou" else "a"
            raise ValueError(
                f"expected {article} {self.part} such as {{kind: {next(iter(self.registry))}}}, got {shown(value)}"
            )
        settings = {name: setting for name, setting in given.items() if name != "kind"}
        function = self.find(given["kind"])
        if ":" in given["kind"]:
            self._require_readable(given["kind"], function)
        return Choice(given["kind"], function, self._checked(given["kind"], function, settings))

    def find(self, kind: str) -> Function:
        """The function that ``kind`` names, from the registry or by import path."""
        if ":" in kind:
            return load(kind)
        if kind not in self.registry:
            raise ValueError(
                f"no {self.part} is called {kind!r}{nearest(kind, self.registry)}; there are: {', '.join(self.registry)}"
            )
        return self.registry[kind]

    def model(self, function: Function) -> type[BaseModel]:
        """The settings of ``function`` as a model."""
        return model_of(function, as_it_is)

    def _require_readable(self, kind: str, function: Function) -> None:
        """Refuses a user's function whose settings cannot be told from its signature."""
        example = max(self.registry.values(), key=lambda known: len(leading(known)))
        shape = f"({', '.join([*leading(example), '*', 'setting: float = 1.0'])})"
        try:
            unread = loose(function)
            self.model(function)
        except Exception as error:  # annotations are the user's code: reading them may raise anything
            reason = f"its settings cannot be read: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        else:
            rule = "settings stand after a *, each by its name, which is not kind and has no leading underscore"
            reason = f"{', '.join(unread)} cannot be set: {rule}" if unread else ""
        if reason:
            raise ValueError(f"{self.part} {kind!r}: {reason}; the shape is {shape}")

    def _checked(self, kind: str, function: Function, settings: Mapping[str, Any]) -> dict[str, Any]:
        model = self.model(function)
        for name in settings:
            if name not in model.model_fields:
                names = ", ".join(model.model_fields) or "none"
                raise ValueError(
                    f"{self.part} {kind!r} has no setting {name!r}{nearest(str(name), model.model_fields)}; it has: {names}"
                )
        try:
            checked = model.model_validate(dict(settings))
        except ValidationError as error:
            raise ValueError(f"{self.part} {kind!r}: {explain(error, model)}") from error
        return {name: getattr(checked, name) for name in model.model_fields}


def as_it_is(annotation: Any, function: Function, name: str) -> Any:
    """A setting takes what its annotation says, and nothing stands for it."""
    return annotation


def load(path: str) -> Function:
    """Imports ``package.module:name``."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"cannot import {path!r}; the form is package.module:name")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        where = f"; looked in {os.getcwd()} and among installed packages" if isinstance(error, ImportError) else ""
        raise ValueError(f"cannot import {path!r}: {error}{where}; the form is package.module:name") from error
    except Exception as error:  # importing runs the user's code
        raise ValueError(f"cannot import {path!r}: {module} raises {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"{path!r} is not a function or class")
    return found  # type: ignore[no-any-return]
