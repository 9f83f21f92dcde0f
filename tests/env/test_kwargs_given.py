"""What an environment is made with: a wrong name or value is told in one sentence, before anything is made."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest

from agentopd import TextEnv, make
from agentopd.envs import ENVS
from agentopd.errors import ConfigError


class Many(TextEnv):
    def __init__(  # type: ignore[no-untyped-def]
        self,
        count: int = 1,
        share: float = 0.5,
        fast: bool = False,
        pair: tuple[int, int] = (1, 2),
        place: "Path | None" = None,
        names: Sequence[str] = (),
        rates: Mapping[str, float] | None = None,
        way: Literal["up", "down"] = "up",
        dice: np.random.Generator | None = None,
        any: Any = None,
        untold=3,
    ):
        self.count = count


class Nothing(TextEnv):
    def start(self) -> str:
        return "."


class Open(TextEnv):
    def __init__(self, count: "Unknown" = 1, **more: int):  # type: ignore[name-defined] # noqa: F821
        self.more = more


FITS: tuple[dict[str, Any], ...] = (
    {"count": np.int64(3), "share": 1, "fast": True},
    {"pair": [1, 2], "place": "x", "names": ["a"]},
    {"place": Path("x"), "names": ("a",), "rates": {"a": 1}},
    {"way": "down", "dice": np.random.default_rng(0), "any": object(), "untold": object()},
)
WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"count": 3.0}, "Many: count=3.0 must be a whole number"),
    ({"count": True}, "Many: count=True must be a whole number"),
    ({"share": "0.5"}, "Many: share='0.5' must be a number"),
    ({"fast": "no"}, "Many: fast='no' must be true or false"),
    ({"pair": [1, 2, 3]}, "Many: pair=[1, 2, 3] must be tuple[int, int]"),
    ({"place": 3}, "Many: place=3 must be pathlib.Path or null"),
    ({"names": "abc"}, "Many: names='abc' must be a list of texts, such as [abc]"),
    ({"names": [1]}, "Many: names=[1] must be a list of texts"),
    ({"rates": {"a": "b"}}, "Many: rates={'a': 'b'} must be a mapping to numbers or null"),
    ({"way": "left"}, "Many: way='left' must be one of 'up', 'down'"),
    ({"dice": 3}, "Many: dice=3 must be numpy.random._generator.Generator or null"),
    ({"cuont": 3}, "Many takes no cuont=3 (did you mean 'count'?); it is made with: count, share, fast, pair,"),
)


@pytest.mark.parametrize("given", FITS)
def test_what_fits(given: dict[str, Any]) -> None:
    copy.deepcopy(Many(**given))


@pytest.mark.parametrize(("given", "told"), WRONG)
def test_what_does_not(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Many(**given)
    assert str(caught.value).startswith(told)


def test_in_order_and_by_name() -> None:
    assert Many(3).count == 3
    with pytest.raises(ConfigError, match="share='x' must be a number"):
        Many(3, "x")  # type: ignore[arg-type]


def test_a_class_without_a_constructor_takes_nothing() -> None:
    with pytest.raises(ConfigError, match="Nothing takes no highest=3; it is made without any"):
        Nothing(highest=3)


def test_what_cannot_be_known_is_not_checked() -> None:
    assert Open(count="x", depth="y").more == {"depth": "y"}  # type: ignore[arg-type, comparison-overlap]


@pytest.mark.parametrize(
    ("id", "kwargs", "told"),
    [
        (
            "agentopd/Mcp-v0",
            {},
            "missing 1 required positional argument: 'servers'; it is made with: servers, verifier",
        ),
        ("Taxi-v4", {"fast": 1}, "unexpected keyword argument 'fast'; it is made with: render_mode, is_rainy"),
        ("Taxi-v4", {"render_mode": 3}, "render_mode=3 must be text"),
        ("Taxi-v4", {"max_episode_steps": 0}, "max_episode_steps=0 must be a whole number of at least 1"),
        ("agentopd/Sql-v0", {"max_episode_steps": True}, "max_episode_steps=True must be a whole number"),
        ("agentopd/Sql-v0", {"tables": 9}, "environment 'agentopd/Sql-v0': tables=9 must be from 1 to 3"),
        ("agentopd/Calculator-v0", {"depth": 10**30}, "must be from 1 to 16"),
        ("agentopd/Calculator-v0", {"distractors": 10**9}, "must be from 0 to 40"),
    ],
)
def test_the_environment_is_named(id: str, kwargs: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(id, **kwargs)
    assert str(caught.value).startswith(f"environment {id!r}")
    assert told in str(caught.value)


ODD: tuple[Any, ...] = (object(), b"x", [[None]], {"a": {"b": object()}}, 2.5, "x", -1, 1e308, float("nan"), True)


@pytest.mark.parametrize("id", [id for id in ENVS if id not in ("agentopd/Bfcl-v0", "agentopd/TextWorld-v0")])
def test_no_setting_of_a_shipped_environment_fails_otherwise(id: str) -> None:
    """Each is taken, or refused by a sentence."""
    try:
        creator = gymnasium.envs.registration.load_env_creator(ENVS[id]["entry_point"])
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        pytest.skip(str(error))
    base = {"servers": {"a": {"module": "x"}}} if id == "agentopd/Mcp-v0" else {}
    for name in inspect.signature(creator).parameters:
        for value in ODD:
            with suppress(ConfigError):
                make(id, **{**base, name: value}).close()


def test_what_an_environment_of_others_refuses_is_told_in_one_sentence() -> None:
    with pytest.raises(
        ConfigError, match=r"^environment 'FrozenLake-v1' cannot be made with map_name='9x9': KeyError: '9x9'; change"
    ):
        make("FrozenLake-v1", map_name="9x9")
