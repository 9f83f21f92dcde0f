"""Choices in a configuration: a ``kind`` that names a function, with the function's keyword arguments as its siblings.

``{kind: jsd, beta: 0.5}`` names an entry of a literal registry; ``{kind: "package.module:name"}`` names any function of the same
form. The keyword-only parameters of the function are the settings, its annotations check them, its docstring documents them. A
setting without an annotation takes any value of its default's type, or anything where there is no default.
"""

import importlib
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from numbers import Real
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic.warnings import ArbitraryTypeWarning
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from agentopd.errors import ConfigError
from agentopd.settings.clock import Clock as Clock
from agentopd.settings.problems import explain, shown
from agentopd.settings.problems import nearest as nearest
from agentopd.settings.schedules import SCHEDULES

Function: TypeAlias = Callable[..., Any]
Registry: TypeAlias = Mapping[str, Function]


class Settings(BaseModel):
    """Base of every block of settings: frozen, numbers finite, nothing coerced, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _uncoerced(cls, given: Any, check: ValidatorFunctionWrapHandler) -> Any:
        got = check(given)
        _require_kept(given, got)
        return got


def _require_kept(given: Any, got: Any) -> None:
    """Refuses a number or a truth value that was made of something else; an integer may stand for a float."""
    if type(got) in _NOT_A:
        same = isinstance(given, bool) == isinstance(got, bool) and isinstance(given, type(got))
        if not same and not (type(got) is float and type(given) is int):
            raise PydanticKnownError(_NOT_A[type(got)])
    elif isinstance(got, list | tuple) and isinstance(given, list | tuple):
        for pair in zip(given, got, strict=False):
            _require_kept(*pair)
    elif isinstance(got, Mapping) and isinstance(given, Mapping):
        for name in got.keys() & given.keys():
            _require_kept(given[name], got[name])


_NOT_A: Mapping[type, Any] = {bool: "bool_type", int: "int_type", float: "float_type"}


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen function and its settings. Call :meth:`at` to get the settings at one step, schedules evaluated."""

    kind: str
    function: Function
    settings: Mapping[str, Any]
    stands_for: "Setting | None" = field(default=None, compare=False, repr=False)
    """Of a schedule: the setting whose values it gives."""

    @property
    def by_row(self) -> bool:
        """Whether, where a schedule may stand, it gives one number a row instead: a function marked with ``per_row``."""
        return getattr(self.function, "per_row", False)

    @property
    def content(self) -> str:
        """What the states of schedules are kept by: two choices of the same content are the same schedule."""
        return json.dumps(self.plain(), sort_keys=True, default=str)

    def at(self, clock: Clock) -> dict[str, Any]:
        """The keyword arguments of ``function`` at ``clock``; of a number a row, how to get it."""
        return {name: at(value, clock, f"{name} of {self.kind!r}") for name, value in self.settings.items()}

    def plain(self) -> dict[str, Any]:
        """The choice as it stands in a configuration file."""
        return {"kind": self.kind} | {name: _plain(value) for name, value in self.settings.items()}


@dataclass(frozen=True, slots=True)
class Setting:
    """A keyword-only parameter of a function, or, without one, any finite number."""

    function: Function | None = None
    name: str = ""

    def checked(self, given: Any) -> float:
        """``given`` as the number it is, if the parameter's annotation takes it; pydantic's ValidationError if not."""
        real = isinstance(given, Real) and not isinstance(given, bool)
        number: float = _adapter(self).validate_python(float(given) if real else given)
        return number


@lru_cache(maxsize=256)
def _adapter(setting: Setting) -> TypeAdapter[float]:
    annotation: Any = float
    if setting.function is not None:
        annotation = annotation_of(inspect.signature(setting.function).parameters[setting.name], setting.function)
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def at(value: Any, clock: Clock, key: str) -> Any:
    """The value of a setting at ``clock``: a schedule is evaluated, anything else is itself, a number a row too.

    Args:
        value: The setting.
        clock: The step.
        key: What the setting is called, for messages.

    Raises:
        ConfigError: The schedule raised, or gives what the setting does not take.
    """
    if not isinstance(value, Choice) or value.by_row:
        return value
    try:
        given = value.function(replace(clock, state=clock.states.get(value.content)), **value.settings)
    except Exception as error:  # a schedule may be the user's code
        raise ConfigError(
            f"{key}: the schedule {value.kind!r} raised {type(error).__name__} at step {clock.step}: {error}; a schedule gives a "
            "number at every step"
        ) from error
    try:
        return (value.stands_for or Setting()).checked(given)
    except ValidationError as error:
        raise ConfigError(
            f"{key}: the schedule {value.kind!r} gives {given!r} at step {clock.step}: {error.errors()[0]['msg']}"
        ) from error


def numbers_of(setting: Any) -> list[float]:
    """The numbers between which a setting moves: itself, or those of a shipped schedule; of one's own schedule none are known."""
    if not isinstance(setting, Choice):
        return [setting]
    if setting.kind not in SCHEDULES:
        return []
    ends = [setting.settings[name] for name in ("value", "start", "end") if name in setting.settings]
    return [*ends, *setting.settings.get("values", ())]


def choices_in(value: Any) -> Iterator[Choice]:
    """Every choice within settings, however deep: parts, schedules, numbers a row."""
    if isinstance(value, Choice):
        yield value
        value = value.settings
    elif isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from choices_in(item)


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
        branches = [
            _kind_schema(kind, _model_of(function, self.part), handler) for kind, function in self.registry.items()
        ]
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

    def _require_readable(self, kind: str, function: Function) -> None:
        """Refuses a user's function whose settings cannot be told from its signature."""
        example = max(self.registry.values(), key=lambda known: len(_leading(known)))
        shape = f"({', '.join([*_leading(example), '*', 'setting: float = 1.0'])})"
        try:
            parameters = inspect.signature(function).parameters.values()
            loose = [str(p) for p in parameters if _is_loose(p)]
            _model_of(function, self.part)
        except Exception as error:  # annotations are the user's code: reading them may raise anything
            reason = f"its settings cannot be read: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        else:
            rule = "settings stand after a *, each by its name, which is not kind and has no leading underscore"
            reason = f"{', '.join(loose)} cannot be set: {rule}" if loose else ""
        if reason:
            raise ValueError(f"{self.part} {kind!r}: {reason}; the shape is {shape}")


_LEADING = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_loose(p: inspect.Parameter) -> bool:
    """Whether it looks like a setting and cannot be read as one."""
    if p.kind in _LEADING:
        return p.default is not p.empty
    return p.kind is p.VAR_KEYWORD or p.name == "kind" or p.name.startswith("_")


def _leading(function: Function) -> list[str]:
    """The parameters that are passed by position."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in _LEADING]


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


class _Arguments(Settings):
    """Base of the settings of one function."""

    model_config = ConfigDict(arbitrary_types_allowed=True, validate_default=True)


@lru_cache(maxsize=256)
def _model_of(function: Function, part: str) -> type[BaseModel]:
    """The keyword-only parameters as a model; but for those of a schedule, a schedule may stand for a float."""
    fields: dict[str, Any] = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            kind = annotation_of(p, function)
            wrapped = kind if part == "schedule" else _schedulable(kind, Setting(function, p.name), part in BY_ROW)
            fields[p.name] = (wrapped, ... if p.default is p.empty else p.default)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ArbitraryTypeWarning)  # or what is no type would check nothing
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        return create_model(getattr(function, "__name__", "settings"), __base__=_Arguments, **fields)


def annotation_of(parameter: inspect.Parameter, function: Function) -> Any:
    """What a parameter of a function takes: its annotation, or else the type of the default. Annotations of other parameters may name what only a type checker knows."""
    if isinstance(parameter.annotation, str):
        return eval(parameter.annotation, vars(sys.modules[function.__module__]))
    if parameter.annotation is not parameter.empty:
        return parameter.annotation
    return Any if parameter.default is parameter.empty or parameter.default is None else type(parameter.default)


BY_ROW = {"divergence", "target", "estimator"}
"""Parts whose float settings may be one number a row."""


@dataclass(frozen=True, slots=True)
class OneForAll:
    """Among the metadata of an annotation: the setting takes one number for all rows."""


def _schedulable(annotation: Any, setting: Setting, by_row: bool) -> Any:
    """Lets a schedule stand wherever a function asks for a float, also for one that may be null, and a number a row where ``by_row``."""
    optional = get_origin(annotation) in (Union, UnionType)
    kinds = [one for one in (get_args(annotation) if optional else (annotation,)) if one is not type(None)]
    bare = [get_args(one)[0] if get_origin(one) is Annotated else one for one in kinds]
    by_row = by_row and not any(isinstance(mark, OneForAll) for one in kinds for mark in get_args(one)[1:])
    number = bare == [float]
    return Annotated[annotation, WrapValidator(partial(_number_or_schedule, setting, by_row))] if number else annotation


def _number_or_schedule(setting: Setting, by_row: bool, value: Any, number: Callable[[Any], Any]) -> Any:
    """The ends of a shipped schedule must be such numbers; one's own is tried at the first step."""
    if not isinstance(value, Mapping | Choice):
        return number(value)
    schedule = replace(OneOf("schedule", SCHEDULES).validate(value), stands_for=setting)
    if schedule.by_row:
        return _row_number(schedule, by_row)
    try:
        first = schedule.function(Clock(step=0, total=1), **schedule.settings)
    except Exception as error:  # a schedule may be the user's code
        raise ValueError(f"schedule {schedule.kind!r}: {type(error).__name__}: {error}") from error
    for given in numbers_of(schedule) or [first]:
        number(given)
    return schedule


def _row_number(choice: Choice, allowed: bool) -> Choice:
    """Refuses a number a row where one number is read, and one that cannot be called."""
    if not allowed:
        raise ValueError(
            f"{choice.kind!r} gives one number a row, and one for all rows is read here; numbers a row may stand in other settings, of a "
            f"{', '.join(sorted(BY_ROW))}: give a number or a schedule"
        )
    signature = inspect.signature(choice.function)
    try:
        signature.bind("rows", "teacher", **choice.settings)
    except TypeError as error:
        raise ValueError(
            f"{choice.kind!r} takes {signature} and is called as f(rows, teacher, **settings): {error}"
        ) from error
    return choice


def _checked(part: str, kind: str, function: Function, settings: Mapping[str, Any]) -> dict[str, Any]:
    model = _model_of(function, part)
    for name in settings:
        if name not in model.model_fields:
            names = ", ".join(model.model_fields) or "none"
            raise ValueError(
                f"{part} {kind!r} has no setting {name!r}{nearest(str(name), model.model_fields)}; it has: {names}"
            )
    try:
        checked = model.model_validate(dict(settings))
    except ValidationError as error:
        raise ValueError(f"{part} {kind!r}: {explain(error, model)}") from error
    return {name: getattr(checked, name) for name in model.model_fields}


def _kind_schema(kind: str, settings: type[BaseModel], handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """``settings`` with ``kind`` among them; ``handler`` keeps what they refer to with the whole schema."""
    schema = dict(handler.resolve_ref_schema(handler(settings.__pydantic_core_schema__)))
    schema["properties"] = {"kind": {"const": kind}} | schema.get("properties", {})
    schema["required"] = ["kind", *schema.get("required", [])]
    return schema


Number: TypeAlias = Annotated[
    float, WrapValidator(partial(_number_or_schedule, Setting(), False)), PlainSerializer(_plain)
]
"""A number, or a schedule of one: read it with :func:`at`."""
