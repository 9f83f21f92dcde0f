"""Marks on weights: which statistics they ask for, and what else of a batch they need. All of it is known before there is a row."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from agentopd.objective.contract import is_own
from agentopd.objective.weights.named import LIVE, OF_PLAYED, STATISTICS
from agentopd.settings.choice import Choice
from agentopd.settings.signature import F

Statistic: TypeAlias = str | Callable[[Mapping[str, Any]], str]
"""A named statistic, or how a weight's settings name it."""


def needs_statistics(*asked: Statistic) -> Callable[[F], F]:
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
    """Marks a weight that reads them where ``logprobs`` is ``recomputed``, or a setting names a statistic of ``LIVE``."""
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


def asks(weight: Choice) -> tuple[str, ...]:
    """The statistics that a weight with its settings reads, as it is marked; of one's own those that its settings name."""
    if is_own(weight):
        return tuple(v for v in weight.settings.values() if isinstance(v, str) and v in STATISTICS)
    marked: tuple[Statistic, ...] = getattr(weight.function, "statistics", ())
    return tuple(one if isinstance(one, str) else one(weight.settings) for one in marked)


def reads_played(weight: Choice) -> bool:
    """Whether it takes the log-probability that a token was sampled with for the student's; ``importance`` divides by it and does not."""
    read = weight.settings.get("logprobs", "behaviour" if is_own(weight) else "recomputed")
    return read == "behaviour" and not OF_PLAYED.isdisjoint(asks(weight))


def _asked(settings: Mapping[str, Any]) -> bool:
    return settings.get("logprobs") == "recomputed" or any(
        name in LIVE for name in settings.values() if isinstance(name, str)
    )
