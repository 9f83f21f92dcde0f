"""Environments: text in, text out, Gymnasium unmodified. They know no tokens and no models."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.error import DependencyNotInstalled, ResetNeeded

from agentopd.env.exchange import Reply, Step, TextSpace, facts_of, family_of, no_call, reply_to, reward_of
from agentopd.env.given import check_given, check_wrapping, made_with, parameters_of
from agentopd.env.registry import resolve
from agentopd.env.wrappers import TextFace, TurnLimit
from agentopd.errors import ConfigError, EnvError, describe
from agentopd.tooling import ToolSet, brief, tool_names
from agentopd.tooling.answer import well_formed


class TextEnv(gymnasium.Env[str, str]):
    """An environment of text and tools. A subclass writes :meth:`start` and ``@tool`` methods, and what else it needs.

    ``reset`` and ``step`` are Gymnasium's and stay as they are. An action is canonical text (see ``agentopd.tooling.action``). Whatever is
    wrong with an action is told in the observation and counted in ``info["errors"]``; it never raises. What ``start``, ``respond``,
    ``expert`` or ``privileged`` raise is an error of the environment and propagates.

    ``info`` is fresh plain data: ``messages`` (the observation, role-tagged), ``errors`` (kinds of bad action), ``success`` (once
    the episode is over), ``privileged`` (where there is any), ``family`` (from ``reset``, where there is one). Randomness comes from
    ``self.np_random`` only.
    """

    instructions: str = ""
    """The system message."""
    family: str = ""
    """The name of the kind of task, by which results are told apart. Where it differs between episodes, :meth:`start` sets it."""
    extra_tools: tuple[Callable[..., Any], ...] = ()
    """Free ``@tool`` functions that the model can call beside the ``@tool`` methods."""
    options: dict[str, Any]
    """The options that ``reset`` was given."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses tools under names that Gymnasium or this class calls, such as ``close`` and ``finish``."""
        super().__init_subclass__(**kwargs)
        own = dir(TextEnv())  # an instance, which has what the class only annotates, such as `options`
        taken = [name for name in tool_names(cls) if name in own]
        if taken:
            raise ConfigError(f"tool {taken[0]} of {cls.__name__}: that name is TextEnv's own; rename the tool")

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Makes the state that ``step`` needs, so that a subclass need not call ``super().__init__``.

        Raises:
            ConfigError: the class takes no such argument, or one of another type, as far as its type hints say.
        """
        check_given(cls, args, kwargs)
        env = super().__new__(cls)
        env.action_space, env.observation_space = TextSpace(), TextSpace()
        env.options = {}
        env._reward, env._over, env._success = 0.0, True, False
        return env

    def start(self) -> str:
        """Draws a task from ``self.np_random`` and ``self.options``, and tells it: the first observation."""
        raise NotImplementedError(f"{type(self).__name__} must define start()")

    def respond(self, text: str) -> str:
        """Answers an action without calls. A ``ToolError`` raised here is a bad action of its ``kind``.

        The default asks for a call (``no_call``).
        """
        if not self.tools:
            raise EnvError(f"{type(self).__name__} has no tools: define respond(), or mark a method with @tool")
        raise no_call(self.tools)

    def expert(self) -> str:
        """The best action at this state as canonical text, whatever was done before. It changes nothing. Optional."""
        raise NotImplementedError(f"{type(self).__name__} has no expert()")

    def privileged(self) -> dict[str, Any]:
        """Facts about this episode for teachers only. Optional. A run keeps those that ``reset`` gave.

        Arrays, sets, dataclasses and the like become plain data, as what a tool returns does.
        """
        return {}

    @cached_property
    def tools(self) -> ToolSet:
        """The ``@tool`` methods and ``extra_tools``."""
        return ToolSet([*ToolSet.of(self), *self.extra_tools])

    def finish(self, reward: float = 0.0, success: bool | None = None) -> None:
        """Ends the episode, from inside a tool or ``respond``. Later calls of the same action are not run.

        Args:
            reward: Added to the reward of this step.
            success: Whether the task was solved. Default: ``reward`` is positive.

        Raises:
            EnvError: ``reward`` is not a finite number, or ``success`` is neither true nor false.
        """
        if not isinstance(success, bool | np.bool_ | None):
            raise EnvError(
                f"{type(self).__name__}: success must be True, False or None, not {brief(repr(success), 80)}"
            )
        self.add_reward(reward)
        self._over = True
        self._success = bool(reward > 0 if success is None else success)

    def add_reward(self, reward: float) -> None:
        """Adds to the reward of this step.

        Raises:
            EnvError: ``reward`` is not a finite number.
        """
        self._reward += reward_of(reward, type(self).__name__)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Starts an episode; see ``gymnasium.Env.reset``."""
        super().reset(seed=seed)
        if not isinstance(options, Mapping | None):
            raise ConfigError(f"options={brief(repr(options), 80)} must be a mapping of names to values")
        self.options = dict(options or {})
        self._over = self._success = False
        reply = Reply()
        reply.say(self._text(self.start(), "start"))
        if self._over:
            raise EnvError(f"{type(self).__name__}: start() called finish(); an episode has at least one action")
        info = self._info(reply)
        if family := family_of(self.family, f"{type(self).__name__}.family"):
            info["family"] = family
        return reply.observation, info

    def step(self, action: str) -> Step:
        """Runs the calls of one action; see ``gymnasium.Env.step``. ``truncated`` is always false: limits are wrappers.

        Raises:
            ResetNeeded: there is no episode, or it is over.
        """
        if self._over:
            raise ResetNeeded("the episode is over: call reset() before step()")
        self._reward = 0.0
        reply = reply_to(action, self.tools, self._respond, lambda: self._over)
        return reply.observation, self._reward, self._over, False, self._info(reply)

    def _respond(self, text: str) -> str:
        return self._text(self.respond(text), "respond")

    def _text(self, value: Any, method: str) -> str:
        if not isinstance(value, str):
            raise EnvError(f"{type(self).__name__}.{method}() must return text, not {value!r}")
        return value

    def _info(self, reply: Reply) -> dict[str, Any]:
        info = reply.info
        if self._over:
            info["success"] = self._success
        if facts := facts_of(self.privileged(), f"{type(self).__name__}.privileged()"):
            info["privileged"] = facts
        return info


def make(id: str, *, plain: bool = False, **kwargs: Any) -> gymnasium.Env[str, str]:
    """Makes a registered environment as text in, text out.

    Shipped environments need no import, ``"module:ns/Name-v0"`` imports ``module`` first (the working directory is on the path),
    and packages that declare an entry point in the group ``agentopd.envs`` are found. An ordinary environment with Discrete
    actions gets a :class:`~agentopd.env.wrappers.TextFace`, and its limit of steps bounds the turns.

    Args:
        id: The registered id, version included.
        plain: Whether an action is plain text, such as ``left``, instead of a call: see
            :class:`~agentopd.env.plain.PlainText`. For environments with a single tool that takes one text.
        **kwargs: For the environment's constructor; ``max_episode_steps`` as in ``gymnasium.make``.

    Raises:
        ConfigError: nothing is registered under ``id``, the arguments do not fit, or it cannot be shown as text.
    """
    if not isinstance(plain, bool):
        raise ConfigError(f"environment {id!r}: plain={plain!r} must be true or false")
    env = _made(id, kwargs)
    if not plain:
        return env
    from agentopd.env.plain import PlainText  # it asks for experts, as is done below

    return PlainText(env)


def _made(id: str, kwargs: Mapping[str, Any]) -> gymnasium.Env[str, str]:
    spec = resolve(id)
    try:
        check_wrapping(kwargs)
        env: gymnasium.Env[Any, Any] = gymnasium.make(spec, **kwargs)
    except DependencyNotInstalled as error:
        raise ConfigError(f"environment {id!r} needs another package: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"environment {id!r}: {error}") from error
    except (
        ImportError
    ) as error:  # of a package that a registered environment, such as some of Gymnasium's own, just imports
        raise ConfigError(f"environment {id!r} needs another package: {brief(str(error), 200)}; install it") from error
    except TypeError as error:
        reason, creating, _ = str(error).partition(" was raised from the environment creator")
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        told = f"; {made_with(parameters_of(creator))}" if creating else ""
        raise ConfigError(f"environment {id!r} cannot be made: {reason}{told}") from error
    except (
        LookupError,
        ValueError,
        AssertionError,
    ) as error:  # how environments of others refuse what they are made with
        if not kwargs:
            raise
        given = ", ".join(f"{name}={brief(repr(value), 80)}" for name, value in kwargs.items())
        raise ConfigError(
            f"environment {id!r} cannot be made with {given}: {brief(describe(error), 200)}; change or leave them out"
        ) from error
    if isinstance(env.action_space, TextSpace) and isinstance(env.observation_space, TextSpace):
        return env
    face = TextFace(env)
    limit = env.spec.max_episode_steps if env.spec else None
    return TurnLimit(face, limit) if limit else face


def tools_of(env: gymnasium.Env[Any, Any]) -> ToolSet:
    """The tools of an environment, through its wrappers."""
    tools: ToolSet = env.get_wrapper_attr("tools") if env.has_wrapper_attr("tools") else ToolSet()
    return tools


def system_prompt(env: gymnasium.Env[Any, Any]) -> str:
    """The instructions of an environment, through its wrappers; empty where it has none.

    Raises:
        EnvError: they are not text.
    """
    text = env.get_wrapper_attr("instructions") if env.has_wrapper_attr("instructions") else ""
    if not isinstance(text, str):
        raise EnvError(f"{type(env.unwrapped).__name__}: instructions must be text, not {text!r}")
    return well_formed(text)


def has_expert(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment defines an expert, through its wrappers."""
    if not env.has_wrapper_attr("expert"):
        return False
    return getattr(env.get_wrapper_attr("expert"), "__func__", None) is not TextEnv.expert


def expert_action(env: gymnasium.Env[Any, Any]) -> str:
    """The expert's action at this state, as canonical text.

    Raises:
        ConfigError: the environment has no expert.
        EnvError: the expert gave something else than text.
    """
    if not has_expert(env):
        raise ConfigError(f"{env} has no expert: define expert() on it, or choose a method that needs none")
    action = env.get_wrapper_attr("expert")()
    if not isinstance(action, str):
        name = type(env.unwrapped).__name__
        raise EnvError(f"{name}.expert() must return an action as text (see agentopd.call), not {action!r}")
    return well_formed(action)
