"""The memory of stateful schedules, from step to step; ``adaptive.py`` says what such a schedule is."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from agentopd.errors import ConfigError
from agentopd.settings.choice import Choice
from agentopd.settings.clock import Clock


def advanced(choices: Iterable[Choice], clock: Clock) -> dict[str, Any]:
    """The states after the step of ``clock``, which holds those before it and what was measured in it.

    Raises:
        ConfigError: A schedule cannot go on from that, as where the metric that it watches does not exist.
    """
    stateful = {choice.content: choice for choice in choices if hasattr(choice.function, "advance")}
    return {content: _advance(choice, clock) for content, choice in stateful.items()}


def _advance(schedule: Choice, clock: Clock) -> Any:
    before = clock.states.get(schedule.content)
    try:
        return schedule.function.advance(before, replace(clock, state=before), **schedule.settings)  # type: ignore[attr-defined]
    except Exception as error:  # a schedule may be the user's code
        what = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"schedule {schedule.kind!r} cannot go on after step {clock.step}: {what}") from error
