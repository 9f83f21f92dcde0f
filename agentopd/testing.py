"""The conformance test for environments: run it on your own."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from agentopd.env import TextSpace, has_expert, make, tools_of
from agentopd.env.probe import Bench, Found, Probe
from agentopd.tooling import Tool
from agentopd.tooling.action import brief, call, parse_action, render_action
from agentopd.types import ToolCall

PLAYED_SEEDS = range(4)
EXPERT_SEEDS = 20
EXPERT_RATE = 0.5
"""An expert that succeeds less often is broken."""
MAX_TURNS = 200
"""How long an episode is followed where no limit is registered."""
SECRET_LENGTH = 4
"""Shorter privileged strings may stand in an observation by chance."""
GYMNASIUM_CALLS = 20
"""Calls of an environment in Gymnasium's own check, about."""

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


def check_text_env(id: str, /, *, time_limit: float = 10.0, **kwargs: Any) -> Report:
    """Checks everything that agentopd, and Gymnasium, expect of an environment.

    Args:
        id: A registered id, as :func:`agentopd.make` takes it.
        time_limit: Seconds that one call of the environment may take. One that hangs is left behind in its thread; code that never
            releases the interpreter cannot be left.
        **kwargs: For the environment's constructor.

    Raises:
        ConfigError: there is no such environment, or ``kwargs`` do not fit.
        EnvError: the first broken rule, and what broke it.
    """
    bench = Bench(id, lambda: make(id, **kwargs), time_limit)

    def check() -> Report:
        with bench.new() as probe:
            return _Check(bench, probe).report()

    return bench.within_time(check)


class _Check:
    """The rules, one a method."""

    def __init__(self, bench: Bench, probe: Probe):
        self.bench, self.fail, self.probe = bench, bench.fail, probe
        self.tools = bench.call("reading the tools", lambda: tools_of(self.probe.env))
        self.has_expert = has_expert(self.probe.env)
        self.limit = self.probe.env.spec.max_episode_steps if self.probe.env.spec else None
        self.ending: set[str] = set()
        """Tools whose likely calls were seen to end an episode: they are played last, or the others are never played."""

    def report(self) -> Report:
        self.spaces_and_tools()
        self.first_observation()
        self.hostile_actions()
        self.reproducible()
        self.undisturbed()
        self.begun_anew()
        self.turn_limit()
        rate, turns = self.expert()
        self.gymnasium()
        return Report(self.bench.id, self.tools.names, self.limit, rate, turns)

    def spaces_and_tools(self) -> None:
        for name in ("observation_space", "action_space"):
            space = getattr(self.probe.env, name)
            if not isinstance(space, TextSpace):
                self.fail(f"{name} must be a TextSpace", f"it is {space}")
        for tool in self.tools:
            if not tool.description or tool.parameters.get("type") != "object":
                self.fail(
                    "every tool needs a description and a schema of its arguments", f"{tool.name} has {tool.schema}"
                )

    def first_observation(self) -> None:
        for seed in range(3):
            found = self.probe.reset(seed)
            self._no_secret(found["system message"] + "\n" + found["observation"], found["info"])

    def hostile_actions(self) -> None:
        """None may raise, and what is wrong must be counted."""
        for action in (*HOSTILE, *self._wrong_arguments()):
            self.probe.reset(0)
            found = self.probe.step(action)
            if action in HOSTILE:  # a call that fits may find a secret out
                self._no_secret(found["observation"], found["info"])
            if parse_action(action).problems and "malformed_call" not in found["info"]["errors"]:
                rule = "a malformed call must be counted in info['errors']"
                self.fail(rule, f"{action[:60]!r} gave {found['info']['errors']}")
            if found["terminated"]:
                self.ending.update(each.name for each in parse_action(action).calls)
                self._over(self.probe, found)

    def reproducible(self) -> None:
        """The same seed and actions give the same steps."""
        rule = "the same seed and actions must give the same steps (randomness from self.np_random only, nothing kept from before)"
        for seed in PLAYED_SEEDS:
            alone = self._play(seed)
            for _ in range(2):  # a draw of few values may agree by chance, and would be taken for another fault below
                self._same(seed, alone, self._play(seed), rule)
            prompts = [{"system message": found["system message"]} for found in alone]
            first = prompts[:1] * len(prompts)
            self._same(seed, first, prompts, "the system message must stay the same during an episode")

    def undisturbed(self) -> None:
        """Readers of ``info``, other instances and the expert change nothing."""
        for seed in PLAYED_SEEDS:
            alone, spoilt = self._play(seed), self._play(seed, spoil=True)
            self._same(seed, alone, spoilt, "info must be fresh data each step; each was emptied after it was read")
            with self.bench.new() as other:
                beside = self._play(seed, beside=other)
            self._same(seed, alone, beside, "instances must share nothing; one was played beside another")
            if self.has_expert:
                asked = self._play(seed, asks=2)
                self._same(seed, alone, asked, "expert() must change nothing; it was asked twice a turn")

    def begun_anew(self) -> None:
        """An episode is the same in an instance that has played others."""
        rule = "reset must begin anew (set in start() all that an episode changes); the same seed was played in a new instance and in a used one"
        for seed in PLAYED_SEEDS:
            self._same(seed, self._play(seed), self._played(self.probe, seed), rule)

    def turn_limit(self) -> None:
        """An episode of useless actions ends in time."""
        self.probe.reset(0)
        for _ in range(self.limit or 0):
            found = self.probe.step("<tool_call>")
            if found["terminated"] or found["truncated"]:
                return
        if self.limit is not None:
            self.fail(f"an episode must end within max_episode_steps={self.limit}", "it did not")

    def expert(self) -> tuple[float | None, float | None]:
        if not self.has_expert:
            return None, None
        episodes = [self._expert_episode(seed) for seed in range(EXPERT_SEEDS)]
        failures = [found for _, found in episodes if found]
        rate = 1 - len(failures) / EXPERT_SEEDS
        if rate <= EXPERT_RATE:
            rule = "the expert must succeed on most seeds"
            self.fail(rule, f"it succeeded on {rate:.0%} of {EXPERT_SEEDS}, and not here: {failures[0]}")
        return rate, sum(turns for turns, _ in episodes) / EXPERT_SEEDS

    def gymnasium(self) -> None:
        with self.bench.new() as probe:
            check = partial(check_env, probe.env.unwrapped, skip_render_check=True)
            self.bench.call("gymnasium's check_env", check, times=GYMNASIUM_CALLS)

    def _no_secret(self, text: str, info: Mapping[str, Any]) -> None:
        for secret in _strings(info.get("privileged")):
            if len(secret) >= SECRET_LENGTH and secret in text:
                rule = "privileged facts must not be told before they are found out"
                self.fail(rule, f"{secret!r} stands in {text[:200]!r}")

    def _over(self, probe: Probe, found: Found) -> None:
        success = found["info"].get("success")
        if not isinstance(success, bool):
            self.fail("info['success'] must be true or false once the episode is over", f"got {success!r}")
        try:
            self.bench.call("step after the end", lambda: probe.env.step("x"), passes=ResetNeeded)
        except ResetNeeded:
            return
        self.fail("step after the end must raise gymnasium.error.ResetNeeded", "it returned")

    def _wrong_arguments(self) -> Iterator[str]:
        """For each tool: nothing, junk, a likely call twice, and a likely call beside a broken one."""
        for tool in self.tools:
            likely = ToolCall(tool.name, _likely(tool))
            yield call(tool.name)
            yield call(tool.name, **{name: [{"x": None}] for name in likely.arguments}, _unknown=1)
            yield call(tool.name, **dict.fromkeys(likely.arguments, "</tool_call>\n\u4e2d" * 50))
            yield render_action("Twice.", [likely, likely])
            yield render_action("", [likely]) + "<tool_call>{"

    def _play(self, seed: int, beside: Probe | None = None, asks: int = 1, spoil: bool = False) -> list[Found]:
        """What :meth:`_played` says of a fresh instance."""
        with self.bench.new() as probe:
            return self._played(probe, seed, beside, asks, spoil)

    def _played(
        self, probe: Probe, seed: int, beside: Probe | None = None, asks: int = 1, spoil: bool = False
    ) -> list[Found]:
        """Likely calls and junk: what came back, and what the expert advised.

        Args:
            probe: Where they are played.
            seed: Of the episode. Where it is odd, every other action is the expert's.
            beside: Another instance, which is reset and stepped before each step.
            asks: How often the expert is asked at each state.
            spoil: Whether to empty each ``info`` after it was read.
        """
        found, history = probe.reset(seed), []
        script = [*self._calls(last=False), *HOSTILE[2:4], *self._calls(last=True)]
        by_turns = self.has_expert and seed % 2
        for turn in range(min(self.limit or MAX_TURNS, 2 * len(script))):
            history.append(copy.deepcopy(found))
            if spoil:
                _spoil(found["info"])
            action = script[(turn // 2 if by_turns else turn + seed) % len(script)]
            if beside:
                beside.reset(seed + 100)
                beside.step(action)
            if self.has_expert:
                advice = [probe.expert() for _ in range(asks)][-1]
                history[-1]["the expert's action"] = advice
                action = advice if by_turns and turn % 2 else action
            found = probe.step(action)
            if found["terminated"] or found["truncated"]:
                break
        return [*history, found]

    def _calls(self, last: bool) -> Iterator[str]:
        """A likely call of each tool that was seen to end an episode, or of each of the others."""
        for tool in self.tools:
            if (tool.name in self.ending) is last:
                yield render_action("", [ToolCall(tool.name, _likely(tool))])

    def _same(self, seed: int, one: list[Found], other: list[Found], rule: str) -> None:
        for turn, (here, there) in enumerate(zip(one, other, strict=False)):  # lengths differ only after a step differs
            for key in here:
                if here[key] != there[key]:
                    pair = " and ".join(brief(repr(value), 150) for value in (here[key], there[key]))
                    self.fail(rule, f"seed {seed}, turn {turn}: {key} {pair}")

    def _expert_episode(self, seed: int) -> tuple[int, str]:
        """The number of turns, and the first bad turn of an episode without success (the last turn where none was bad)."""
        self.probe.reset(seed)
        bad = ""
        for turn in range(1, (self.limit or MAX_TURNS) + 1):
            action = self.probe.expert()
            if parse_action(action).problems:
                self.fail("the expert must write canonical actions (use agentopd.call)", f"seed {seed}: {action!r}")
            found = self.probe.step(action)
            errors = found["info"]["errors"]
            told = f"seed {seed}, turn {turn}: {brief(action, 150)!r} was answered {brief(found['observation'], 150)!r}"
            if errors and not bad:
                bad = f"{told} ({', '.join(errors)})"
            if found["terminated"]:
                self._over(self.probe, found)
            if found["terminated"] or found["truncated"]:
                break
        return turn, "" if found["info"].get("success", False) else bad or f"{told}, the last of {turn} turns"


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
