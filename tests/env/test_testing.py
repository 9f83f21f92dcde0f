"""The conformance test finds each kind of broken environment."""

import time
from collections.abc import Callable, Iterator

import gymnasium
import pytest
from checked_cases import (
    Arrays,
    Binary,
    Blind,
    Clumsy,
    Collecting,
    Crashing,
    Deaf,
    Dithering,
    Dumb,
    Encoded,
    Endless,
    Failing,
    Foolish,
    Generous,
    Good,
    Greedy,
    Halved,
    Hanging,
    Infinite,
    Misread,
    Mumbling,
    Noting,
    Numbered,
    Raising,
    Refusing,
    Remembering,
    Restless,
    Reused,
    Rich,
    Shared,
    Silent,
    Telling,
    Undying,
    Unmade,
    Unseeded,
    Whispering,
    Wordless,
)

from agentopd.env import TextEnv
from agentopd.errors import EnvError
from agentopd.testing import check_text_env


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
        (Failing, """reset(seed=0) must not raise; it raised KeyError: 'level' (checked_cases.py, line """),
        (Failing, """: return str(self.options["level"]))"""),
        (Misread, """Expecting value: line 1 column 1 (char 0) (checked_cases.py, line """),
        (Unmade, "making it must not raise; it raised KeyError: 'europe' (checked_cases.py, line "),
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
