"""Arguments that are checked against a JSON schema as it was given, such as that of another program's tool."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from gymnasium.error import DependencyNotInstalled
from pydantic_core import SchemaError as PatternError
from pydantic_core import SchemaValidator, core_schema

from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.tooling.action import brief
from agentopd.tooling.answer import plain_data

MOST = 10_000
"""Keywords of a schema that are looked at for one call: parts that refer to each other twice may ask for more than there is time."""

_left = threading.local()
"""Of the call that a thread checks: the tool's name, and how many keywords may still be looked at."""

Check = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The arguments as the tool gets them; raises a ToolError of the kind ``bad_arguments`` where they do not fit."""


def checker(name: str, schema: Mapping[str, Any]) -> Check:
    """What checks the arguments of the tool ``name`` by ``schema``, in the dialect that it names, or else that of 2020-12.

    Nothing is filled in or left out: defaults are the tool's own matter. References lead to places inside the schema only. Patterns are
    matched in time that grows with the text alone, so that none can hold up a run; those that look around, which that excludes, are left
    to the tool.

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
        _require_sound(kind, json.dumps(schema))
    except SchemaError as error:
        raise ConfigError(f"tool {name}: its schema is none: {brief(error.message, 200)}") from error
    except RecursionError as error:
        raise ConfigError(f"tool {name}: its schema is nested too deep") from error
    # A registry of one's own: the default one would fetch what a `$ref` names from the network.
    validator = _counting(kind)(schema, registry=Registry())

    def check(arguments: Mapping[str, Any]) -> dict[str, Any]:
        _left.name, _left.count = name, MOST
        try:
            given: dict[str, Any] = plain_data(arguments)
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


@lru_cache(maxsize=4096)
def _require_sound(kind: Any, schema: str) -> None:
    """Raises jsonschema's error where ``schema``, JSON, is none. Each episode may ask again, of all tools of a server of its own."""
    kind.check_schema(json.loads(schema))


@cache
def _counting(kind: Any) -> Any:
    """The validator of a dialect, with patterns that are matched in linear time, which looks at no more keywords than are left."""
    from jsonschema import validators

    keywords = kind.VALIDATORS | {"pattern": _pattern, "patternProperties": _pattern_properties}
    keywords["additionalProperties"] = _additional(kind.VALIDATORS["additionalProperties"])
    return validators.extend(kind, {word: _counted(keyword) for word, keyword in keywords.items()})


def _counted(keyword: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def looked_at(*given: Any) -> Iterator[Any]:
        _left.count -= 1
        if _left.count < 0:
            raise ToolError(f"{_left.name}: the schema asks for too much", kind="bad_arguments")
        yield from keyword(*given) or ()

    return looked_at


@cache
def _matcher(pattern: str) -> SchemaValidator | None:
    """What finds ``pattern`` in a text; ``None`` where it cannot be found in linear time."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern))
    except PatternError:
        return None


def _found(pattern: str, text: str) -> bool:
    matcher = _matcher(pattern)
    return matcher is None or matcher.isinstance_python(text)


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield _wrong(f"{brief(repr(instance), 60)} does not match {brief(repr(pattern), 60)}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    for pattern, part in patterns.items() if isinstance(instance, dict) else ():
        for key, value in instance.items():
            if _found(pattern, key):
                yield from validator.descend(value, part, path=key, schema_path=pattern)


def _additional(keyword: Callable[..., Any]) -> Callable[..., Any]:
    """That keyword where no pattern of a name is looked for any more: names that one fits are no additional ones."""

    def additional(validator: Any, part: Any, instance: Any, schema: Mapping[str, Any]) -> Any:
        patterns = schema.get("patternProperties", {})
        if isinstance(instance, dict) and patterns:
            instance = {
                key: value for key, value in instance.items() if not any(_found(pattern, key) for pattern in patterns)
            }
            schema = {word: given for word, given in schema.items() if word != "patternProperties"}
        return keyword(validator, part, instance, schema)

    return additional


def _wrong(message: str) -> Exception:
    from jsonschema import ValidationError

    error: Exception = ValidationError(message)
    return error


def _place(path: str) -> str:
    """``$.a[0].b`` as ``a[0].b: ``; nothing for the arguments as a whole."""
    inner = brief(path.removeprefix("$").removeprefix("."), 60)
    return f"{inner}: " if inner else ""
