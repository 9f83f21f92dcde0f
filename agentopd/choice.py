"""Choices in a configuration: a ``kind`` that names a function, with the function's keyword arguments as its siblings.

``{kind: jsd, beta: 0.5}`` names an entry of a literal registry; ``{kind: "package.module:name"}`` names any function of the same
form. The keyword-only parameters of the function are the settings, its annotations check them, its docstring documents them.
"""

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
    WrapValidator,
    create_model,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

Function: TypeAlias = Callable[..., Any]
Registry: TypeAlias = Mapping[str, Function]


class Settings(BaseModel):
    """Base of every block of settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Clock:
    """When something happens: what schedules read."""

    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen function and its settings. Call :meth:`at` to get the settings at one step, schedules evaluated."""

    kind: str
    function: Function
    settings: Mapping[str, Any]

    def at(self, clock: Clock) -> dict[str, Any]:
        """The keyword arguments of ``function`` at ``clock``."""
        return {name: at(value, clock) for name, value in self.settings.items()}

    def plain(self) -> dict[str, Any]:
        """The choice as it stands in a configuration file."""
        return {"kind": self.kind} | {name: _plain(value) for name, value in self.settings.items()}


def at(value: Any, clock: Clock) -> Any:
    """The value of a setting at ``clock``: a schedule is evaluated, anything else is itself."""
    return value.function(clock, **value.settings) if isinstance(value, Choice) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return value.plain()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


@dataclass(frozen=True)
class OneOf:
    """Marks a pydantic field as a :class:`Choice` from ``registry``; a bare string is short for ``{kind: string}``."""

    part: str
    registry: Registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        serialise = core_schema.plain_serializer_function_ser_schema(Choice.plain)
        return core_schema.no_info_plain_validator_function(self.validate, serialization=serialise)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One object a kind, from the functions' signatures; import paths are any object with a ``kind``."""
        branches = [_kind_schema(kind, function, handler) for kind, function in self.registry.items()]
        return {"anyOf": [*branches, {"type": "object", "properties": {"kind": {"type": "string", "pattern": ":"}}}]}

    def validate(self, value: Any) -> Choice:
        """Checks ``value`` against the signature of the function it names."""
        if isinstance(value, Choice):
            return value
        given = {"kind": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str):
            raise ValueError(f"expected a {self.part} such as {{kind: {next(iter(self.registry))}}}, got {value!r}")
        settings = {name: setting for name, setting in given.items() if name != "kind"}
        function = self.find(given["kind"])
        return Choice(given["kind"], function, _checked(self.part, given["kind"], function, settings))

    def find(self, kind: str) -> Function:
        """The function that ``kind`` names, from the registry or by import path."""
        if ":" in kind:
            return load(kind)
        if kind not in self.registry:
            raise ValueError(
                f"no {self.part} is called {kind!r}{nearest(kind, self.registry)}; there are: {', '.join(self.registry)}"
            )
        return self.registry[kind]


def load(path: str) -> Function:
    """Imports ``package.module:name``."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import {path!r}: {error}; the form is package.module:name") from error
    if not callable(found):
        raise ValueError(f"{path!r} is not a function or class")
    return found  # type: ignore[no-any-return]


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint for a misspelt word, empty where nothing is near."""
    found = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


@lru_cache(maxsize=256)
def _model_of(function: Function) -> type[BaseModel]:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    is_schedule = function in SCHEDULES.values()
    fields: dict[str, Any] = {
        p.name: (
            p.annotation if is_schedule else _schedulable(p.annotation),
            ... if p.default is p.empty else p.default,
        )
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, validate_default=True)
    return create_model(getattr(function, "__name__", "settings"), __config__=config, **fields)


def _schedulable(annotation: Any) -> Any:
    """Lets a schedule stand wherever a function asks for a float."""
    if annotation is inspect.Parameter.empty:
        return Any
    number = annotation is float or (get_origin(annotation) is Annotated and get_args(annotation)[0] is float)
    return Annotated[annotation, WrapValidator(_number_or_schedule)] if number else annotation


def _number_or_schedule(value: Any, number: Callable[[Any], Any]) -> Any:
    return OneOf("schedule", SCHEDULES).validate(value) if isinstance(value, Mapping | Choice) else number(value)


def _checked(part: str, kind: str, function: Function, settings: Mapping[str, Any]) -> dict[str, Any]:
    model = _model_of(function)
    for name in settings:
        if name not in model.model_fields:
            names = ", ".join(model.model_fields) or "none"
            raise ValueError(
                f"{part} {kind!r} has no setting {name!r}{nearest(name, model.model_fields)}; it has: {names}"
            )
    try:
        checked = model.model_validate(dict(settings))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise ValueError(f"{part} {kind!r}: {'; '.join(problems)}") from error
    return {name: getattr(checked, name) for name in model.model_fields}


def _kind_schema(kind: str, function: Function, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """The settings of ``function`` with ``kind`` among them; ``handler`` keeps what they refer to with the whole schema."""
    schema = dict(handler.resolve_ref_schema(handler(_model_of(function).__pydantic_core_schema__)))
    schema["properties"] = {"kind": {"const": kind}} | schema.get("properties", {})
    schema["required"] = ["kind", *schema.get("required", [])]
    return schema


def constant(clock: Clock, *, value: float) -> float:
    """The same value at every step."""
    return value


def linear(clock: Clock, *, start: float, end: float, steps: int | None = None, begin: int = 0) -> float:
    """From ``start`` at step ``begin`` to ``end``, ``steps`` steps later (default: the end of the run), then ``end``."""
    return start + (end - start) * _progress(clock, begin, steps)


def cosine(clock: Clock, *, start: float, end: float, steps: int | None = None, begin: int = 0) -> float:
    """As :func:`linear`, along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * _progress(clock, begin, steps)))


def step(clock: Clock, *, values: list[float], boundaries: list[int]) -> float:
    """``values[i]`` from step ``boundaries[i - 1]`` on; one value more than boundaries, boundaries increasing."""
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"step schedule: {len(values)} values need {len(values) - 1} boundaries, got {len(boundaries)}"
        )
    return values[sum(clock.step >= boundary for boundary in boundaries)]


def _progress(clock: Clock, begin: int, steps: int | None) -> float:
    span = (clock.total - 1 - begin) if steps is None else steps
    return min(max((clock.step - begin) / span, 0.0), 1.0) if span > 0 else float(clock.step >= begin)


SCHEDULES: Registry = {"constant": constant, "linear": linear, "cosine": cosine, "step": step}

Number: TypeAlias = Annotated[float, WrapValidator(_number_or_schedule), PlainSerializer(_plain)]
"""A number, or a schedule of one: read it with :func:`at`."""
