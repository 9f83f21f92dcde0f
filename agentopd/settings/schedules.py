"""Schedules: functions of a :class:`Clock` that give a setting its value at each step."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from agentopd.settings.adaptive import adaptive_depth, distillm, retire, taid
from agentopd.settings.clock import Clock, progress

Share = Annotated[float, Field(gt=0.0, le=1.0)]


def constant(clock: Clock, *, value: float) -> float:
    """The same value at every step.

    Args:
        clock: The step.
        value: It.
    """
    return value


def linear(
    clock: Clock, *, start: float, end: float, steps: int | None = None, begin: int = 0, share: Share = 1.0
) -> float:
    """From ``start`` at step ``begin`` to ``end``, ``steps`` steps later, then ``end``.

    Without ``steps`` it ends when ``share`` of the run is over; with them ``share`` stays 1.

    Args:
        clock: The step.
        start: The value at first.
        end: The value in the end.
        steps: Optimiser steps from one to the other.
        begin: The step at which it begins to move.
        share: The part of the run at whose end it ends; only without ``steps``.
    """
    return start + (end - start) * _passed(clock, begin, steps, share)


def cosine(
    clock: Clock, *, start: float, end: float, steps: int | None = None, begin: int = 0, share: Share = 1.0
) -> float:
    """As :func:`linear`, along half a cosine; from 1 to 0 with ``share`` 0.8 as Guided-OPD hands turns over to the student.

    Args:
        clock: The step.
        start: The value at first.
        end: The value in the end.
        steps: Optimiser steps from one to the other.
        begin: The step at which it begins to move.
        share: The part of the run at whose end it ends; only without ``steps``.
    """
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * _passed(clock, begin, steps, share)))


def step(clock: Clock, *, values: list[float], boundaries: list[int]) -> float:
    """``values[i]`` from step ``boundaries[i - 1]`` on; one value more than boundaries, boundaries increasing.

    Args:
        clock: The step.
        values: In order.
        boundaries: The steps from which the next value holds.
    """
    if len(values) != len(boundaries) + 1:
        raise ValueError(f"{len(values)} values need {len(values) - 1} boundaries, got {len(boundaries)}")
    if any(later <= earlier for earlier, later in pairwise(boundaries)):
        raise ValueError(f"boundaries must increase, got {boundaries}")
    return values[sum(clock.step >= boundary for boundary in boundaries)]


def stairs(
    clock: Clock,
    *,
    start: float,
    end: float,
    every: Annotated[int, Field(ge=1)],
    by: Annotated[float, Field(gt=0.0)] = 1.0,
) -> float:
    """``start + by * floor(n / every)`` at step n, up to ``end``; downwards where ``end`` is less.

    TCOD's depth of episodes is that with start 1 and every 2.

    Args:
        clock: The step.
        start: The value at first.
        end: Where it stops.
        every: Optimiser steps to one stair.
        by: The height of a stair.
    """
    climbed = min(by * (clock.step // every), abs(end - start))
    return start + math.copysign(climbed, end - start)


def _passed(clock: Clock, begin: int, steps: int | None, share: float) -> float:
    if steps is not None and share != 1.0:
        raise ValueError(f"steps={steps} and share={share} both say when it ends; give one of them")
    return progress(clock, begin, steps, share)


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "step": step,
    "stairs": stairs,
    "taid": taid,
    "retire": retire,
    "distillm": distillm,
    "adaptive_depth": adaptive_depth,
}
