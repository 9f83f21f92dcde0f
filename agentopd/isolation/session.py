"""One environment as an episode sees it: conversation in, observations out. Everything here runs in its lane: its thread or its process."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, cast

import gymnasium

from agentopd import env as environments
from agentopd.env.exchange import facts_of, family_of, reward_of
from agentopd.errors import EnvError
from agentopd.isolation.compared import Compared, Difference, first_difference
from agentopd.settings.problems import shown
from agentopd.tooling.answer import well_formed
from agentopd.tooling.recording import recording
from agentopd.types import CallOutcome, Message, Task, Turn, own_errors, untimed

ROLES = ("user", "tool")
"""Who may speak for an environment."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What came back from ``reset`` or ``step``."""

    messages: tuple[Message, ...]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    errors: tuple[str, ...] = ()
    success: bool | None = None
    advice: str | None = None
    """The expert's action in the state that is now reached."""
    seconds: float = 0.0
    outcomes: tuple[CallOutcome, ...] = ()
    """What became of the calls of tools; only from ``step``."""
    system: str = ""
    """The system message; only from ``reset``, as all that follow."""
    tools: tuple[dict[str, Any], ...] = ()
    privileged: Mapping[str, Any] | None = None
    family: str = ""
    expert_actions: tuple[str, ...] = ()
    """What the expert did in an episode of its own, where it was asked to play one first."""

    @property
    def conversation(self) -> list[Message]:
        """What came back, after the system message where there is one."""
        system: list[Message] = [Message(role="system", content=self.system)] if self.system else []
        return [*system, *self.messages]

    def beside(self, turn: Turn) -> Iterator[Compared]:
        """This answer to the action of ``turn``, beside what it holds."""
        yield "observations", turn.observations, self.messages
        yield "reward", turn.reward, self.reward
        yield "terminated", turn.terminated, self.terminated
        yield "truncated", turn.truncated, self.truncated
        yield "errors", turn.errors, (*own_errors(turn.finish == "stop", turn.text), *self.errors)
        if turn.outcomes:  # records from before calls were recorded have none
            was, now = ([astuple(untimed(one)) for one in outcomes] for outcomes in (turn.outcomes, self.outcomes))
            yield "outcomes", was, now


class Session:
    """Makes, resets and steps the environment of a task."""

    def __init__(self, task: Task, advice: bool, needs_expert: bool, foresee: int = 0) -> None:
        """Nothing is made yet.

        Args:
            task: What to play.
            advice: Whether to ask the environment's expert, where it has one, at every state.
            needs_expert: Whether it must have one.
            foresee: The turns after which an episode of the expert's own, played before the task is started, is ended; 0 plays none.
        """
        self._task = task
        self._advice = advice or needs_expert
        self._needs_expert = needs_expert
        self._foresee = foresee
        self._env: gymnasium.Env[Any, Any] | None = None

    def reset(self) -> Observed:
        """Makes the environment and starts the task."""
        begin = time.perf_counter()
        foreseen = self._expert_actions() if self._foresee else ()
        env = self._env = self._made()
        observation, info = self._started(env)
        return Observed(
            messages=_messages(observation, info),
            advice=self._ask_expert(env),
            system=environments.system_prompt(env),
            tools=tuple(environments.tools_of(env).schemas),
            privileged=facts_of(info.get("privileged", {}), "info['privileged']"),
            family=family_of(info.get("family", ""), "info['family']"),
            expert_actions=foreseen,
            seconds=time.perf_counter() - begin,
        )

    @property
    def env_id(self) -> str:
        """Of the task."""
        return self._task.env_id

    @staticmethod
    def packed(observed: Observed) -> dict[str, Any]:
        """As plain data, field by field."""
        outcomes = tuple(map(astuple, observed.outcomes))
        return {one.name: getattr(observed, one.name) for one in fields(observed)} | {"outcomes": outcomes}

    @staticmethod
    def unpacked(packed: dict[str, Any]) -> Observed:
        """The reverse of :meth:`packed`."""
        outcomes = tuple(CallOutcome(*one) for one in packed["outcomes"])
        return Observed(**packed | {"outcomes": outcomes})

    @property
    def calls(self) -> int:
        """How many calls of an environment :meth:`reset` makes at most."""
        return 1 + (1 + self._foresee if self._foresee else 0)

    def fresh(self) -> "Session":
        """Of the same task, with nothing made and no episode of the expert's before it."""
        return Session(self._task, self._advice, self._needs_expert)

    def replay(self, opening: Sequence[Message], turns: Sequence[Turn]) -> Observed:
        """Starts the task and takes the actions of ``turns``; what came back last.

        Raises:
            EnvError: Something else came back than in those turns.
        """
        observed = self.reset()
        self._require_same(first_difference(None, [("opening", opening, observed.conversation)]), 0)
        for n, turn in enumerate(turns, 1):
            observed = self.step(turn.action)
            self._require_same(first_difference(turn.index, observed.beside(turn)), n)
        return observed

    def _require_same(self, difference: Difference | None, actions: int) -> None:
        if difference is not None:
            raise EnvError(
                f"{self._task.env_id} with seed {self._task.seed} does not repeat itself: after {actions} actions something else came "
                f"back ({difference}); a turn can be taken over only where seed and actions decide what an environment answers"
            )

    def _made(self) -> gymnasium.Env[Any, Any]:
        # copies: all episodes share the task's own, and what one of them changes must not reach another
        return environments.make(self._task.env_id, **copy.deepcopy(dict(self._task.kwargs)))

    def _started(self, env: gymnasium.Env[Any, Any]) -> tuple[Any, Mapping[str, Any]]:
        options = None if self._task.options is None else copy.deepcopy(dict(self._task.options))
        observation, info = env.reset(seed=self._task.seed, options=options)
        if self._needs_expert and not environments.has_expert(env):
            raise EnvError(f"{self._task.env_id} has no expert; define expert() or choose another actor")
        return observation, info

    def _expert_actions(self) -> tuple[str, ...]:
        """What the expert does in an environment of its own."""
        env, actions, over = self._made(), list[str](), False
        try:
            self._started(env)
            while not over and len(actions) < self._foresee:
                actions.append(environments.expert_action(env))
                _, _, terminated, truncated, _ = env.step(actions[-1])
                over = bool(terminated or truncated)
        finally:
            env.close()
        return tuple(actions)

    def step(self, action: str) -> Observed:
        """Takes one action, given as canonical text."""
        begin = time.perf_counter()
        if self._env is None:
            raise EnvError("step before reset")
        with recording() as calls:
            observation, reward, terminated, truncated, info = self._env.step(action)
        over = bool(terminated or truncated)
        success = info.get("success")
        return Observed(
            messages=_messages(observation, info),
            reward=reward_of(reward, f"{self._task.env_id}: step"),
            terminated=bool(terminated),
            truncated=bool(truncated),
            errors=_errors(info),
            success=None if success is None else bool(success),
            advice=None if over else self._ask_expert(self._env),
            seconds=time.perf_counter() - begin,
            outcomes=calls.outcomes,
        )

    def close(self) -> None:
        """Closes the environment, where one was made."""
        if self._env is not None:
            self._env.close()

    def _ask_expert(self, env: gymnasium.Env[Any, Any]) -> str | None:
        if not self._advice or not environments.has_expert(env):
            return None
        return environments.expert_action(env)


def _messages(observation: object, info: Mapping[str, Any]) -> tuple[Message, ...]:
    """The role-tagged form of an observation: the one in ``info``, or else one user message.

    They are fresh plain data: an environment may use its own again for the next observation, and records keep nothing else.
    """
    if not isinstance(observation, str):
        raise EnvError(f"an observation must be text, got {type(observation).__name__}: use a text face")
    messages: Sequence[Mapping[str, Any]] | None = info.get("messages")
    if messages is None:
        return (Message(role="user", content=well_formed(observation)),)
    if not isinstance(messages, list | tuple) or not all(map(_is_message, messages)):
        raise EnvError(
            f"info['messages'] must be a list of messages, each with a role of {', '.join(ROLES)} and text as content, got "
            f"{shown(messages)}"
        )
    if "\n".join(message["content"] for message in messages) != observation:
        raise EnvError(
            "the observation and info['messages'] differ: a wrapper that changes the one must change the other, or take "
            "'messages' out of info"
        )
    return tuple(cast(Message, facts_of(message, "info['messages']")) for message in messages)


def _is_message(given: object) -> bool:
    return isinstance(given, Mapping) and given.get("role") in ROLES and isinstance(given.get("content"), str)


def _errors(info: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of what was wrong with the action."""
    errors = info.get("errors", ())
    if not isinstance(errors, list | tuple) or not all(isinstance(kind, str) for kind in errors):
        raise EnvError(f"info['errors'] must be a list of texts, got {shown(errors)}")
    return tuple(map(well_formed, errors))
