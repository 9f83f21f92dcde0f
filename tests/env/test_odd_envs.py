"""Environments that give odd things: rewards, successes, facts and names that are refused or become plain."""

import importlib
from typing import Any

import gymnasium
import numpy as np
import pytest

from agentopd.env import TextEnv, make
from agentopd.env.exchange import Reply
from agentopd.errors import ConfigError, EnvError
from agentopd.testing import check_text_env
from agentopd.tooling import call, tool


class Door(TextEnv):
    def start(self) -> str:
        return "A door."

    @tool
    def knock(self) -> str:
        """Knock."""
        return "Knock."


INHERITED = sorted({name for base in TextEnv.__mro__[:2] for name in base.__annotations__} | vars(Door()).keys())
"""What only instances have: options, spaces, and the state of an episode."""


@pytest.fixture
def door() -> Door:
    door = Door()
    door.reset(seed=0)
    return door


@pytest.mark.parametrize(
    ("reward", "success", "found"),
    [
        (np.float32(0.5), None, (0.5, True)),
        (np.bool_(False), None, (0.0, False)),
        (np.bool_(True), np.bool_(False), (1.0, False)),
        (0, np.bool_(True), (0.0, True)),
    ],
)
def test_rewards_and_successes_of_numpy_become_plain(door: Door, reward: Any, success: Any, found: Any) -> None:
    door.finish(reward, success)
    told = door._reward, door._info(Reply())["success"]
    assert (told, *map(type, told)) == (found, float, bool)


@pytest.mark.parametrize("success", ["False", 1, np.array([True]), [0]])
def test_success_is_true_or_false(door: Door, success: Any) -> None:
    with pytest.raises(EnvError, match="Door: success must be True, False or None, not "):
        door.finish(1.0, success)
    assert not door._over


@pytest.mark.parametrize("name", ["close", "finish", "reset", "tools", "np_random", *INHERITED])
def test_a_tool_cannot_take_a_name_of_the_environment(name: str) -> None:
    def act(self: Any) -> None:
        """Act."""

    act.__name__ = name
    with pytest.raises(ConfigError, match=f"tool {name} of Rude: that name is TextEnv's own; rename the tool"):
        type("Rude", (Door,), {name: tool(act)})


def test_a_family_is_told_by_reset_alone() -> None:
    class Doors(Door):
        def start(self) -> str:
            self.family = "oak" if self.np_random.random() < 0.5 else "steel"
            return "A door."

    doors = Doors()
    told = [doors.reset(seed=seed)[1]["family"] for seed in range(8)]
    assert set(told) == {"oak", "steel"}
    assert "family" not in doors.step(call("knock"))[4]
    assert "family" not in Door().reset(seed=0)[1]
    wrong: Any = Door()
    wrong.family = 7
    with pytest.raises(EnvError, match=r"Door\.family must be text, the name of a kind of task, not 7"):
        wrong.reset(seed=0)


def test_privileged_facts_become_plain_data() -> None:
    class Odd(Door):
        def privileged(self) -> dict[Any, Any]:
            return {
                "map": np.eye(2, dtype=int),
                "best": np.float32(0.5),
                "items": {"b", "a"},
                np.int64(3): (True, None),
            }

    env = Odd()
    plain = {"map": [[1, 0], [0, 1]], "best": 0.5, "items": ["a", "b"], 3: [True, None]}
    for info in (env.reset(seed=0)[1], env.step(call("knock"))[4]):
        assert repr(info["privileged"]) == repr(plain)  # which tells np.int64(1) from 1


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (None, r"Door\.privileged\(\) must be a dict of facts, not None"),
        (np.zeros(2), "must be a dict of facts, not array"),
        (
            {"good": 1, "bad": [b"x"]},
            r"Door\.privileged\(\): 'bad' is no plain data \(bytes has no text form\); give text",
        ),
        ({"where": {(1, 2): "x"}}, r"'where' is no plain data \(the key \(1, 2\) is neither text nor a number\)"),
    ],
)
def test_facts_that_cannot_be_kept_are_refused_by_name(facts: Any, message: str) -> None:
    class Odd(Door):
        def privileged(self) -> dict[str, Any]:
            return facts  # type: ignore[no-any-return]

    with pytest.raises(EnvError, match=message.replace("Door", "Odd")):
        Odd().reset(seed=0)


def test_a_package_that_an_environment_only_imports_is_named() -> None:
    def needy(**_: Any) -> gymnasium.Env[Any, Any]:
        importlib.import_module("no_such_package")
        raise AssertionError

    gymnasium.register("tests/Needy-v0", entry_point=needy)
    try:
        with pytest.raises(
            ConfigError, match="'tests/Needy-v0' needs another package: No module named 'no_such_package'; install"
        ):
            make("tests/Needy-v0")
    finally:
        del gymnasium.registry["tests/Needy-v0"]


def test_the_conformance_test_knows_no_unknown_id() -> None:
    with pytest.raises(ConfigError, match="no environment"):
        check_text_env("tests/Nowhere-v0")
