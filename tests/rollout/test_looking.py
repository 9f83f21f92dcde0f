"""Looking at environments whose constructor or ``close`` hangs or raises."""

import time
from typing import Any

import gymnasium
import pytest

from agentopd.env import TextSpace
from agentopd.errors import ConfigError, EnvError
from agentopd.rollout import EnvConfig
from agentopd.rollout.looking import look_at


class Odd(gymnasium.Env[str, str]):
    observation_space = action_space = TextSpace()

    def __init__(self, made: str = "", closed: str = "") -> None:
        self.closed = closed
        _do(made)

    def close(self) -> None:
        _do(self.closed)


def _do(what: str) -> None:
    if what == "hang":
        time.sleep(5)
    if what == "raise":
        raise RuntimeError("no")


@pytest.fixture(autouse=True)
def registered() -> None:
    gymnasium.register("me/Odd-v0", entry_point=lambda **kwargs: Odd(**kwargs))


def look(**kwargs: Any) -> str:
    return look_at(EnvConfig(id="me/Odd-v0", kwargs=kwargs), lambda env: type(env.unwrapped).__name__, time_limit=0.5)


@pytest.mark.parametrize("closed", ["", "hang", "raise"])
def test_a_look_does_not_wait_for_close(closed: str) -> None:
    begin = time.monotonic()
    assert look(closed=closed) == "Odd"
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize(("made", "message"), [("hang", "longer than time_limit=0.5 s"), ("raise", "RuntimeError: no")])
def test_a_constructor_that_hangs_or_raises_is_one_error(made: str, message: str) -> None:
    with pytest.raises(EnvError, match=f"me/Odd-v0 cannot be made: .*{message}"):
        look(made=made)


def test_an_unknown_environment_stays_a_config_error() -> None:
    with pytest.raises(ConfigError, match="me/Even-v0"):
        look_at(EnvConfig(id="me/Even-v0"), str, time_limit=0.5)
