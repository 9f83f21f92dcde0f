"""What a setting takes, and what it is by default, in words."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentopd.settings.choice import Choice
from agentopd.settings.kinds import Kinds
from agentopd.settings.parts import SCHEDULE, Number
from agentopd.where import Names

Told = Callable[[Any], str]
"""From settings, or the kinds of a part, to what refers to where they are described."""

_PLAIN: Mapping[Any, str] = {
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    str: "text",
    Any: "anything",
}
_BOUNDS: Mapping[str, str] = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_NUMBER, _NAMES = get_args(Number)[1], get_args(Names)[1]


def taken(annotation: Any, told: Told, metadata: Sequence[Any] = ()) -> str:
    """What a setting takes, by its annotation and what pydantic keeps beside that."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return taken(inner, told, [*metadata, *_flat(marks)])
    metadata = _flat(metadata)
    kinds = next((mark for mark in metadata if isinstance(mark, Kinds)), None)
    if kinds is not None:
        return told(kinds)
    if _NUMBER in metadata:
        return f"number or {told(SCHEDULE)}"
    if _NAMES in metadata:
        return "name or list of names"
    if NoneType in get_args(annotation):
        rest = functools.reduce(operator.or_, (one for one in get_args(annotation) if one is not NoneType))
        return f"{taken(rest, told, metadata)} or `null`"
    bounds = [f"{_BOUNDS[name]} {bound:.10g}" for mark in metadata for name, bound in _bounds(mark)]
    return ", ".join([_bare(annotation, told), *bounds])


def _flat(marks: Sequence[Any]) -> list[Any]:
    """The metadata of an annotation, that of ``Field`` in it too."""
    return [one for mark in marks for one in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]


def _bounds(mark: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(mark, name)) for name in _BOUNDS if getattr(mark, name, None) is not None]


def _bare(annotation: Any, told: Told) -> str:
    """An annotation without marks."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(taken(one, told) for one in inner)
    if origin in (tuple, list):
        listed = [taken(one, told) for one in inner if one is not Ellipsis]
        return f"list of: {listed[0]}" if len(listed) == 1 else f"list of {len(listed)}: {listed[0]}"
    if origin is not None:  # a mapping
        return f"mapping of names to: {taken(inner[1], told)}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return told(annotation)
    return _PLAIN.get(annotation, "text")


def default(value: Any) -> str:
    """A default as it would stand in a file."""
    if isinstance(value, BaseModel) and not _plain(value):
        return "its defaults"
    return f"`{yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, sort_keys=False).splitlines()[0]}`"


def _plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return value.plain() if value.settings else value.kind
    if isinstance(value, BaseModel):
        untouched = type(value)()
        return {name: _plain(one) for name, one in dict(value).items() if one != getattr(untouched, name)}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value
