"""Plain text instead of calls: the action is the text, and nothing tells of tools."""

from typing import Any

import gymnasium
import pytest

from agentopd.chat import Chat
from agentopd.env import TextEnv, expert_action, has_expert, make, system_prompt, tools_of
from agentopd.env.plain import PlainText
from agentopd.env.playing import person
from agentopd.env.wrappers import TextFace
from agentopd.errors import ConfigError, EnvError
from agentopd.models import build_tokenizer
from agentopd.testing import check_text_env
from agentopd.tooling import call, tool

ACTIONS = "south, north, east, west, pickup, dropoff"
LAKE = {"map_name": "4x4"}


class Echo(TextEnv):
    """One tool that takes any text; it refuses ``no``."""

    advice = call("say", word="yes")

    def start(self) -> str:
        return "Say something."

    @tool
    def say(self, word: str) -> str:
        """Say it."""
        if word == "yes":
            self.finish(reward=1.0)
        return f"You said {word!r}."

    def expert(self) -> str:
        return self.advice


@pytest.mark.parametrize(
    ("id", "kwargs"),
    [
        ("Taxi-v4", {}),
        ("CliffWalking-v1", {}),
        ("FrozenLake-v1", {"is_slippery": False}),
        ("agentopd/FrozenLake-v0", {}),
    ],
)
def test_games_conform_in_plain_text(id: str, kwargs: dict[str, Any]) -> None:
    report = check_text_env(id, plain=True, **kwargs)
    assert (report.expert_rate, report.tools) == (1.0, ())


def test_it_plays_as_calls_do() -> None:
    plain, called = make("Taxi-v4", plain=True), make("Taxi-v4")
    assert plain.reset(seed=3)[0] == called.reset(seed=3)[0]
    for name in ("north", " EAST\n", "pickup", "Dropoff"):
        observation, *rest, info = plain.step(name)
        there = called.step(call("act", action=name.strip().casefold()))
        assert (observation, *rest) == there[:4]
        assert info["messages"] == [{"role": "user", "content": observation}]
        assert info["errors"] == []


@pytest.mark.parametrize(
    ("action", "told", "kind"),
    [
        ("go north", f"'go north' is no action; actions: {ACTIONS}", "invalid_action"),
        ("", f"'' is no action; actions: {ACTIONS}", "invalid_action"),
        ("\ud83d", f"'\N{REPLACEMENT CHARACTER}' is no action; actions: {ACTIONS}", "invalid_action"),
        (call("act", action="north"), f"a call is no action; actions: {ACTIONS} (there are no tools)", "unknown_tool"),
        ("<tool_call>", "malformed call: the block is not closed", "malformed_call"),
    ],
)
def test_what_is_no_action_is_told_and_changes_nothing_but_counts(action: str, told: str, kind: str) -> None:
    env = make("Taxi-v4", plain=True, max_episode_steps=2)
    env.reset(seed=3)
    before = env.unwrapped.s  # type: ignore[attr-defined]
    observation, reward, _, truncated, info = env.step(action)
    assert (observation, reward, truncated, info["errors"]) == (told, 0.0, False, [kind])
    assert env.unwrapped.s == before  # type: ignore[attr-defined]
    assert env.step(action)[3] is True


def test_the_prompt_tells_of_actions_and_of_no_tools() -> None:
    env = make("agentopd/FrozenLake-v0", plain=True, **LAKE)
    _, info = env.reset(seed=0)
    assert not tools_of(env)
    assert system_prompt(env).splitlines()[-1] == "Answer with nothing but one of: left, down, right, up."
    chat = Chat(build_tokenizer(["Answer with nothing but one of: left, down"], 300))
    messages: Any = [{"role": "system", "content": system_prompt(env)}, *info["messages"]]
    text = chat.tokenizer.decode(chat.prompt(messages, tools_of(env).schemas))
    assert "up." in text
    assert "tool" not in text
    assert '"name"' not in text


def test_the_expert_writes_plain_text_and_lines_are_typed_as_they_are() -> None:
    env = make("agentopd/FrozenLake-v0", plain=True, **LAKE)
    env.reset(seed=0)
    assert expert_action(env) == "down"
    assert person(tools_of(env), lambda _: "right", print)([]) == "right"
    assert not has_expert(make("Blackjack-v1", plain=True))


def test_a_free_text_is_passed_on() -> None:
    env = PlainText(Echo())
    env.reset(seed=0)
    assert system_prompt(env) == "Answer with nothing but the word."
    assert env.step(" Hello </tool> ")[0] == "You said 'Hello </tool>'."
    assert expert_action(env) == "yes"
    assert env.step("yes")[4]["success"] is True
    env.unwrapped.advice = "yes"  # type: ignore[attr-defined]
    with pytest.raises(EnvError, match="must write one call of say"):
        expert_action(env)


@pytest.mark.parametrize("id", ["agentopd/Checkout-v0", "agentopd/Sokoban-v0"])
def test_only_one_text_can_be_plain(id: str) -> None:
    with pytest.raises(
        ConfigError, match=r"needs a single tool that takes one text, and its tools are: .*leave plain out"
    ):
        make(id, plain=True)
    with pytest.raises(ConfigError, match="plain='yes' must be true or false"):
        make(id, plain="yes")  # type: ignore[arg-type]


def test_a_face_of_ones_own_can_be_plain_below_a_limit() -> None:
    face = TextFace(gymnasium.make("FrozenLake-v1", is_slippery=False), actions=("w", "s", "e", "n"))
    env = gymnasium.wrappers.TimeLimit(PlainText(face), 3)
    env.reset(seed=0)
    assert has_expert(env)
    assert expert_action(env) == "s"
    assert "You: row 1, column 0" in env.step("s")[0]
