"""Parts of a method in a configuration, whose numbers may move: with the step by a schedule, or from row to row."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, PlainSerializer, WrapValidator

from agentopd.settings.choice import Choice, Setting, numbers_of, plain
from agentopd.settings.clock import Clock
from agentopd.settings.kinds import Kinds
from agentopd.settings.schedules import SCHEDULES
from agentopd.settings.signature import Function, model_of

BY_ROW = {"divergence", "target", "estimator"}
"""Parts whose float settings may be one number a row."""
SCHEDULE = Kinds("schedule", SCHEDULES)


@dataclass(frozen=True, slots=True)
class OneForAll:
    """Among the metadata of an annotation: the setting takes one number for all rows."""


@dataclass(frozen=True)
class OneOf(Kinds):
    """Marks a pydantic field as a :class:`~agentopd.settings.choice.Choice` from ``registry``, with schedules among its settings."""

    def model(self, function: Function) -> type[BaseModel]:
        """The settings of ``function`` as a model: for a float a schedule may stand, and a number a row in :data:`BY_ROW`."""
        return model_of(function, _moving_by_row if self.part in BY_ROW else _moving)


def _moving(annotation: Any, function: Function, name: str, by_row: bool = False) -> Any:
    """Lets a schedule stand wherever a function asks for a float, also for one that may be null, and a number a row where ``by_row``."""
    optional = get_origin(annotation) in (Union, UnionType)
    kinds = [one for one in (get_args(annotation) if optional else (annotation,)) if one is not type(None)]
    by_row = by_row and not any(isinstance(mark, OneForAll) for one in kinds for mark in get_args(one)[1:])
    bare = [get_args(one)[0] if get_origin(one) is Annotated else one for one in kinds]
    if bare != [float]:
        return annotation
    return Annotated[annotation, WrapValidator(partial(_number_or_schedule, Setting(function, name), by_row))]


def _moving_by_row(annotation: Any, function: Function, name: str) -> Any:
    return _moving(annotation, function, name, by_row=True)


def _number_or_schedule(setting: Setting, by_row: bool, value: Any, number: Callable[[Any], Any]) -> Any:
    """The ends of a shipped schedule must be such numbers; one's own is tried at the first step."""
    if not isinstance(value, Mapping | Choice):
        return number(value)
    schedule = replace(SCHEDULE.validate(value), stands_for=setting)
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


Number: TypeAlias = Annotated[
    float, WrapValidator(partial(_number_or_schedule, Setting(), False)), PlainSerializer(plain)
]
"""A number, or a schedule of one: read it with :func:`at`."""
