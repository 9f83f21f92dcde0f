"""What a function says about itself: a pydantic model of its arguments, from type hints and a Google docstring."""

import inspect
import re
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from agentopd.errors import ConfigError
from agentopd.tooling.action import brief

RECEIVERS = ("self", "cls")
"""The first parameter of a method, which Python fills."""

_ENTRY = re.compile(r"(?P<indent>\s+)(?P<name>\w+)\s*(\(.*?\))?:\s*(?P<text>.*)")


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes up from names: every token of a tool's schema is paid for in every prompt."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def arguments_of(function: Callable[..., Any]) -> type[BaseModel]:
    """A model of the arguments of ``function``: one field each, aliased to the parameter's name, unknown names forbidden.

    Raises:
        ConfigError: a parameter has no type hint or one that pydantic cannot check, cannot be passed by name, or is documented
            without existing.
    """
    name = function.__name__
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and _is_filled(function, parameters[0]):
        del parameters[0]
    hints, described = _hints(function), argument_docs(function.__doc__ or "")
    for extra in described.keys() - {p.name for p in parameters}:
        raise ConfigError(
            f"tool {name}: the docstring describes {extra!r}, which is not a parameter; remove or rename it"
        )
    fields: dict[str, Any] = {}
    for index, p in enumerate(parameters):
        if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            raise ConfigError(
                f"tool {name}: parameter {p} cannot be passed by name; models pass every argument by name"
            )
        if p.name not in hints:
            raise ConfigError(f"tool {name}: parameter {p.name!r} has no type hint; write for instance `{p.name}: str`")
        default = ... if p.default is p.empty else p.default
        # Aliases, because a parameter may be called what pydantic itself uses, such as `schema` or `copy`.
        fields[f"argument_{index}"] = (hints[p.name], Field(default, alias=p.name, description=described.get(p.name)))
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise _unchecked(name, error) from error


def json_schema(arguments: type[BaseModel]) -> JsonSchemaValue:
    """The JSON schema of a model of arguments, in the short form that chat templates are trained on.

    Raises:
        ConfigError: an argument is of a type that JSON cannot give, such as a function.
    """
    try:
        schema = arguments.model_json_schema(schema_generator=_Untitled)
    except PydanticUserError as error:
        raise _unchecked(arguments.__name__, error) from error
    parts = ("type", "properties", "required", "$defs")
    return {part: schema[part] for part in parts if part in schema}


def _is_filled(function: Callable[..., Any], first: inspect.Parameter) -> bool:
    """Whether Python fills the first parameter. With a type hint, and outside of a class, it is an argument like others."""
    home = function.__qualname__.rpartition(".")[0]
    in_class = bool(home) and not home.endswith("<locals>")
    return first.name in RECEIVERS and (in_class or first.annotation is first.empty)


def _unchecked(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"tool {name}: a type hint cannot be checked ({brief(str(error), 150)}); models give JSON: take text, numbers, booleans, "
        "lists, dicts, dataclasses or pydantic models"
    )


def summary(doc: str) -> str:
    """The first paragraph of a docstring on one line, empty where it has none."""
    first = inspect.cleandoc(doc).split("\n\n")[0]
    return "" if re.match(r"(Args|Arguments|Returns|Raises):", first) else " ".join(first.split())


def argument_docs(doc: str) -> dict[str, str]:
    """The entries of the ``Args:`` section of a Google docstring, each on one line."""
    found: dict[str, str] = {}
    name, depth, inside = "", 0, False
    for line in inspect.cleandoc(doc).splitlines():
        if not line.startswith(" "):
            inside = line.strip() in ("Args:", "Arguments:") or (inside and not line)
            continue
        entry = _ENTRY.fullmatch(line) if inside else None
        if entry and (not name or len(entry["indent"]) <= depth):
            name, depth = entry["name"], len(entry["indent"])
            found[name] = entry["text"]
        elif inside and name:
            found[name] += " " + line.strip()
    return {name: text.strip() for name, text in found.items()}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(f"tool {function.__name__}: its type hints cannot be read: {error}") from error
