"""An environment that is looked at, and not played."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from agentopd import env as environments
from agentopd.errors import AgentOPDError, ConfigError, EnvError


class Looked:
    """Makes an environment and looks at it; see :class:`agentopd.isolation.lane.Hosted`."""

    def __init__(self, env_id: str, kwargs: Mapping[str, Any], look: Callable[[gymnasium.Env[Any, Any]], Any]) -> None:
        """Nothing is made yet. Of another process ``look`` is a function of a module, and finds plain data."""
        self.env_id = env_id
        self._kwargs, self._look = copy.deepcopy(dict(kwargs)), look
        self._env: gymnasium.Env[Any, Any] | None = None

    def look(self) -> Any:
        """What is found; an error that already says what is wrong is returned."""
        try:
            self._env = environments.make(self.env_id, **self._kwargs)
        except AgentOPDError as error:
            return error
        return self._look(self._env)

    def close(self) -> None:
        """Closes it, where it was made."""
        if self._env is not None:
            self._env.close()

    @staticmethod
    def packed(found: Any) -> tuple[str, Any]:
        """As plain data, where it is; an error as its kind and its message."""
        if isinstance(found, AgentOPDError):
            return ("config" if isinstance(found, ConfigError) else "env"), str(found)
        return "found", found

    @staticmethod
    def unpacked(packed: tuple[str, Any]) -> Any:
        """The reverse of :meth:`packed`."""
        kind, found = packed
        return found if kind == "found" else (ConfigError if kind == "config" else EnvError)(found)
