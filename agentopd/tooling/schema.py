"""Arguments that are checked against a JSON schema as it was given, such as that of another program's tool."""

from collections.abc import Callable, Mapping
from typing import Any

from gymnasium.error import DependencyNotInstalled

from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.tooling.action import brief
from agentopd.tooling.answer import plain_data

Check = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The arguments as the tool gets them; raises a ToolError of the kind ``bad_arguments`` where they do not fit."""


def checker(name: str, schema: Mapping[str, Any]) -> Check:
    """What checks the arguments of the tool ``name`` by ``schema``, in the dialect that it names, or else that of 2020-12.

    Nothing is filled in or left out: defaults are the tool's own matter. References lead to places inside the schema only.

    Raises:
        ConfigError: ``schema`` is none, or not one of an object.
        DependencyNotInstalled: ``jsonschema`` is missing.
    """
    try:
        from jsonschema import Draft202012Validator, SchemaError, validators
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ImportError as error:
        raise DependencyNotInstalled("jsonschema is not installed; run pip install 'agentopd[mcp]'") from error
    if schema.get("type") != "object":
        raise ConfigError(f"tool {name}: its schema must be of an object, not {brief(repr(schema.get('type')), 40)}")
    kind = validators.validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ConfigError(f"tool {name}: its schema is none: {brief(error.message, 200)}") from error
    # A registry of one's own: the default one would fetch what a `$ref` names from the network.
    validator = kind(schema, registry=Registry())

    def check(arguments: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = plain_data(arguments)
        try:
            errors = sorted(validator.iter_errors(given), key=lambda error: (error.json_path, error.message))
        except Unresolvable as error:
            raise EnvError(f"tool {name}: its schema refers to {brief(str(error), 80)}, which is not in it") from error
        except RecursionError as error:
            raise ToolError(f"{name}: the arguments are nested too deep", kind="bad_arguments") from error
        if errors:
            told = "; ".join(f"{_place(error.json_path)}{brief(error.message, 120)}" for error in errors[:3])
            raise ToolError(f"{name}: {told}", kind="bad_arguments")
        return given

    return check


def _place(path: str) -> str:
    """``$.a[0].b`` as ``a[0].b: ``; nothing for the arguments as a whole."""
    inner = brief(path.removeprefix("$").removeprefix("."), 60)
    return f"{inner}: " if inner else ""
