"""The conformance test finds each kind of broken environment."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from agentopd.env import TextEnv
from agentopd.errors import ConfigError, EnvError
from agentopd.exchange import Step
from agentopd.testing import check_text_env
from agentopd.tooling import call, tool


class Good(TextEnv):
    """Name the capital that `look` tells."""

    def start(self) -> str:
        self.capital = ("Paris", "Oslo", "Rome")[self.np_random.integers(3)]
        return "Which?"

    @tool
    def look(self) -> str:
        """Look at the map."""
        return self.capital

    @tool
    def name(self, capital: str) -> None:
        """Name it."""
        self.finish(reward=float(capital == self.capital))

    def expert(self) -> str:
        return call("name", capital=self.capital)

    def privileged(self) -> dict[str, Any]:
        return {"capital": self.capital}


class Telling(Good):
    def start(self) -> str:
        super().start()
        return f"Is it {self.capital}?"


class Whispering(Good):
    def respond(self, text: str) -> str:
        return f"Not a call. {self.capital}."


class Raising(Good):
    def respond(self, text: str) -> str:
        return str(int(text))


class Unseeded(Good):
    def start(self) -> str:
        self.capital = ("Paris", "Oslo", "Rome")[np.random.default_rng().integers(3)]
        return "Which?"


class Arrays(Good):
    def privileged(self) -> dict[str, Any]:
        return {"capital": np.zeros(2)}


class Reused(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self.log: list[str] = []
        return observation, info

    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        self.log += info["errors"]
        return observation, reward, terminated, truncated, info | {"log": self.log}


class Foolish(Good):
    def expert(self) -> str:
        return call("name", capital="Bonn")


class Mumbling(Good):
    def expert(self) -> str:
        return "<tool_call>name</tool_call>"


class Endless(Good):
    def expert(self) -> str:
        return call("look")


class Silent(Good):
    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"messages": []}


class Undying(Good):
    def step(self, action: str) -> Step:
        if self._over:
            return "", 0.0, True, False, {}
        return super().step(action)


class Blind(Good):
    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"errors": []}


class Deaf(Good):
    """Passes everything of ours, but not Gymnasium's."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return super().reset(seed=123 if seed == 456 else seed, options=options)


@pytest.fixture
def register() -> Iterator[Callable[[type[TextEnv]], str]]:
    def add(kind: type[TextEnv]) -> str:
        gymnasium.register("tests/Broken-v0", entry_point=kind, max_episode_steps=6)
        return "tests/Broken-v0"

    yield add
    gymnasium.registry.pop("tests/Broken-v0", None)


def test_a_good_environment_passes(register: Callable[[type[TextEnv]], str]) -> None:
    report = check_text_env(register(Good))
    assert (report.expert_rate, report.expert_turns, report.turn_limit) == (1.0, 1.0, 6)
    assert report.tools == ("look", "name")


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (Telling, "privileged facts must not be told"),
        (Whispering, "privileged facts must not be told"),
        (Raising, "no action may raise; '' raised ValueError"),
        (Unseeded, "the same seed and actions must give the same steps"),
        (Arrays, "info must be plain data"),
        (Reused, "info must be fresh data"),
        (Foolish, "the expert must succeed on most seeds; it succeeded on 0% of 20"),
        (Mumbling, "the expert must write canonical actions"),
        (Endless, "the expert must succeed on most seeds"),
        (Silent, "must say what the observation says"),
        (Undying, "step after the end must raise"),
        (Blind, "a malformed call must be counted"),
        (Deaf, "gymnasium's check_env must pass"),
    ],
)
def test_a_broken_environment_is_named(
    register: Callable[[type[TextEnv]], str], kind: type[TextEnv], rule: str
) -> None:
    with pytest.raises(EnvError) as caught:
        check_text_env(register(kind))
    assert str(caught.value).startswith("tests/Broken-v0: ")
    assert rule in str(caught.value)


def test_an_unknown_id_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no environment"):
        check_text_env("tests/Nowhere-v0")
