"""What an environment is made with: names and values are held against its constructor, so that a wrong one is told before anything starts."""

import difflib
import inspect
from collections.abc import Mapping, Sequence, Set
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from agentopd.errors import ConfigError
from agentopd.tooling.action import brief

Checks: TypeAlias = Mapping[str, tuple[Any, "TypeAdapter[Any]"]]
"""For each parameter with a type hint that can be checked: the hint, and what checks it."""

LONGEST = 120
"""Characters of a value that a message repeats."""
WORDS: Mapping[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "texts"),
    NoneType: ("null", "null"),
}
"""What one value of a type is called, and several."""


def check_given(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Holds the arguments of a constructor against its names and type hints. What is missing is Python's to tell.

    Numbers and truth values are not converted: ``3.0`` is no whole number and ``1`` is not ``true``. A parameter without a hint, or
    with one that pydantic cannot check, takes anything.

    Raises:
        ConfigError: ``cls`` does not take an argument, or a value is not of its type; the message says which would be.
    """
    parameters = parameters_of(cls)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in kwargs.keys() - parameters.keys():
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"{cls.__name__} takes no {name}={_shown(kwargs[name])}{hint}; {made_with(parameters)}")
    checks = _checks(cls)
    for name, value in {**dict(zip(parameters, args, strict=False)), **kwargs}.items():
        if name in checks and value is not parameters[name].default and not _fits(value, checks[name][1]):
            wanted = _wanted(checks[name][0])
            such = f", such as [{brief(value, LONGEST)}]" if isinstance(value, str) and "list" in wanted else ""
            raise ConfigError(f"{cls.__name__}: {name}={_shown(value)} must be {wanted}{such}")


def check_wrapping(kwargs: Mapping[str, Any]) -> None:
    """Looks at what ``gymnasium.make`` takes for itself.

    Raises:
        ConfigError: It would not know what to do with it.
    """
    limit, mode = kwargs.get("max_episode_steps"), kwargs.get("render_mode")
    if limit is not None and (type(limit) is not int or (limit < 1 and limit != -1)):
        raise ConfigError(f"max_episode_steps={_shown(limit)} must be a whole number of at least 1, or -1 for no limit")
    if mode is not None and not isinstance(mode, str):
        raise ConfigError(f"render_mode={_shown(mode)} must be text")


def parameters_of(creator: Any) -> Mapping[str, inspect.Parameter]:
    """What a class or function that makes environments takes, without ``self``. A class may leave ``__init__`` out."""
    if not inspect.isclass(creator):
        return inspect.signature(creator).parameters
    if creator.__init__ is object.__init__:
        return {}
    (_, *own) = inspect.signature(creator.__init__).parameters.items()
    return dict(own)


def made_with(parameters: Mapping[str, inspect.Parameter]) -> str:
    """Names what there is, for messages."""
    named = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return f"it is made with: {', '.join(named)}" if named else "it is made without any"


@cache
def _checks(cls: Any) -> Checks:
    try:
        hints = get_type_hints(cls.__init__)
    except (NameError, TypeError, AttributeError):  # of names that only a type checker knows
        return {}
    found = {}
    for name, hint in hints.items():
        try:
            found[name] = (hint, TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)))
        except PydanticUserError:  # a model, or a dataclass, has its own
            found[name] = (hint, TypeAdapter(hint))
        except (PydanticSchemaGenerationError, TypeError):
            continue
    return found


def _fits(value: Any, check: "TypeAdapter[Any]") -> bool:
    """Whether a value is of a type, as it stands or as JSON, where a list stands for a tuple and text for a path."""
    value = value.item() if isinstance(value, np.generic) else value
    try:
        check.validate_python(value, strict=True)
    except ValidationError:
        try:
            check.validate_json(to_json(value), strict=True)
        except (ValidationError, PydanticSerializationError, UnicodeError):
            return False
    return True


def _shown(value: Any) -> str:
    return brief(repr(value), LONGEST)


def _wanted(hint: Any, several: bool = False) -> str:
    """A type as a person calls it who writes YAML."""
    if hint in WORDS:
        return WORDS[hint][several]
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_wanted(part, several) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "mappings" if several else f"a mapping{f' to {_wanted(parts[-1], True)}' if parts else ''}"
    listed = inspect.isclass(origin) and issubclass(origin, Sequence | Set)
    if listed and (origin is not tuple or Ellipsis in parts):
        return "lists" if several else f"a list of {_wanted(parts[0], True)}"
    return inspect.formatannotation(hint)
