"""One environment as a vector environment sees it: what Gymnasium gives, as it is."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium

from agentopd import env as environments
from agentopd.env.exchange import facts_of, reward_of
from agentopd.errors import ConfigError, EnvError


class Answer(NamedTuple):
    """What ``reset`` or ``step`` gave."""

    observation: str
    info: dict[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    final: tuple[str, dict[str, Any]] | None = None
    """What the last step of an episode gave, where the next one was begun at once; observation and info are then those of its start."""

    @property
    def over(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


class Bare:
    """Makes, resets and steps one environment; see :class:`agentopd.isolation.lane.Hosted`."""

    def __init__(self, env_id: str, kwargs: Mapping[str, Any]) -> None:
        """Nothing is made yet."""
        self.env_id = env_id
        self._kwargs = dict(kwargs)
        self._env: gymnasium.Env[Any, Any] | None = None

    def make(self) -> str | None:
        """Makes it; what is wrong with its id or its arguments, where something is."""
        try:
            self._env = environments.make(self.env_id, **self._kwargs)
        except ConfigError as error:
            return str(error)
        return None

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> Answer:
        """Starts an episode; makes the environment first where that was not done."""
        if self._env is None:
            self._env = environments.make(self.env_id, **self._kwargs)
        observation, info = self._env.reset(seed=seed, options=options)
        return Answer(self._text(observation), info)

    def step(self, action: str, begin_again: bool) -> Answer:
        """Takes an action; ``begin_again`` starts the next episode at once where it ends this one."""
        observation, reward, terminated, truncated, info = self._made.step(action)
        answer = Answer(
            self._text(observation),
            info,
            reward_of(reward, f"{self.env_id}: step"),
            bool(terminated),
            bool(truncated),
        )
        if not begin_again or not answer.over:
            return answer
        begun = self.reset(None, None)
        return answer._replace(observation=begun.observation, info=begun.info, final=(answer.observation, answer.info))

    def call(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """An attribute of the environment, through its wrappers; what it returns, where it can be called."""
        found = self._made.get_wrapper_attr(name)
        return found(*arguments, **keywords) if callable(found) else found

    def set_attr(self, name: str, value: Any) -> None:
        """Sets an attribute of the environment, through its wrappers."""
        self._made.set_wrapper_attr(name, value)

    def close(self) -> None:
        """Closes the environment, where one was made."""
        if self._env is not None:
            self._env.close()

    @property
    def _made(self) -> gymnasium.Env[Any, Any]:
        if self._env is None:
            raise EnvError(f"{self.env_id} is not made: call reset() first")
        return self._env

    def _text(self, observation: Any) -> str:
        if not isinstance(observation, str):
            raise EnvError(f"{self.env_id}: an observation must be text, got {type(observation).__name__}")
        return observation

    @staticmethod
    def packed(result: Any) -> Any:
        """As plain data; an ``info`` becomes that by the rules of privileged facts."""
        if not isinstance(result, Answer):
            return result
        final = result.final and (result.final[0], facts_of(result.final[1], "info"))
        return tuple(result._replace(info=facts_of(result.info, "info"), final=final))

    @staticmethod
    def unpacked(packed: Any) -> Any:
        """The reverse of :meth:`packed`, but that an answer is still a tuple: :func:`answer_of` takes either."""
        return packed


def answer_of(result: Any) -> Answer:
    """What came from a lane, as an answer.

    Raises:
        EnvError: It is none: from another process anything may come.
    """
    try:
        return result if isinstance(result, Answer) else Answer(*result)
    except TypeError as error:
        raise EnvError(f"an environment in another process answered {result!r}") from error
