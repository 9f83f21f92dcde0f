"""Wrappers between a policy and an environment: extra tools, a limit of turns, and text for what is not text."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from agentopd.env.exchange import Reply, Step, TextSpace, no_call, reply_to, reward_of
from agentopd.env.faces import Describe, actions_of, face_of, generic, tellable
from agentopd.errors import ConfigError, EnvError, ToolError, describe
from agentopd.tooling import Tool, ToolSet, call, parse_action, render_action, tool


class ToolUse(gymnasium.Wrapper[str, str, str, str]):
    """Gives a text environment extra tools, which are answered here and do not step it.

    In an action that calls both kinds, the extra tools are answered first, then the environment is stepped with the rest. Calls
    of unknown tools are the environment's to answer if it has tools. Turns that only use extra tools do not count against a
    limit below; put a :class:`TurnLimit` above if they should.
    """

    def __init__(self, env: gymnasium.Env[str, str], tools: Iterable[Tool | Callable[..., Any]]):
        super().__init__(env)
        self._inner: ToolSet = env.get_wrapper_attr("tools") if env.has_wrapper_attr("tools") else ToolSet()
        self._extra = ToolSet(tools)
        self.tools = ToolSet([*self._inner, *self._extra])
        """All tools, the environment's own first."""
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Resets the environment."""
        self._over = False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: str) -> Step:
        """Answers calls of the extra tools; steps the environment with whatever else there is."""
        if self._over:
            raise ResetNeeded("the episode is over: call reset() before step()")
        parsed = parse_action(action)
        extra = [call for call in parsed.calls if call.name in self._extra.names or not self._inner]
        rest = [call for call in parsed.calls if call not in extra]
        if not extra:
            return self._step(action, Reply(), ())
        reply = Reply()
        reply.run(extra, self.tools, over=lambda: False)
        if rest:
            return self._step(render_action(parsed.content, rest), reply, parsed.problems)
        reply.complain(parsed.problems)
        return reply.observation, 0.0, False, False, reply.info

    def _step(self, action: str, reply: Reply, problems: tuple[str, ...]) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._over = terminated
        reply.messages += info.get("messages", [{"role": "user", "content": observation}])
        reply.errors += info.get("errors", [])
        reply.complain(problems)
        return reply.observation, float(reward), terminated, truncated, info | reply.info


class TurnLimit(gymnasium.Wrapper[str, str, str, str], RecordConstructorArgs):
    """Truncates an episode after ``turns`` actions, and says so: ``info["turn_limit"]`` is true then."""

    def __init__(self, env: gymnasium.Env[str, str], turns: int):
        RecordConstructorArgs.__init__(self, turns=turns)
        gymnasium.Wrapper.__init__(self, env)
        if turns < 1:
            raise ConfigError(f"turns={turns} must be at least 1")
        self._turns = turns
        self._taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Resets the environment and the count."""
        self._taken = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: str) -> Step:
        """Steps the environment and counts."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._taken += 1
        if self._taken >= self._turns and not terminated and not truncated:
            truncated, info = True, info | {"turn_limit": True, "success": False}
        return observation, float(reward), terminated, truncated, info


class TextFace(gymnasium.Wrapper[str, str, Any, Any], RecordConstructorArgs):
    """Shows an ordinary environment as text: one tool ``act`` with named actions, observations as readable text.

    A name that is no action is told so (``invalid_action``) and does not step the environment. The environment's own ``info``
    stays below, but for its ``family``: it may hold arrays and secrets.

    Args:
        env: An environment with Discrete actions.
        describe: Tells an observation as text, from (env, observation). Default: the toy-text games in words, any other Discrete,
            MultiDiscrete, MultiBinary, Box, Dict or Tuple observation as its numbers.
        actions: Names of the actions, in the order of their numbers. Default: the games' own, or the numbers.
        success: Whether an episode that terminated with this total reward was a success. Default: it is positive, or, for games
            that only terminate at their goal, always.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        describe: Describe | None = None,
        actions: Sequence[str] | None = None,
        success: Callable[[float], bool] | None = None,
    ):
        RecordConstructorArgs.__init__(self, describe=describe, actions=actions, success=success)
        gymnasium.Wrapper.__init__(self, env)
        space, face = actions_of(env), face_of(env)
        self._first = int(space.start)
        self._actions = tuple(actions) if actions is not None else face.actions
        if len(set(self._actions)) != space.n:
            raise ConfigError(f"actions={self._actions}: {space.n} different names are needed")
        if describe is None and face.describe is generic:
            tellable(env)
        self._describe = describe or face.describe
        self._expert = None if env.has_wrapper_attr("expert") else face.expert(env)
        if self._expert:
            self.expert = self._advise
            """Where the environment has none of its own, and one is known."""
        self._success = success or face.success
        self.action_space = TextSpace()
        self.observation_space = TextSpace()
        self.instructions = face.instructions
        self.tools = ToolSet([_choosing(ToolSet.of(self)[0], self._actions)])
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Resets the environment."""
        observation, below = self.env.reset(seed=seed, options=options)
        self._over = self._terminated = self._truncated = False
        self._total = self._reward = 0.0
        if self._expert:
            self._expert.start()
        reply = Reply()
        reply.say(self._describe(self.env, observation))
        family = below.get("family")
        return reply.observation, reply.info | ({"family": family} if isinstance(family, str) else {})

    def step(self, action: str) -> Step:
        """Steps the environment once for each call of ``act``."""
        if self._over:
            raise ResetNeeded("the episode is over: call reset() before step()")
        self._reward = 0.0
        try:
            reply = reply_to(action, self.tools, self._respond, lambda: self._terminated or self._truncated)
        finally:  # a game that ended and then broke is over as well
            self._over = self._terminated or self._truncated
        info = reply.info
        if self._over:
            info["success"] = self._terminated and bool(self._success(self._total))
        return reply.observation, self._reward, self._terminated, self._truncated, info

    @tool
    def act(self, action: str) -> str:
        """Take an action.

        Args:
            action: Its name.
        """
        if action not in self._actions:
            raise ToolError(f"no action {action[:20]!r}; actions: {', '.join(self._actions)}", kind="invalid_action")
        inner: gymnasium.Env[Any, Any] = self.env
        chosen = self._actions.index(action)
        try:
            observation, reward, terminated, truncated, _ = inner.step(self._first + chosen)
            self._terminated, self._truncated = bool(terminated), bool(truncated)
            if self._expert:
                self._expert.took(chosen)
            text = self._describe(inner, observation)
        except (Exception, SystemExit) as error:  # what a tool raises is blamed on the call, and this is not its fault
            raise EnvError(f"{inner}: step({action!r}) raised {describe(error)}") from error
        number = reward_of(reward, str(inner))
        self._reward += number
        self._total += number
        return text

    def _respond(self, text: str) -> str:
        raise no_call(self.tools)

    def _advise(self) -> str:
        assert self._expert
        return call("act", action=self._actions[self._expert()])


def _choosing(act: Tool, actions: Sequence[str]) -> Tool:
    """``act`` with the names of the actions in its schema; a wrong one is still ``act``'s to refuse."""
    parameters = copy.deepcopy(act.parameters)
    parameters["properties"]["action"]["enum"] = list(actions)
    return replace(act, parameters=parameters)
