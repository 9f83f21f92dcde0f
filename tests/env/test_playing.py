"""Playing in a terminal: what a person's line means, and what is told."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

from agentopd import TextEnv, call, make
from agentopd.__main__ import main
from agentopd.env import expert_action, tools_of
from agentopd.env.playing import person, play, typed, usage
from agentopd.errors import ConfigError
from agentopd.models import NewModel, build_tokenizer, new_model
from agentopd.tooling import ToolSet, tool


@tool
def move(steps: int, direction: str = "north", fast: bool = False) -> str:
    """Move.

    Args:
        steps: How many.
        direction: Where to.
        fast: Whether to run.
    """
    return f"{steps} {direction} {fast}"


@tool
def say(words: str) -> str:
    """Say something. Loudly."""
    return words


@tool
def wait() -> str:
    """Wait."""
    return "waited"


TOOLS = ToolSet([move, say, wait])


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("move 3", call("move", steps=3)),
        ("move 3 south true", call("move", steps=3, direction="south", fast=True)),
        ("move fast=true 3", call("move", fast=True, steps=3)),
        ("move 3 direction='far north'", call("move", steps=3, direction="far north")),
        ("move three", call("move", steps="three")),
        ("say hello, you two", call("say", words="hello, you two")),
        ("say words=hello", call("say", words="hello")),
        ("say 3", call("say", words="3")),
        ("say it's \"open", call("say", words="it's \"open")),
        ("  wait  ", call("wait")),
        ("hello", "hello"),
        ("moves 3", "moves 3"),
        (call("wait"), call("wait")),
    ],
)
def test_what_a_line_means(line: str, action: str) -> None:
    assert typed(line, TOOLS) == action


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("wait 3", "wait 3: '3' is one argument too many; it takes: none"),
        ("move 1 2 3 4", "move 1 2 3 4: '4' is one argument too many; it takes: steps, direction, fast"),
        ("move 'a", "move 'a: No closing quotation; close it"),
    ],
)
def test_what_no_line_means(line: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        typed(line, TOOLS)
    assert str(caught.value).startswith(told)


def test_the_tools_are_told_in_a_line_each() -> None:
    assert list(usage(TOOLS)) == [
        "move steps direction fast    Move.",
        "say words    Say something. Loudly.",
        "wait    Wait.",
    ]


def typing(*lines: str) -> Callable[[str], str]:
    left = list(lines)

    def ask(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return ask


def test_a_person_is_helped_until_a_line_is_an_action() -> None:
    told: list[str] = []
    act = person(TOOLS, typing("", "wait 3", "wait", "quit"), told.append)
    assert act([]) == call("wait")
    assert told == [*usage(TOOLS), "wait 3: '3' is one argument too many; it takes: none"]
    with pytest.raises(EOFError):
        act([])


def test_an_episode_is_told_line_by_line() -> None:
    env, told = make("agentopd/Checkout-v0", items=1, failure_rate=0.0), list[str]()
    tools = tools_of(env)
    assert play(env, 0, lambda _: expert_action(env), told.append)
    assert told[0] == "system: Look up each price, calculate the total, then submit it."
    assert told[1].startswith("user: What do ")
    assert told[2].startswith("> <tool_call>")
    assert told[3].startswith("tool: ")
    assert told[-2:] == ["tool: Right.", "success, reward 1"]
    lines = [item for item in told if item.startswith("user: ")]
    name = lines[0].split()[-2]
    again: list[str] = []
    assert not play(env, 0, person(tools, typing(f"price {name}", "submit 1"), again.append), again.append)
    assert again[:3] == [*told[:2], f"> {call('price', item=name)}"]
    assert again[-1] == "no success, reward 0"


def test_what_steers_a_terminal_is_written_out() -> None:
    env, told = make("agentopd/Checkout-v0"), list[str]()
    play(env, 0, lambda _: "\x1b]52;c;eA==\x07\tno", told.append)
    assert "> \\x1b]52;c;eA==\\x07\tno" in told


def test_the_verb_lets_people_and_experts_act(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = [
        "play",
        "agentopd/Checkout-v0",
        "items=1",
        "failure_rate=0",
        "--expert",
        "--episodes",
        "2",
        "--seed",
        "4",
    ]
    assert main(watched) == 0
    assert capsys.readouterr().out.count("success, reward 1\n") == 2
    monkeypatch.setattr("builtins.input", typing("submit 1"))
    assert main(["play", "agentopd/Checkout-v0"]) == 1
    assert capsys.readouterr().out.endswith("no success, reward 0\n")
    monkeypatch.setattr("builtins.input", typing("submit", "quit"))
    assert main(["play", "agentopd/Checkout-v0"]) == 1
    assert capsys.readouterr().out.endswith("submit: total: missing\nleft before the end\n")
    assert main(["play", "agentopd/Nothing-v0"]) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["agentopd/Checkout-v0", "--expert", "--seed", "-1"], "--seed -1: it must be at least 0"),
        (["agentopd/Checkout-v0", "--expert", "--episodes", "0"], "--episodes 0: it must be at least 1"),
        (["agentopd/Checkout-v0", "foo", "--expert"], "'foo' says nothing of the environment; write name=value"),
        (["Blackjack-v1", "--expert"], "--expert: Blackjack-v1 has none"),
    ],
)
def test_what_cannot_be_played_is_told_before(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["play", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"agentopd: ConfigError: {told}")


class Broken(TextEnv):
    """Raises where it is told to."""

    def __init__(self, where: str) -> None:
        self.where = where

    def _maybe(self, where: str) -> None:
        if where == self.where:
            raise KeyError(where)

    def start(self) -> str:
        self._maybe("start")
        return "Go."

    def respond(self, text: str) -> str:
        self._maybe("respond")
        return "Gone."

    def expert(self) -> str:
        self._maybe("expert")
        return "go"


@pytest.mark.parametrize("where", ["start", "respond", "expert"])
def test_what_an_environment_raises_is_one_line(
    where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tests/BrokenInPlay-v0"
    monkeypatch.setitem(gymnasium.registry, name, EnvSpec(name, entry_point=f"{__name__}:Broken", max_episode_steps=2))
    assert main(["play", name, f"where={where}", "--expert"]) == 2
    told = rf"agentopd: EnvError: {name} raised: KeyError: '{where}' \(test_playing.py, line \d+\)\n"
    assert re.fullmatch(told, capsys.readouterr().err)


def test_settings_may_follow_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "agentopd/Checkout-v0", "--expert", "items=1", "--seed", "4", "failure_rate=0"]) == 0
    assert capsys.readouterr().out.count("\n> ") == 3


def test_who_watches_may_stop_watching() -> None:
    command = f"{sys.executable} -m agentopd play agentopd/Checkout-v0 --expert --episodes 500 | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("system: Look up each price")
    assert done.stderr == ""


def saved_model(folder: Path) -> None:
    tokenizer = build_tokenizer(["What do 3 figs cost?"], 300)
    new_model(NewModel(hidden_size=16, layers=1, heads=2, intermediate_size=16), tokenizer, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_the_verb_shows_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved_model(tmp_path)
    assert main(["play", "agentopd/Checkout-v0", "max_episode_steps=2", "--model", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("\n> ") == 2
    assert out.endswith("cut off by its limit\n")


@pytest.mark.parametrize("place", ["", "student"])
def test_the_student_of_a_run_plays_with_the_settings_of_its_run(
    place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved_model(tmp_path / "student")
    settings = "teachers: {teacher: {kind: self}}\nrollout: {max_new_tokens: 1}\nenv: {id: agentopd/Checkout-v0}\n"
    (tmp_path / "config.yaml").write_text("student: {model: student}\n" + settings)
    play = ["play", "agentopd/Checkout-v0", "max_episode_steps=8", "--model", str(tmp_path / place)]
    assert main(play) == 1
    said = [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("> ")]
    assert len(said) == 8
    assert max(map(len, said)) <= 13  # the longest token of this vocabulary, a tag, is not longer
    (tmp_path / "config.yaml").write_text("student: {model: student}\ncall_format: reakt\n" + settings)
    assert main(play) == 2
    assert "'reakt' is no call format" in capsys.readouterr().err


def test_a_limit_is_told() -> None:
    env, told = make("agentopd/Checkout-v0", max_episode_steps=1), list[str]()
    assert not play(env, 0, lambda _: "hm", told.append)
    assert told[-1] == "no success, reward 0, cut off by its limit"
