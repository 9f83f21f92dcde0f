"""The conformance test finds each kind of broken environment."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from agentopd.env import TextEnv
from agentopd.env.exchange import Step
from agentopd.errors import EnvError, ToolError
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
    def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"map": np.zeros(2)}


class Encoded(Good):
    def privileged(self) -> dict[str, Any]:
        return {"where": {"capital": self.capital.encode()}}


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


class Numbered(Good):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation, info | {"family": 3}


class Rich(Good):
    """Rewards what is no number."""

    reward: Any = "high"

    def step(self, action: str) -> Step:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, self.reward, terminated, truncated, info


class Infinite(Rich):
    reward = float("nan")


class Generous(Good):
    @tool
    def look(self) -> str:
        """Look."""
        self.add_reward("high")  # type: ignore[arg-type]
        return self.capital


class Shared(Good):
    atlas: dict[str, str] = {}

    def start(self) -> str:
        first = super().start()
        self.atlas["open"] = self.capital
        return first

    @tool
    def look(self) -> str:
        """Look."""
        return self.atlas["open"]


class Remembering(Good):
    looks: list[str] = []

    @tool
    def look(self) -> str:
        """Look."""
        self.looks.append(self.capital)
        return str(len(self.looks))


class Noting(TextEnv):
    """The tool that ends it stands before the one that remembers."""

    notes: list[str] = []

    def start(self) -> str:
        return "Ready?"

    @tool
    def leave(self) -> None:
        """Leave."""
        self.finish(reward=1.0)

    @tool
    def write(self, text: str) -> str:
        """Write a note."""
        self.notes.append(text)
        return str(len(self.notes))

    def expert(self) -> str:
        return call("leave")


class Collecting(Good):
    def start(self) -> str:
        self.seen = [*getattr(self, "seen", []), super().start()]
        return " ".join(self.seen)


class Restless(Good):
    """Changes the system message in the middle of an episode."""

    @tool
    def look(self) -> str:
        """Look."""
        self.instructions = f"It is {self.capital}."
        return self.capital


class Wordless(Good):
    instructions = None  # type: ignore[assignment]


class Dithering(Good):
    """Its expert draws from the environment's own generator."""

    def expert(self) -> str:
        return call("name" if self.np_random.random() < 0.9 else "look", capital=self.capital)


class Dumb(Good):
    def expert(self) -> str:
        return None  # type: ignore[return-value]


class Clumsy(Good):
    def expert(self) -> str:
        return call("nam", capital=self.capital)


class Binary(Good):
    @tool
    def look(self) -> Any:
        """Look."""
        return self.capital.encode()


class Halved(Good):
    def step(self, action: str) -> Step:
        _, reward, terminated, truncated, info = super().step(action)
        return "\ud800", reward, terminated, truncated, info


class Failing(Good):
    def start(self) -> str:
        return str(self.options["level"])


class Misread(Good):
    def start(self) -> str:
        return str(json.loads("Bonn"))


class Unmade(Good):
    def __init__(self) -> None:
        self.maps = dict[str, int]()["europe"]


class Hanging(Good):
    """Waits where it is told to."""

    where = ""

    def start(self) -> str:
        return self._wait("start") or super().start()

    @tool
    def look(self) -> str:
        """Look."""
        return self._wait("look") or self.capital

    def expert(self) -> str:
        return self._wait("expert") or super().expert()

    def _wait(self, where: str) -> str:
        time.sleep(3.0 if where == self.where else 0.0)
        return ""


class Greedy(Good):
    """Its tool changes the arguments it was given, and its default; that harms nobody."""

    @tool
    def mark(self, places: list[str] = []) -> str:  # noqa: B006
        """Mark places."""
        places.append("here")
        return str(len(places))


class Crashing(Good):
    """Its expert never meets the defect of its tool."""

    @tool
    def zoom(self, place: str) -> int:
        """Zoom in."""
        return {"Oslo": 59}[place]


class Refusing(Good):
    @tool
    def zoom(self, place: str) -> int:
        """Zoom in."""
        raise ToolError("no such place")


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


@pytest.mark.filterwarnings("ignore:.*reward")
@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (Telling, "privileged facts must not be told"),
        (Whispering, "privileged facts must not be told"),
        (Raising, "step('') (seed 0, turn 1) must not raise; it raised ValueError: invalid literal"),
        (Unseeded, "the same seed and actions must give the same steps"),
        (Arrays, "info['map'] must be plain data"),
        (Encoded, "Encoded.privileged(): 'where' is no plain data (bytes has no text form); give text"),
        (Reused, "info must be fresh data"),
        (Foolish, "the expert must succeed on most seeds; it succeeded on 0% of 20"),
        (Foolish, """seed 0, turn 1: '<tool_call> {"name": "name", "arguments": {"capital": "Bonn"}} </tool_call>'"""),
        (Foolish, "was answered 'ok', the last of 1 turns"),
        (Clumsy, "seed 0, turn 1: "),
        (Clumsy, """was answered "unknown tool 'nam'; tools: look, name" (unknown_tool)"""),
        (Numbered, "info['family'] must be text; seed 0, turn 0 gave 3"),
        (Rich, "a reward must be a finite number; seed 0, turn 1 gave 'high'"),
        (Infinite, "a reward must be a finite number; seed 0, turn 1 gave nan"),
        (Generous, "Generous: a reward must be a finite number, not 'high'"),
        (Shared, "instances must share nothing"),
        (Remembering, "nothing kept from before"),
        (Noting, "nothing kept from before"),
        (Collecting, "reset must begin anew (set in start() all that an episode changes)"),
        (Restless, "the system message must stay the same during an episode"),
        (Wordless, "instructions must be text, not None"),
        (Dithering, "expert() must change nothing"),
        (Dumb, "Dumb.expert() must return an action as text (see agentopd.call), not None"),
        (Crashing, "a tool must not crash, whatever it is called with"),
        (Crashing, """ was answered "zoom: KeyError: """),
        (Binary, "tool look returned what a model cannot read (bytes has no text form)"),
        (Halved, "an observation must not hold half surrogates"),
        (Failing, """reset(seed=0) must not raise; it raised KeyError: 'level' (test_testing.py, line """),
        (Failing, """: return str(self.options["level"]))"""),
        (Misread, """Expecting value: line 1 column 1 (char 0) (test_testing.py, line """),
        (Unmade, "making it must not raise; it raised KeyError: 'europe' (test_testing.py, line "),
        (Mumbling, "the expert must write canonical actions"),
        (Endless, "the expert must succeed on most seeds"),
        (Silent, "must say what the observation says"),
        (Undying, "step after the end must raise"),
        (Blind, "a malformed call must be counted"),
        (Deaf, "gymnasium's check_env must not raise; it raised AssertionError"),
    ],
)
def test_a_broken_environment_is_named(
    register: Callable[[type[TextEnv]], str], kind: type[TextEnv], rule: str
) -> None:
    with pytest.raises(EnvError, match=r"^tests/Broken-v0: ") as caught:
        check_text_env(register(kind))
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("where", "call_"),
    [
        ("start", "reset(seed=0)"),
        ("look", """step('<tool_call> {"name": "look", "arguments": {}} </tool_call>') (seed 0, turn 1)"""),
        ("expert", "expert() (seed 0, turn 1)"),
    ],
)
def test_a_hanging_environment_does_not_hang_the_check(
    register: Callable[[type[TextEnv]], str], monkeypatch: pytest.MonkeyPatch, where: str, call_: str
) -> None:
    monkeypatch.setattr(Hanging, "where", where)
    begin = time.monotonic()
    with pytest.raises(EnvError) as caught:
        check_text_env(register(Hanging), time_limit=0.1)
    assert time.monotonic() - begin < 1.0
    assert f"{call_} must end within 0.1 s" in str(caught.value)


class Varied(Good):
    def start(self) -> str:
        self.instructions = f"Look {self.np_random.integers(1, 9)} times."
        return super().start()


@pytest.mark.parametrize("kind", [Greedy, Refusing, Varied])
def test_what_is_allowed_passes(register: Callable[[type[TextEnv]], str], kind: type[TextEnv]) -> None:
    assert check_text_env(register(kind)).expert_rate == 1.0


def test_what_the_check_makes_it_closes(register: Callable[[type[TextEnv]], str]) -> None:
    class Held(Good):
        def __init__(self) -> None:
            held.append(self)

        def close(self) -> None:
            held[:] = [each for each in held if each is not self]

    held: list[Held] = []
    check_text_env(register(Held))
    assert not held
