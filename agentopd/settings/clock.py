"""The clock: what a schedule reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Clock:
    """When something happens."""

    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the step before."""
    states: Mapping[str, Any] = field(default_factory=dict)
    """What each stateful schedule remembers, by its content."""
    state: Any = None
    """What the schedule that reads this clock remembers; ``None`` before its first step, and for a schedule without a memory."""


def progress(clock: Clock, begin: int = 0, steps: int | None = None, share: float = 1.0) -> float:
    """How far the time from step ``begin`` has run, 0 to 1: ``steps`` steps, or else until ``share`` of the run is over."""
    span = share * (clock.total - 1) - begin if steps is None else steps
    return min(max((clock.step - begin) / span, 0.0), 1.0) if span > 0 else float(clock.step >= begin)
