"""Arguments that are checked against a JSON schema as it was given, such as that of another program's tool."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from itertools import islice
from typing import Any

from gymnasium.error import DependencyNotInstalled

from agentopd.errors import ConfigError, EnvError, ToolError, describe
from agentopd.tooling.action import brief, depth
from agentopd.tooling.answer import plain_data
from agentopd.tooling.keywords import Keyword, bounded, compile_patterns

MOST = 10_000
"""Keywords of a schema that are looked at for one call, and errors that are found: parts that refer to each other twice, or a long list held
against a long list, may ask for more than there is time."""
PARTS = 16
"""Of a list or mapping in a schema, such as the values of ``enum``: so many count as one keyword more."""
SECONDS = 3.0
"""Of processor time for one call: what a keyword costs depends on the arguments, too. Far more than a schema takes that is meant well."""
LONGEST = 200_000
"""Characters of a schema, which takes some seconds to be held against its dialect."""
NESTED = 80
"""Keywords inside each other that are looked at, and half of that levels of a schema: where Python's own limit of recursion strikes inside
what ``jsonschema`` has compiled, it is no exception that a run outlives."""
TOLD = 100
"""Errors of a call, of which the first few by place are told; the rest is not looked for."""

_left = threading.local()
"""Of the call that a thread checks: the tool's name, how many keywords may still be looked at, how deep it is in them, and until which time of the thread."""

Check = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The arguments as the tool gets them; raises a ToolError of the kind ``bad_arguments`` where they do not fit."""


def checker(name: str, schema: Mapping[str, Any]) -> Check:
    """What checks the arguments of the tool ``name`` by ``schema``, in the dialect that it names, or else that of 2020-12.

    Nothing is filled in or left out: defaults are the tool's own matter. References lead to places inside the schema only. Patterns are
    matched in time that grows with the text alone, so that none can hold up a run; those that look around, which that excludes, those that
    cannot be read, and what ``unevaluatedProperties`` and ``unevaluatedItems`` forbid, are left to the tool.

    Raises:
        ConfigError: ``schema`` is none, or not one of an object, or too large.
        DependencyNotInstalled: ``jsonschema`` is missing.
    """
    try:
        import jsonschema  # noqa: F401
    except ImportError as error:
        raise DependencyNotInstalled("jsonschema is not installed; run pip install 'agentopd[mcp]'") from error
    if schema.get("type") != "object":
        raise ConfigError(f"tool {name}: its schema must be of an object, not {brief(repr(schema.get('type')), 40)}")
    if depth(schema) > NESTED // 2:
        raise ConfigError(f"tool {name}: its schema is nested too deep")
    text = json.dumps(schema)
    if len(text) > LONGEST:
        raise ConfigError(f"tool {name}: its schema has {len(text)} characters; at most {LONGEST} can be looked at")
    validator = _validator(name, schema, text)
    try:
        compile_patterns(schema)
    except ValueError as error:
        raise ConfigError(f"tool {name}: its schema has {error}") from error
    return lambda arguments: _checked(name, validator, arguments)


def _validator(name: str, schema: Mapping[str, Any], text: str) -> Any:
    from jsonschema import Draft202012Validator, SchemaError, validators

    try:
        kind = validators.validator_for(schema, default=Draft202012Validator)
        _require_sound(kind, text)
        return _counting(kind)(schema, _resolver=_places(schema))
    except SchemaError as error:
        raise ConfigError(f"tool {name}: its schema is none: {brief(error.message, 200)}") from error
    except RecursionError as error:
        raise ConfigError(f"tool {name}: its schema is nested too deep") from error
    except ValueError as error:  # an address that Python cannot read
        raise ConfigError(f"tool {name}: its schema is none: {brief(str(error), 200)}") from error


def _checked(name: str, validator: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    from referencing.exceptions import Unresolvable

    _left.name, _left.count, _left.depth, _left.until = name, MOST, 0, time.thread_time() + SECONDS
    try:
        given: dict[str, Any] = plain_data(arguments)
        errors = sorted(islice(validator.iter_errors(given), TOLD), key=lambda error: (error.json_path, error.message))
    except Unresolvable as error:
        raise EnvError(f"tool {name}: its schema refers to {brief(str(error), 80)}, which is not in it") from error
    except RecursionError as error:
        deep = depth(arguments) > NESTED // 4  # a level takes two keywords or more
        why = "the arguments are nested too deep" if deep else "the schema asks for too much"
        raise ToolError(f"{name}: {why}", kind="bad_arguments") from error
    except ToolError:
        raise
    except Exception as error:  # a reference may lead to what is no schema, which nobody held against the dialect
        raise EnvError(f"tool {name}: its schema cannot be used: {brief(describe(error), 120)}") from error
    if errors:
        told = "; ".join(f"{_place(error.json_path)}{brief(error.message, 120)}" for error in errors[:3])
        raise ToolError(f"{name}: {told}", kind="bad_arguments")
    return given


def _places(schema: Mapping[str, Any]) -> Any:
    """What finds the places in ``schema`` that references name. The validator's own would fetch others from the network, and look through all for
    each."""
    from jsonschema_specifications import REGISTRY
    from referencing import Resource
    from referencing.jsonschema import DRAFT202012

    root: Any = Resource.from_contents(schema, default_specification=DRAFT202012)
    address = root.id() or ""
    places: Any = REGISTRY.with_resource(address, root)
    with suppress(AttributeError):  # of `extends` in draft 3, which it cannot look through: there only paths are found
        places = places.crawl()
    return places.resolver(address)


@lru_cache(maxsize=4096)
def _require_sound(kind: Any, schema: str) -> None:
    """Raises jsonschema's error where ``schema``, JSON, is none. Each episode may ask again, of all tools of a server of its own."""
    from jsonschema import SchemaError, validators

    over = validators.validator_for(kind.META_SCHEMA, default=kind)
    found = _bounded(over)(kind.META_SCHEMA)  # without its formats: Python reads not every pattern that others do
    for error in found.iter_errors(json.loads(schema)):
        raise SchemaError.create_from(error)


@cache
def _bounded(kind: Any) -> Any:
    """The validator of a dialect, whose keywords are bounded."""
    return _remade(kind, bounded(kind.VALIDATORS), _bounded)


@cache
def _counting(kind: Any) -> Any:
    """The same, which looks at no more keywords than are left."""
    return _remade(kind, {word: _counted(keyword) for word, keyword in bounded(kind.VALIDATORS).items()}, _counting)


def _remade(kind: Any, keywords: Mapping[str, Keyword], remade: Callable[[Any], Any]) -> Any:
    """The validator of a dialect with other keywords, inside parts that name a dialect as well: those are ``remade``, too."""
    import attrs
    from jsonschema import validators

    made = validators.extend(kind, keywords)
    kept = [(field.name, field.alias) for field in attrs.fields(made) if field.init]

    def evolve(self: Any, **changes: Any) -> Any:
        given = {alias: getattr(self, name) for name, alias in kept} | changes
        return remade(validators.validator_for(given["schema"], default=kind))(**given)

    made.evolve = evolve
    return made


def _counted(keyword: Keyword) -> Keyword:
    def looked_at(validator: Any, part: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _spend(1 + (len(part) if isinstance(part, list | dict) else 0) // PARTS)
        _left.depth += 1
        try:
            if _left.depth > NESTED:
                raise RecursionError
            for error in keyword(validator, part, instance, schema) or ():
                _spend(1)
                yield error
        finally:
            _left.depth -= 1

    return looked_at


def _spend(count: int) -> None:
    _left.count -= count
    if _left.count < 0 or time.thread_time() > _left.until:
        raise ToolError(f"{_left.name}: the schema asks for too much", kind="bad_arguments")


def _place(path: str) -> str:
    """``$.a[0].b`` as ``a[0].b: ``; nothing for the arguments as a whole."""
    inner = brief(path.removeprefix("$").removeprefix("."), 60)
    return f"{inner}: " if inner else ""
