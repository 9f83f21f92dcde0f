"""Numbers a row: what may stand for a float setting of a divergence, a target or an estimator where it differs from row to row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from agentopd.objective.columns import Column, Reals, TeacherColumns
from agentopd.objective.contract import PartError, call, checked_column
from agentopd.objective.rows import Rows
from agentopd.settings.choice import Choice, Setting
from agentopd.settings.clock import Clock
from agentopd.settings.signature import F
from agentopd.types import Bools


def per_row(function: F) -> F:
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
    number_A = checked_column(key, choice, given, len(rows), "number")
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


def picked(settings: Mapping[str, Any], of_A: Bools | Column) -> dict[str, Any]:
    """Settings on the rows that ``of_A`` marks or, as indices, names: of one number a row those of these."""
    return {name: value[of_A] if isinstance(value, np.ndarray) else value for name, value in settings.items()}


def tensors(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, one number a row as a tensor."""
    return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in settings.items()}


def of_rows(settings: Mapping[str, Any], rows: slice, local_M: Tensor | None, dtype: torch.dtype) -> dict[str, Any]:
    """Settings of a chunk, and of some of its rows: a tensor [A] gives one number a row."""

    def pick(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        chosen = value[rows] if local_M is None else value[rows][local_M]
        return chosen.to(dtype) if chosen.is_floating_point() else chosen

    return {name: pick(value) for name, value in settings.items()}
