"""A choice: a chosen function and its settings, and what the settings are at one step."""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from numbers import Real
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from agentopd.errors import ConfigError
from agentopd.settings.clock import Clock
from agentopd.settings.schedules import SCHEDULES
from agentopd.settings.signature import Function, annotation_of


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
        return {"kind": self.kind} | {name: plain(value) for name, value in self.settings.items()}


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
    ends = [setting.settings[name] for name in ("value", "start", "end", "least", "full") if name in setting.settings]
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


def plain(value: Any) -> Any:
    """A setting as it stands in a configuration file."""
    if isinstance(value, Choice):
        return value.plain()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
