"""Numbers a row: what may stand for a float setting of a divergence, a target or an estimator where it differs from row to row."""

from typing import Any

import numpy as np
from pydantic import ValidationError

from agentopd.objective.columns import Reals, TeacherColumns
from agentopd.objective.contract import PartError, call, column
from agentopd.objective.rows import Rows
from agentopd.settings.choice import Choice, Setting
from agentopd.settings.clock import Clock
from agentopd.settings.signature import Function
from agentopd.types import Bools


def per_row(function: Function) -> Function:
    """Marks ``f(rows, teacher, **settings) -> [A]`` as a number a row; it may be a :func:`needs_live` too."""
    function.per_row = True  # type: ignore[attr-defined]
    return function


def settings_at(
    key: str, part: Choice, clock: Clock, rows: Rows, teacher: TeacherColumns | None, on_A: Bools
) -> dict[str, Any]:
    """The settings of a part at a step: a number, or one number a row of the whole batch, [A].

    Args:
        key: Where the part stands in a configuration.
        part: Its choice.
        clock: The step.
        rows: The rows that need one: those that the term trains, or whose rewards count in their returns.
        teacher: What the term's teacher said of them.
        on_A: Which of the batch they are; the others get a number that ``part`` takes too.

    Raises:
        ConfigError: A number is not one that the setting takes.
    """
    settings = part.at(clock)
    for name, value in settings.items():
        if isinstance(value, Choice) and value.by_row:
            number_A = _numbers(f"{key}.{name}", value, rows, teacher) if len(rows) else np.zeros(0)
            settings[name] = _spread(number_A, on_A)
    return settings


def _numbers(key: str, choice: Choice, rows: Rows, teacher: TeacherColumns | None) -> Reals:
    given = call(key, choice, choice.settings, rows, teacher)
    number_A = column(key, choice, given, len(rows), "number")
    setting = choice.stands_for or Setting()
    for row in {int(number_A.argmin()), int(number_A.argmax())}:
        try:
            setting.checked(number_A[row])
        except ValidationError as error:
            raise PartError(
                f"{key}: {choice.kind!r} gives {number_A[row]} for row {row} of {len(rows)}: {error.errors()[0]['msg']}",
                choice,
            ) from error
    return number_A


def _spread(number_A: Reals, on_A: Bools) -> Reals:
    spread_A = np.full(len(on_A), number_A[0] if len(number_A) else 0.0)
    spread_A[on_A] = number_A
    return spread_A
