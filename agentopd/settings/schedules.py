"""Schedules: functions of a :class:`Clock` that give a setting its value at each step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Clock:
    """When something happens: what schedules read."""

    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)


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
        raise ValueError(f"{len(values)} values need {len(values) - 1} boundaries, got {len(boundaries)}")
    if any(later <= earlier for earlier, later in pairwise(boundaries)):
        raise ValueError(f"boundaries must increase, got {boundaries}")
    return values[sum(clock.step >= boundary for boundary in boundaries)]


def _progress(clock: Clock, begin: int, steps: int | None) -> float:
    span = (clock.total - 1 - begin) if steps is None else steps
    return min(max((clock.step - begin) / span, 0.0), 1.0) if span > 0 else float(clock.step >= begin)


SCHEDULES: Mapping[str, Callable[..., float]] = {"constant": constant, "linear": linear, "cosine": cosine, "step": step}
