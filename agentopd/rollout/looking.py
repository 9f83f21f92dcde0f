"""A look at an environment that is not played: constructors and ``close`` are a user's own code, and may hang, raise or crash."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import gymnasium

from agentopd.errors import AgentOPDError, EnvError
from agentopd.isolation.hosts import host
from agentopd.isolation.lane import Isolation
from agentopd.isolation.looked import Looked
from agentopd.rollout.tasks import EnvConfig
from agentopd.types import Failure

Seen = TypeVar("Seen")


def look_at(
    settings: EnvConfig,
    look: Callable[[gymnasium.Env[Any, Any]], Seen],
    time_limit: float,
    isolation: Isolation = "thread",
) -> Seen:
    """What ``look`` finds in a new environment, which is closed without waiting for it.

    In a process of its own ``look`` is a function of a module that imports no torch, or it takes long, and finds plain data.

    Raises:
        ConfigError: It is not registered, or refuses its arguments, or cannot be made in a process of its own.
        EnvError: It cannot be made, or not within ``time_limit`` seconds.
    """
    lane = host(isolation, time_limit).lane(Looked(settings.id, settings.kwargs, look))
    lane.submit("look")
    seen = lane.result()
    lane.close()
    if isinstance(seen, AgentOPDError):
        raise seen
    if isinstance(seen, Failure):
        raise EnvError(f"{settings.id} cannot be made: {seen.message}")
    return cast(Seen, seen)
