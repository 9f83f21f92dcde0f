"""The conformance test for environments: run it on your own."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import gymnasium
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from agentopd.env import TextSpace, expert_action, has_expert, make, system_prompt, tools_of
from agentopd.errors import EnvError
from agentopd.tooling import Tool, call, parse_action, render_action
from agentopd.types import ToolCall

Env: TypeAlias = gymnasium.Env[str, str]
Step: TypeAlias = tuple[str, float, bool, bool, dict[str, Any]]

EXPERT_SEEDS = 20
EXPERT_RATE = 0.5
"""An expert that succeeds less often is broken."""
MAX_TURNS = 200
"""How long an episode is followed where no limit is registered."""
SECRET_LENGTH = 4
"""Shorter privileged strings may stand in an observation by chance."""

HOSTILE: tuple[str, ...] = (
    "",
    " \n",
    "I think.",
    "<tool_call>",
    "</tool_call>",
    "<tool_call>{</tool_call>",
    '<tool_call>{"name": 1, "arguments": []}</tool_call>',
    '<tool_call>{"name": "x", "arguments": {"a": NaN}}</tool_call>',
    "<tool_call>" + "[" * 5000,
    call("no_such_tool", x=1),
    "x" * 10_000,
    "\u00e9\u4e2d\U0001f600\u202e\x00\ud83d",
    "<|im_end|>{}%s\\u003c",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What :func:`check_text_env` found out about an environment that passed."""

    id: str
    tools: tuple[str, ...]
    turn_limit: int | None
    """Registered ``max_episode_steps``."""
    expert_rate: float | None
    """Share of episodes in which the expert succeeded, ``None`` without an expert."""
    expert_turns: float | None
    """Its mean number of turns."""


def check_text_env(id: str, **kwargs: Any) -> Report:
    """Checks everything that agentopd, and Gymnasium, expect of an environment.

    Args:
        id: A registered id, as :func:`agentopd.make` takes it.
        **kwargs: For the environment's constructor.

    Raises:
        EnvError: the first broken rule.
    """
    check = _Check(id, lambda: make(id, **kwargs))
    check.spaces_and_tools()
    check.reset()
    check.hostile_actions()
    check.reproducible()
    check.fresh_info()
    check.limit()
    rate, turns = check.expert()
    check.gymnasium()
    return Report(id, tools_of(check.env).names, check.limit_of(), rate, turns)


class _Check:
    """The rules, one a method."""

    def __init__(self, id: str, new: Callable[[], Env]):
        self.id, self.new, self.env = id, new, new()

    def fail(self, rule: str, found: str) -> NoReturn:
        raise EnvError(f"{self.id}: {rule}; {found}")

    def spaces_and_tools(self) -> None:
        for name in ("observation_space", "action_space"):
            space = getattr(self.env, name)
            if not isinstance(space, TextSpace):
                self.fail(f"{name} must be a TextSpace", f"it is {space}")
        for tool in tools_of(self.env):
            if not tool.description or tool.parameters.get("type") != "object":
                self.fail(
                    "every tool needs a description and a schema of its arguments", f"{tool.name} has {tool.schema}"
                )
        if not isinstance(system_prompt(self.env), str):
            self.fail("instructions must be text", f"they are {system_prompt(self.env)!r}")

    def reset(self) -> None:
        for seed in range(3):
            observation, info = self.env.reset(seed=seed)
            self._info(observation, info, ("user",))
            if len(info["messages"]) != 1:
                self.fail("info of reset must hold one user message", f"it holds {info['messages']}")
            self._no_secret(system_prompt(self.env) + "\n" + observation, info)

    def hostile_actions(self) -> None:
        """None may raise, and what is wrong must be counted."""
        for action in (*HOSTILE, *self._wrong_arguments()):
            self.env.reset(seed=0)
            try:
                observation, _, terminated, _, info = self.env.step(action)
            except Exception as error:
                self.fail("no action may raise", f"{action[:60]!r} raised {type(error).__name__}: {error}")
            self._info(observation, info, ("user", "tool"))
            if action in HOSTILE:  # a call that fits may find a secret out
                self._no_secret(observation, info)
            if parse_action(action).problems and "malformed_call" not in info["errors"]:
                self.fail(
                    "a malformed call must be counted in info['errors']", f"{action[:60]!r} gave {info['errors']}"
                )
            if terminated:
                self._over(info)

    def reproducible(self) -> None:
        """Two instances, the same seed and the same actions: everything is equal."""
        for seed in range(4):
            plays = [list(self._play(self.new(), seed)) for _ in range(2)]
            for turn, (one, other) in enumerate(zip(*plays, strict=True)):
                if one != other:
                    self.fail(
                        "the same seed and actions must give the same steps",
                        f"seed {seed}, turn {turn}: {one} and {other}",
                    )

    def fresh_info(self) -> None:
        """Whoever changes a returned info must change nothing else."""
        kept = [copy.deepcopy(step) for step in self._play(self.new(), 0)]
        changed = []
        for step in self._play(self.new(), 0):
            changed.append(copy.deepcopy(step))
            _spoil(step[-1])
        if kept != changed:
            self.fail("info must be fresh data each step", "a change to one info showed in a later step")

    def limit(self) -> None:
        """An episode of useless actions ends in time."""
        limit = self.limit_of()
        self.env.reset(seed=0)
        for _ in range(limit or 0):
            _, _, terminated, truncated, _ = self.env.step("<tool_call>")
            if terminated or truncated:
                return
        if limit is not None:
            self.fail(f"an episode must end within max_episode_steps={limit}", "it did not")

    def expert(self) -> tuple[float | None, float | None]:
        if not has_expert(self.env):
            return None, None
        episodes = [self._expert_episode(seed) for seed in range(EXPERT_SEEDS)]
        rate = sum(success for success, _ in episodes) / EXPERT_SEEDS
        if rate <= EXPERT_RATE:
            self.fail("the expert must succeed on most seeds", f"it succeeded on {rate:.0%} of {EXPERT_SEEDS}")
        return rate, sum(turns for _, turns in episodes) / EXPERT_SEEDS

    def gymnasium(self) -> None:
        try:
            check_env(self.new().unwrapped, skip_render_check=True)
        except Exception as error:
            raise EnvError(f"{self.id}: gymnasium's check_env must pass; {type(error).__name__}: {error}") from error

    def limit_of(self) -> int | None:
        return self.env.spec.max_episode_steps if self.env.spec else None

    def _info(self, observation: Any, info: Any, roles: tuple[str, ...]) -> None:
        if not isinstance(observation, str):
            self.fail("an observation must be text", f"got {observation!r}")
        if not isinstance(info, dict) or not _is_plain(info):
            self.fail(
                "info must be plain data that survives JSON (no arrays, tuples or NumPy numbers)", f"got {info!r}"
            )
        messages, errors = info.get("messages"), info.get("errors")
        if not isinstance(messages, list) or not all(_is_message(message, roles) for message in messages):
            self.fail(
                f"info['messages'] must be messages of roles {roles}, tool messages with a name", f"got {messages!r}"
            )
        if "\n".join(message["content"] for message in messages) != observation:
            self.fail("info['messages'] must say what the observation says", f"got {messages!r} and {observation!r}")
        if not isinstance(errors, list) or not all(isinstance(kind, str) for kind in errors):
            self.fail("info['errors'] must be a list of kinds", f"got {errors!r}")

    def _no_secret(self, text: str, info: Mapping[str, Any]) -> None:
        for secret in _strings(info.get("privileged")):
            if len(secret) >= SECRET_LENGTH and secret in text:
                self.fail(
                    "privileged facts must not be told before they are found out",
                    f"{secret!r} stands in {text[:200]!r}",
                )

    def _over(self, info: Mapping[str, Any]) -> None:
        if not isinstance(info.get("success"), bool):
            self.fail("info['success'] must be true or false once the episode is over", f"got {info.get('success')!r}")
        try:
            self.env.step("x")
        except ResetNeeded:
            return
        self.fail("step after the end must raise gymnasium.error.ResetNeeded", "it returned")

    def _wrong_arguments(self) -> Iterator[str]:
        """For each tool: nothing, junk, a likely call twice, and a likely call beside a broken one."""
        for tool in tools_of(self.env):
            likely = ToolCall(tool.name, _likely(tool))
            yield call(tool.name)
            yield call(tool.name, **{name: [{"x": None}] for name in likely.arguments}, _unknown=1)
            yield call(tool.name, **dict.fromkeys(likely.arguments, "</tool_call>\n\u4e2d" * 50))
            yield render_action("Twice.", [likely, likely])
            yield render_action("", [likely]) + "<tool_call>{"

    def _play(self, env: Env, seed: int) -> Iterator[tuple[Any, ...]]:
        """Expert, junk and likely calls by turns, from one seed; yields every step."""
        observation, info = env.reset(seed=seed)
        yield observation, info
        script = [*HOSTILE[2:5], *(render_action("", [ToolCall(tool.name, _likely(tool))]) for tool in tools_of(env))]
        for turn in range(min(self.limit_of() or MAX_TURNS, 2 * len(script))):
            by_expert = has_expert(env) and (turn + seed) % 2
            step = env.step(expert_action(env) if by_expert else script[turn // 2 % len(script)])
            yield step
            if step[2] or step[3]:
                return

    def _expert_episode(self, seed: int) -> tuple[bool, int]:
        self.env.reset(seed=seed)
        for turn in range(1, (self.limit_of() or MAX_TURNS) + 1):
            action = expert_action(self.env)
            if parse_action(action).problems:
                self.fail("the expert must write canonical actions (use agentopd.call)", f"seed {seed}: {action!r}")
            observation, _, terminated, truncated, info = self.env.step(action)
            self._info(observation, info, ("user", "tool"))
            if terminated:
                self._over(info)
            if terminated or truncated:
                return bool(info.get("success", False)), turn
        return False, turn


def _is_plain(info: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(json.dumps(info, allow_nan=False)) == info)
    except (TypeError, ValueError):
        return False


def _is_message(message: Any, roles: tuple[str, ...]) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in roles
        and isinstance(message.get("content"), str)
        and (message["role"] != "tool" or isinstance(message.get("name"), str))
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)


def _spoil(value: Any) -> None:
    """Empties every container, innermost first."""
    if isinstance(value, dict | list):
        for part in list(value.values() if isinstance(value, dict) else value):
            _spoil(part)
        value.clear()


_EXAMPLES: Mapping[str, Any] = {
    "integer": 3,
    "number": 0.5,
    "boolean": True,
    "string": "x",
    "array": [],
    "object": {},
    "null": None,
}


def _likely(tool: Tool) -> dict[str, Any]:
    """Arguments that fit the types of a tool's schema, or nearly."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    return {
        name: schema.get("enum", [_EXAMPLES.get(schema.get("type"), "x")])[0] for name, schema in properties.items()
    }
