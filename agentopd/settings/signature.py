"""What a function's signature says of its settings: which parameters they are, what each takes, and all of them as a model.

The keyword-only parameters of a function are its settings. A setting without an annotation takes any value of its default's type, or
anything where there is no default.
"""

import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic.warnings import ArbitraryTypeWarning

from agentopd.settings.base import Settings

Function: TypeAlias = Callable[..., Any]
F = TypeVar("F", bound=Function)
"""A function that a mark gives back as it was."""
Registry: TypeAlias = Mapping[str, Function]
Wrap: TypeAlias = Callable[[Any, Function, str], Any]
"""From what a setting takes, its function and its name to what may stand for it in a configuration."""


def annotation_of(parameter: inspect.Parameter, function: Function) -> Any:
    """What a parameter of a function takes: its annotation, or else the type of the default.

    Annotations of other parameters may name what only a type checker knows.
    """
    if isinstance(parameter.annotation, str):
        return eval(parameter.annotation, vars(sys.modules[function.__module__]))
    if parameter.annotation is not parameter.empty:
        return parameter.annotation
    return Any if parameter.default is parameter.empty or parameter.default is None else type(parameter.default)


_LEADING = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def leading(function: Function) -> list[str]:
    """The parameters that are passed by position."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in _LEADING]


def loose(function: Function) -> list[str]:
    """The parameters that look like settings and cannot be read as such."""
    return [str(p) for p in inspect.signature(function).parameters.values() if _is_loose(p)]


def _is_loose(p: inspect.Parameter) -> bool:
    if p.kind in _LEADING:
        return p.default is not p.empty
    return p.kind is p.VAR_KEYWORD or p.name == "kind" or p.name.startswith("_")


class _Arguments(Settings):
    """Base of the settings of one function."""

    model_config = ConfigDict(arbitrary_types_allowed=True, validate_default=True)


@lru_cache(maxsize=256)
def model_of(function: Function, wrap: Wrap) -> type[BaseModel]:
    """The settings of ``function`` as a model, each with what ``wrap`` lets stand for it."""
    fields: dict[str, Any] = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            taken = wrap(annotation_of(p, function), function, p.name)
            fields[p.name] = (taken, ... if p.default is p.empty else p.default)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ArbitraryTypeWarning)  # or what is no type would check nothing
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        return create_model(getattr(function, "__name__", "settings"), __base__=_Arguments, **fields)


def kind_schema(kind: str, settings: type[BaseModel], handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """``settings`` with ``kind`` among them; ``handler`` keeps what they refer to with the whole schema."""
    schema = dict(handler.resolve_ref_schema(handler(settings.__pydantic_core_schema__)))
    schema["properties"] = {"kind": {"const": kind}} | schema.get("properties", {})
    schema["required"] = ["kind", *schema.get("required", [])]
    return schema
