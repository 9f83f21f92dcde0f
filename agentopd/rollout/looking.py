"""A look at an environment that is not played: constructors and ``close`` are a user's own code, and may hang or raise."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium

from agentopd import env as environments
from agentopd.errors import AgentOPDError, EnvError
from agentopd.rollout.isolation import Isolated
from agentopd.rollout.tasks import EnvConfig
from agentopd.types import Failure

Seen = TypeVar("Seen")
Env = gymnasium.Env[Any, Any]


def look_at(settings: EnvConfig, look: Callable[[Env], Seen], time_limit: float) -> Seen:
    """What ``look`` finds in a new environment, which is closed without waiting for it.

    Raises:
        ConfigError: It is not registered, or refuses its arguments.
        EnvError: It cannot be made, or not within ``time_limit`` seconds.
    """
    made: list[Env] = []

    def make() -> Seen | AgentOPDError:
        try:
            made.append(environments.make(settings.id, **copy.deepcopy(settings.kwargs)))
        except AgentOPDError as error:  # already says what is wrong
            return error
        return look(made[0])

    thread: Isolated[Seen | AgentOPDError] = Isolated(time_limit)
    thread.submit("making it", make)
    seen = thread.result()
    thread.close(lambda: made[0].close() if made else None)
    if isinstance(seen, AgentOPDError):
        raise seen
    if isinstance(seen, Failure):
        raise EnvError(f"{settings.id} cannot be made: {seen.message}")
    return seen
