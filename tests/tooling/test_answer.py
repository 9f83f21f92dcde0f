"""What tools return becomes text, and no text that leaves an environment holds half surrogates."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agentopd.env import TextEnv, expert_action, system_prompt, tools_of
from agentopd.env.wrappers import TextFace
from agentopd.errors import EnvError
from agentopd.testing import HOSTILE
from agentopd.tooling import Tool, render_action, tool
from agentopd.tooling.answer import answer, plain_data, well_formed
from agentopd.types import ToolCall


class Colour(Enum):
    RED = "red"
    MIXED = (1, 2)


class Said(StrEnum):
    YES = "yes"


@dataclass
class Place:
    name: str
    inner: Any = None


class Model(BaseModel):
    day: date
    places: list[Place]


class Bare:
    """Its text would be an address."""


LOOP: list[Any] = []
LOOP.append(LOOP)


RESULTS: list[tuple[Any, str]] = [
    (None, "ok"),
    ("", ""),
    ("True", "True"),
    (np.str_("x"), "x"),
    (True, "true"),
    (3, "3"),
    (0.1, "0.1"),
    (float("nan"), "NaN"),
    ({"a": None, "b": [True, "\u00e9"]}, '{"a": null, "b": [true, "\u00e9"]}'),
    ({1: "one"}, '{"1": "one"}'),
    ((1, "x"), '[1, "x"]'),
    ({"b", "a"}, '["a", "b"]'),
    (Counter("aab"), '{"a": 2, "b": 1}'),
    (MappingProxyType({"a": {2}}), '{"a": [2]}'),
    (Place("a", Place("b")), '{"name": "a", "inner": {"name": "b", "inner": null}}'),
    (
        Model(day=date(2024, 1, 2), places=[Place("a")]),
        '{"day": "2024-01-02", "places": [{"name": "a", "inner": null}]}',
    ),
    (np.int64(3), "3"),
    (np.bool_(True), "true"),
    (np.array([[1, 2]]), "[[1, 2]]"),
    ({"n": np.float32(0.5)}, '{"n": 0.5}'),
    (Colour.RED, "red"),
    ([Colour.RED, Said.YES, Colour.MIXED], '["red", "yes", [1, 2]]'),
    (Said.YES, "yes"),
    (Decimal("1.50"), "1.50"),
    ([Decimal("1.50"), PurePosixPath("/a")], '["1.50", "/a"]'),
    (date(2024, 1, 2), "2024-01-02"),
]


@pytest.mark.parametrize(("value", "text"), RESULTS)
def test_the_text_of_a_result(value: Any, text: str) -> None:
    assert answer(value) == text
    assert type(answer(value)) is str


@pytest.mark.parametrize(("value", "text"), RESULTS)
def test_the_text_of_plain_data_is_that_of_the_value(value: Any, text: str) -> None:
    plain = plain_data(value)
    assert answer(plain) == text
    assert all(type(part) in (str, bool, int, float, dict, list, type(None)) for part in parts_of(plain))


def parts_of(value: Any) -> list[Any]:
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value, *(part for item in inner for part in parts_of(item))]


def test_plain_data_is_fresh() -> None:
    inner = [1]
    given = {"a": (inner, inner)}
    plain = plain_data(given)
    plain["a"][0].append(2)
    assert given == {"a": ([1], [1])}
    assert plain == {"a": [[1, 2], [1]]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, {"a": b"x"}], "bytes has no text form"),
        ({(1, 2): 3}, r"the key \(1, 2\) is neither text nor a number"),
        (LOOP, "recursion"),
    ],
)
def test_what_has_no_plain_form_is_refused(value: Any, reason: str) -> None:
    with pytest.raises((TypeError, RecursionError), match=reason):
        plain_data(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"x", "bytes has no text form"),
        ([bytearray(b"x")], "bytearray has no text form"),
        (memoryview(b"x"), "memoryview has no text form"),
        (Bare(), "Bare has no text form"),
        ([Bare], "type has no text form"),
        (iter([1]), "list_iterator has no text form"),
        ({(1, 2): 3}, "keys must be str"),
        (LOOP, "Circular"),
        ({1, "a"}, "not supported between"),
        ([10**5000], "Exceeds the limit"),
    ],
)
def test_what_a_model_cannot_read_is_a_broken_environment(value: Any, reason: str) -> None:
    @tool
    def look() -> Any:
        """Look."""
        return value

    with pytest.raises(EnvError, match="tool look returned what a model cannot read") as caught:
        Tool.of(look)()
    assert reason in str(caught.value)


halves = st.integers(0xD800, 0xDFFF).map(chr)  # st.characters draws one of them once in a thousand letters
broken_text = st.lists(st.one_of(st.text(max_size=5), halves), max_size=6).map("".join)


@given(broken_text)
def test_well_formed_text(text: str) -> None:
    mended = well_formed(text)
    mended.encode()
    assert well_formed(mended) == mended
    whole = [letter for letter in text if not 0xD800 <= ord(letter) <= 0xDFFF]
    rest = iter(mended)
    assert all(letter in rest for letter in whole)  # kept, and in order
    assert mended == text or len(whole) < len(text)


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("a\u00e9\U0001f600", "a\u00e9\U0001f600"),
        ("a\ud83d\ude00b", "a\U0001f600b"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud800x", "\ufffdx"),
    ],
)
def test_halves_that_belong_together_become_one_character(text: str, mended: str) -> None:
    assert well_formed(text) == mended


class Echo(TextEnv):
    """Says everywhere what it is given."""

    def __init__(self, text: str):
        self.text = self.instructions = text

    def start(self) -> str:
        return self.text

    @tool
    def tell(self) -> dict[str, str]:
        """Tell."""
        return {"it": self.text}

    @tool
    def fail(self) -> str:
        """Fail."""
        raise ValueError(self.text)

    def respond(self, text: str) -> str:
        return self.text + text

    def expert(self) -> str:
        return render_action("", [ToolCall("tell", {"x": self.text})])

    def privileged(self) -> dict[str, Any]:
        return {"facts": [{self.text + "!": self.text}]}


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


@given(broken_text, broken_text)
def test_no_half_surrogate_leaves_an_environment(text: str, action: str) -> None:
    env = Echo(text)
    both = render_action("", [ToolCall("tell", {}), ToolCall("fail", {})])
    given_out = [env.reset(seed=0), env.step(both), env.step(action), system_prompt(env), expert_action(env)]
    for said in strings(given_out):
        said.encode()


def test_no_half_surrogate_leaves_a_tool_or_a_face() -> None:
    @tool
    def odd(text: str) -> str:
        """Odd \ud800 description."""
        return text

    class Two(gymnasium.Env[Any, Any]):
        action_space = observation_space = gymnasium.spaces.Discrete(2)

        def reset(self, **_: Any) -> tuple[int, dict[str, Any]]:
            return 0, {}

    face = TextFace(Two(), describe=lambda env, seen: "\ud800", actions=("a\ud800", "b"))
    assert Tool.of(odd).schema["function"]["description"] == "Odd \ufffd description."
    assert tools_of(face).schemas[0]["function"]["parameters"]["properties"]["action"]["enum"] == ["a\ufffd", "b"]
    assert face.reset()[0] == "\ufffd"
    assert any("\ud83d" in action for action in HOSTILE)  # so the conformance test tries it too


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), "1", None, 10**400, np.zeros(2)])
@pytest.mark.parametrize("ending", [TextEnv.finish, TextEnv.add_reward])
def test_a_reward_is_a_finite_number(ending: Callable[[TextEnv, Any], None], reward: Any) -> None:
    with pytest.raises(EnvError) as caught:
        ending(Echo("x"), reward)
    assert str(caught.value).startswith(f"Echo: a reward must be a finite number, not {reward!r:.70}")


def test_instructions_and_experts_must_give_text() -> None:
    class Dumb(Echo):
        def expert(self) -> str:
            return None  # type: ignore[return-value]

    env = Dumb("x")
    with pytest.raises(EnvError, match=r"Dumb\.expert\(\) must return an action as text"):
        expert_action(env)
    env.instructions = None  # type: ignore[assignment]
    with pytest.raises(EnvError, match="Dumb: instructions must be text, not None"):
        system_prompt(env)
