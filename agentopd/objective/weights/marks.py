"""Marks on weights: what else of a batch they need."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from agentopd.settings.choice import Choice
from agentopd.settings.signature import F

Asked: TypeAlias = str | Callable[[Mapping[str, Any]], str]
"""A named statistic, or how a weight's settings name it."""
LIVE = frozenset({"student_entropy"})
"""Named statistics that only the pass without gradient gives."""


def needs_statistics(*asked: Asked) -> Callable[[F], F]:
    """Marks a shipped weight by the statistics that it asks for."""

    def mark(weight: F) -> F:
        weight.statistics = asked  # type: ignore[attr-defined]
        return weight

    return mark


def needs_live(weight: F) -> F:
    """Marks a weight that reads the student's present statistics, which cost one pass without gradient."""
    weight.needs_live = True  # type: ignore[attr-defined]
    return weight


def live_if_asked(weight: F) -> F:
    """Marks a weight that reads them where a setting names one of :data:`LIVE`, or ``logprobs`` is ``recomputed``."""
    weight.needs_live = _asked  # type: ignore[attr-defined]
    return weight


def needs_group(weight: F) -> F:
    """Marks a weight that compares the episodes of one task, so that one episode a task would tell it nothing."""
    weight.needs_group = True  # type: ignore[attr-defined]
    return weight


def reads_live(weight: Choice) -> bool:
    """Whether a weight, or a number a row, with its settings reads the student's present statistics."""
    mark = getattr(weight.function, "needs_live", False)
    return bool(mark(weight.settings) if callable(mark) else mark)


def reads_group(weight: Choice) -> bool:
    """Whether a weight compares the episodes of one task."""
    return bool(getattr(weight.function, "needs_group", False))


def _names(settings: Mapping[str, Any]) -> set[str]:
    return {value for value in settings.values() if isinstance(value, str)}


def _asked(settings: Mapping[str, Any]) -> bool:
    return settings.get("logprobs") == "recomputed" or not LIVE.isdisjoint(_names(settings))
